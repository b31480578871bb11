"""The search by mctx, the field's reference implementation, with one model call per simulation.

It is the oracle of the library's own search. Tests compare the results, and benchmarks compare the times.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.agent.learning import Learner
from ezm.agent.planning import plan
from ezm.agent.planning.candidates import NO_ACTION, Candidates, exists
from ezm.agent.planning.search import LatentModel, QTransform, SearchResult, complete_q, sigma
from ezm.agent.search_policy import SearchPolicy
from ezm.config import PlannerConfig


def mctx_search(
    key: PRNGKeyArray,
    model: LatentModel,
    state: Any,
    root: Candidates,
    value: Float[Array, " batch"],
    config: PlannerConfig,
    *,
    transform: QTransform = sigma,
) -> SearchResult:
    """Computes :func:`ezm.agent.planning.search.gumbel_search` by ``mctx.gumbel_muzero_policy``.

    Unlike mctx's default transform, slots without an action take no part in the rescaling. The root's noise equals our
    search's noise if no node inside the tree has more candidates than the root.
    """
    batch, num, size = root.actions.shape
    inside = jax.eval_shape(lambda: _nodes(model.predict, state)[1](key)).logits.shape[-1]
    slots = max(num, inside)
    wide = root.padded(slots, size)

    def q_transform(tree: mctx.Tree, node: Any) -> Float[Array, " slots"]:
        logits, visits = tree.children_prior_logits[node], tree.children_visits[node]
        q = complete_q(tree.qvalues(node), visits, tree.raw_values[node], logits)
        return jnp.where(exists(logits), transform(q, visits, exists(logits), config), 0.0)

    def recurrent(
        _: Any, key: PRNGKeyArray, slot: Int[Array, " batch"], embedding: tuple[Any, Array]
    ) -> tuple[mctx.RecurrentFnOutput, tuple[Any, Array]]:
        state, actions = embedding
        action = jnp.take_along_axis(actions, slot[:, None, None], axis=1)
        node, reward, discount = model.step(jax.tree.map(lambda x: x[:, None], state), action)
        value, propose = model.predict(node)
        proposed = propose(key).padded(slots, size)
        output = mctx.RecurrentFnOutput(
            reward=reward[:, 0],
            discount=discount[:, 0],
            prior_logits=jnp.maximum(proposed.logits[:, 0], NO_ACTION),
            value=value[:, 0],
        )
        return output, (jax.tree.map(lambda x: x[:, 0], node), proposed.actions[:, 0])

    output = mctx.gumbel_muzero_policy(
        params=(),
        rng_key=key,
        root=mctx.RootFnOutput(
            prior_logits=jnp.maximum(wide.logits, NO_ACTION).astype(value.dtype),
            value=value,
            embedding=(state, wide.actions),
        ),
        recurrent_fn=recurrent,
        num_simulations=config.simulations,
        invalid_actions=~wide.exists,
        max_num_considered_actions=config.considered(num),
        gumbel_scale=config.gumbel_scale,
        qtransform=q_transform,
    )
    tree = output.search_tree
    summary = tree.summary()
    q, visits = summary.qvalues[:, :num], summary.visit_counts[:, :num].astype(jnp.int32)
    rows = jnp.arange(batch)
    action = root.actions[rows, output.action]
    node = tree.children_index[:, 0][rows, output.action]
    below = tree.children_visits[rows, node]
    next_action = tree.embeddings[1][rows, node, below.argmax(-1)]
    return SearchResult(
        action=action,
        actions=root.actions,
        policy=output.action_weights[:, :num],
        q_values=complete_q(q, visits, value, root.logits),
        value=summary.value,
        visits=visits,
        next_action=jnp.where(below.any(-1)[:, None], next_action, action),
    )


mctx_plan = partial(plan, search=mctx_search)
"""Computes :func:`ezm.agent.planning.plan` by mctx, from the same candidates and in the same parts of a batch."""


class MctxPolicy(SearchPolicy):
    """Acts by searches of mctx."""

    plan_from = staticmethod(mctx_plan)


class MctxLearner(Learner):
    """A learner whose targets come from searches by mctx."""

    @property
    def policy(self) -> SearchPolicy:
        return MctxPolicy(self.suite, self.config)


def _nodes(function: Any, state: Any) -> Any:
    """Calls a function of nodes on one node of each root."""
    return function(jax.tree.map(lambda x: x[:, None], state))
