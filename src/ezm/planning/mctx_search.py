"""The same search by mctx, the field's reference implementation: one model call per simulation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.config import PlannerConfig
from ezm.planning.search import LatentModel, SearchResult, complete_q, sigma

_NO_ACTION = -1e9  # prior logit of an action slot that does not exist at a node


def _q_transform(tree: mctx.Tree, node: Any, config: PlannerConfig) -> Float[Array, " K"]:
    """sigma of the completed Q-values over the node's own actions.

    Unlike mctx's default transform, slots without an action take no part in the rescaling.
    """
    exists = tree.children_prior_logits[node] > 0.5 * _NO_ACTION
    visits, q = tree.children_visits[node], tree.qvalues(node)
    completed = complete_q(q, visits, tree.raw_values[node])
    # Doubles of an existing action change neither minimum nor maximum.
    completed = jnp.where(exists, completed, completed[0])
    return jnp.where(exists, sigma(completed, visits, config), 0.0)


def mctx_search(
    key: PRNGKeyArray,
    model: LatentModel,
    state: Any,
    actions: Float[Array, "batch K action"],
    value: Float[Array, " batch"],
    config: PlannerConfig,
) -> SearchResult:
    """As :func:`ezm.planning.search.gumbel_search`, computed by ``mctx.gumbel_muzero_policy``."""
    batch, num, _ = actions.shape
    interior = jnp.where(jnp.arange(num) < config.interior_actions, 0.0, _NO_ACTION)

    def recurrent(
        _: Any, key: PRNGKeyArray, slot: Int[Array, " batch"], embedding: tuple[Any, Array]
    ) -> tuple[mctx.RecurrentFnOutput, tuple[Any, Array]]:
        state, actions = embedding
        action = jnp.take_along_axis(actions, slot[:, None, None], axis=1)
        node = jax.tree.map(lambda x: x[:, None], state)
        node, reward, discount = model.step(node, action)
        value, policy = model.predict(node)
        inside = policy.sample(key, config.interior_actions)
        if config.include_mean:
            inside = inside.at[..., 0, :].set(policy.mode())
        actions = jnp.zeros_like(actions).at[:, : config.interior_actions].set(inside[:, 0])
        output = mctx.RecurrentFnOutput(
            reward=reward[:, 0],
            discount=discount[:, 0],
            prior_logits=jnp.broadcast_to(interior, (batch, num)).astype(value.dtype),
            value=value[:, 0],
        )
        return output, (jax.tree.map(lambda x: x[:, 0], node), actions)

    output = mctx.gumbel_muzero_policy(
        params=(),
        rng_key=key,
        root=mctx.RootFnOutput(
            prior_logits=jnp.zeros((batch, num), value.dtype),
            value=value,
            embedding=(state, actions),
        ),
        recurrent_fn=recurrent,
        num_simulations=config.simulations,
        max_num_considered_actions=num,
        gumbel_scale=0.0,
        qtransform=lambda tree, node: _q_transform(tree, node, config),
    )
    tree = output.search_tree
    summary = tree.summary()
    return SearchResult(
        action=jnp.take_along_axis(actions, output.action[:, None, None], axis=1)[:, 0],
        actions=actions,
        policy=output.action_weights,
        q_values=complete_q(summary.qvalues, summary.visit_counts, value),
        value=summary.value,
        visits=summary.visit_counts,
    )
