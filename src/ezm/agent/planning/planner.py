"""Planning with the world model: from latent states to searched actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ezm.agent.planning.candidates import Candidates, root_candidates, sampled
from ezm.agent.planning.mppi import mppi
from ezm.agent.planning.search import LatentModel, Propose, SearchResult, gumbel_search
from ezm.agent.world_model import Context, Gaussian, WorldModel
from ezm.config import PlannerConfig

_MOST_ROOTS, _FEWEST_ROOTS = 128, 32
"""Bounds on the roots of one part, where a batch is searched in parts."""


class Plan(NamedTuple):
    """A search and the network's own predictions at its root."""

    search: SearchResult
    policy: Gaussian
    value: Float[Array, " batch"]


def per_node(tree: Any, nodes: int) -> Any:
    """Repeats arrays (B, ...) for some nodes of each root: (B, nodes, ...)."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (len(x), nodes, *x.shape[1:])), tree)


def latent_model(
    model: WorldModel, context: Context, discount: Float[Array, " batch"], config: PlannerConfig
) -> LatentModel:
    """Returns the world model in the search's interface, for one batch of roots.

    The value of a node is the return of ``config.leaf_rollout`` imagined steps along the policy's mean, then the
    network's value.
    """

    def step(latent: Array, action: Array) -> tuple[Array, Array, Array]:
        latent, reward = model.step(latent, action, per_node(context, latent.shape[1]))
        return latent, model.reward(reward), jnp.broadcast_to(discount[:, None], reward.shape[:-1])

    def predict(latent: Array) -> tuple[Array, Propose]:
        values, first = model.predict(latent, per_node(context, latent.shape[1]))

        def propose(key: PRNGKeyArray) -> Candidates:
            num, include_mean = config.interior_actions, config.include_mean
            spread: Any = 1.0
            if config.interior_spread != 1.0:
                plain = jnp.arange(num) < (num + 1) // 2
                spread = jnp.where(plain, 1.0, config.interior_spread)
            return sampled(key, first, num, spread, include_mean=include_mean)

        policy = first
        total, factor = jnp.zeros(latent.shape[:2]), jnp.ones(())
        for _ in range(config.leaf_rollout):
            latent, reward, gamma = step(latent, policy.mode())
            total, factor = total + factor * reward, factor * gamma
            values, policy = model.predict(latent, per_node(context, latent.shape[1]))
        return total + factor * model.value(values), propose

    return LatentModel(step, predict)


def expanded_value(
    model: WorldModel,
    latent: Float[Array, "states batch latent"],
    context: Context,
    discount: Float[Array, " batch"],
    steps: int,
) -> Float[Array, "states batch"]:
    """Returns the imagined return along the policy's mean: ``steps`` rewards, then the network's value.

    This is model-based value expansion (Feinberg et al. 2018). An n-step return evaluates the policy that collected the
    data. The imagined return evaluates the present policy.
    """
    along_mean = latent_model(model, context, discount, PlannerConfig(leaf_rollout=steps))
    return along_mean.predict(latent.swapaxes(0, 1))[0].swapaxes(0, 1)


def refined(
    q: Callable[[Array, Array, Context], Array],
    latent: Float[Array, "batch latent"],
    context: Context,
    policy: Gaussian,
    actions: Float[Array, "batch R action"],
    step: float,
) -> Float[Array, "batch R action"]:
    """Returns the actions after one step up the gradient of Q(s, a), taken before the tanh.

    In units of the policy's standard deviation, the step follows the gradient, and its root mean square over the
    dimensions is ``step``. It is sqrt(A) times as far as a sample lies in the best direction.
    """
    latents, contexts, policies = per_node((latent, context, policy), actions.shape[1])
    raw, std = jnp.arctanh(actions), jnp.exp(policies.log_std) * policies.mask

    def total(raw: Array) -> Array:
        return q(latents, policies.squash(raw), contexts).sum()

    direction = jax.grad(total)(raw) * std
    size = jnp.sqrt(
        jnp.square(direction).sum(-1, keepdims=True) / policies.mask.sum(-1, keepdims=True)
    )
    return policies.squash(raw + step * std * direction / jnp.maximum(size, 1e-8))


def plan(
    key: PRNGKeyArray,
    model: WorldModel,
    latent: Float[Array, "batch latent"],
    context: Context,
    discount: Float[Array, " batch"],
    config: PlannerConfig,
    *,
    tree_model: WorldModel | None = None,
    warm_start: Float[Array, "batch action"] | None = None,
    sharding: jax.sharding.Sharding | None = None,
    search: Callable[..., SearchResult] = gumbel_search,
) -> Plan:
    """Samples root actions from the policy, after ``config.mppi.rounds`` rounds of MPPI, and searches among them.

    Args:
        key: draws the value heads, the actions and the search's samples.
        model: gives the policy and the value at the root.
        latent: the roots.
        context: of each root.
        discount: of each root.
        config: of the planner.
        tree_model: replaces ``model`` inside the tree, for example in lower precision.
        warm_start: replaces the second sample, for example by the next action of the previous plan. Elements that are nan
            keep the sample.
        sharding: each of its devices searches a part of the roots.
        search: another function with the arguments of :func:`ezm.agent.planning.gumbel_search`.
    """
    k_heads, k_actions, k_search = jax.random.split(key, 3)
    model = model.with_two_heads(k_heads)
    values, policy = model.predict(latent, context)
    inside = model if tree_model is None else tree_model.with_two_heads(k_heads)

    def better(
        key: PRNGKeyArray, latent: Array, policy: Gaussian, context: Context, discount: Array
    ) -> Gaussian:
        leaves = latent_model(inside, context, discount, config)

        def value_of(actions: Array) -> Array:
            after, reward, factor = leaves.step(per_node(latent, actions.shape[1]), actions)
            return reward + factor * leaves.predict(after)[0]

        return mppi(key, policy, value_of, config)

    def searched(
        key: PRNGKeyArray,
        latent: Array,
        root: Candidates,
        value: Array,
        context: Context,
        discount: Array,
    ) -> SearchResult:
        nodes = latent_model(inside, context, discount, config)
        return search(key, nodes, latent, root, value, config)

    proposal = policy
    if config.mppi.rounds:
        k_mppi = jax.random.fold_in(k_actions, 1)
        proposal = _in_parts(better, k_mppi, (latent, policy, context, discount), sharding)
    root = root_candidates(k_actions, proposal, config)
    if config.refine.actions:
        last = root.actions[:, -config.refine.actions :]
        climbed = refined(model.q, latent, context, policy, last, config.refine.step)
        root = root._replace(actions=root.actions.at[:, -config.refine.actions :].set(climbed))
    if warm_start is not None:
        slot = min(1, config.root_actions - 1)  # the first may be the policy's mean
        second = jnp.where(jnp.isnan(warm_start), root.actions[:, slot], warm_start)
        root = root._replace(actions=root.actions.at[:, slot].set(second))
    value = model.value(values)
    found = _in_parts(searched, k_search, (latent, root, value, context, discount), sharding)
    return Plan(found, policy, value)


def _in_parts(
    function: Callable[..., Any],
    key: PRNGKeyArray,
    roots: tuple[Any, ...],
    sharding: jax.sharding.Sharding | None,
) -> Any:
    """Returns ``function(key, *roots)``, computed for :func:`roots_at_once` roots of the batch at a time."""

    def on_devices(key: PRNGKeyArray, roots: tuple[Any, ...]) -> Any:
        if sharding is not None:
            roots = jax.lax.with_sharding_constraint(roots, sharding)
        return function(key, *roots)

    batch = len(jax.tree.leaves(roots)[0])
    at_once = roots_at_once(batch, jax.default_backend())
    if at_once == batch:
        return on_devices(key, roots)
    keys = jax.random.split(key, batch // at_once)
    parts = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), roots)
    found = jax.lax.map(lambda part: on_devices(*part), (keys, parts))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def roots_at_once(batch: int, backend: str) -> int:
    """Returns how many roots of a batch are searched together, a divisor of the batch.

    On a CPU, the nodes of more than some hundred roots do not fit its caches. With a 15M model, 768 roots took 1.87 s
    in one part and 1.66 s in parts of 128 (two cores of an Intel Xeon).
    """
    if backend != "cpu" or batch <= _MOST_ROOTS:
        return batch
    return next((n for n in range(_MOST_ROOTS, _FEWEST_ROOTS - 1, -1) if batch % n == 0), batch)


def log_importance(
    policy: Gaussian, actions: Float[Array, "batch K action"], config: PlannerConfig
) -> Float[Array, "batch K"]:
    """Returns log pi(a) - log beta(a) per action dimension, where beta is the mixture that the root samples from."""
    narrow = jax.tree.map(lambda x: x[:, None], policy)
    wide = eqx.tree_at(lambda p: p.log_std, narrow, narrow.log_std + jnp.log(config.spread))
    share = config.policy_actions / config.root_actions
    log_pi, log_wide = narrow.log_prob(actions), wide.log_prob(actions)
    log_beta = jnp.logaddexp(jnp.log(share) + log_pi, jnp.log1p(-share) + log_wide)
    return (log_pi - log_beta) / jnp.maximum(policy.mask.sum(-1, keepdims=True), 1.0)
