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


class Start(NamedTuple):
    """All that a search begins with, whichever program searches."""

    key: PRNGKeyArray
    """For the search's own samples."""
    inside: WorldModel
    """The model inside the tree."""
    candidates: Candidates
    policy: Gaussian
    value: Float[Array, " batch"]


def latent_model(
    model: WorldModel,
    context: Context,
    discount: Float[Array, " batch"],
    config: PlannerConfig,
) -> LatentModel:
    """Returns the world model in the search's interface, for one batch of roots.

    The value of a node is the return of ``config.leaf_rollout`` imagined steps along the policy's mean, then the
    network's value.
    """

    def nodes(latent: Array) -> Context:
        shape = latent.shape[:2]
        return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (*shape, x.shape[-1])), context)

    def step(latent: Array, action: Array) -> tuple[Array, Array, Array]:
        latent, reward = model.step(latent, action, nodes(latent))
        return latent, model.reward(reward), jnp.broadcast_to(discount[:, None], reward.shape[:-1])

    def predict(latent: Array) -> tuple[Array, Propose]:
        values, first = model.predict(latent, nodes(latent))

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
            values, policy = model.predict(latent, nodes(latent))
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
    latents, contexts, policies = (
        jax.tree.map(
            lambda x: jnp.broadcast_to(x[:, None], (*actions.shape[:2], x.shape[-1])), tree
        )
        for tree in (latent, context, policy)
    )
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
    """
    begun = start(
        key,
        model,
        latent,
        context,
        discount,
        config,
        tree_model=tree_model,
        warm_start=warm_start,
        sharding=sharding,
    )

    def searched(key: PRNGKeyArray, roots: Any) -> SearchResult:
        latent, root, value, context, discount = _on_devices(roots, sharding)
        return gumbel_search(
            key, latent_model(begun.inside, context, discount, config), latent, root, value, config
        )

    roots = latent, begun.candidates, begun.value, context, discount
    return Plan(_in_parts(searched, begun.key, roots), begun.policy, begun.value)


def start(
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
) -> Start:
    """Returns what :func:`plan`, with the same arguments, gives to the search."""
    k_heads, k_actions, k_search = jax.random.split(key, 3)
    model = model.with_two_heads(k_heads)
    values, policy = model.predict(latent, context)
    inside = model if tree_model is None else tree_model.with_two_heads(k_heads)
    proposal = policy
    if config.mppi.rounds:

        def better(key: PRNGKeyArray, roots: Any) -> Gaussian:
            latent, policy, context, discount = _on_devices(roots, sharding)
            leaves = latent_model(inside, context, discount, config)

            def value_of(actions: Array) -> Array:
                shape = *actions.shape[:2], latent.shape[-1]
                states = jnp.broadcast_to(latent[:, None], shape)
                after, reward, factor = leaves.step(states, actions)
                return reward + factor * leaves.predict(after)[0]

            return mppi(key, policy, value_of, config)

        k_mppi = jax.random.fold_in(k_actions, 1)
        proposal = _in_parts(better, k_mppi, (latent, policy, context, discount))
    root = root_candidates(k_actions, proposal, config)
    if config.refine.actions:
        last = root.actions[:, -config.refine.actions :]
        climbed = refined(model.q, latent, context, policy, last, config.refine.step)
        root = root._replace(actions=root.actions.at[:, -config.refine.actions :].set(climbed))
    if warm_start is not None:
        slot = min(1, config.root_actions - 1)  # the first may be the policy's mean
        second = jnp.where(jnp.isnan(warm_start), root.actions[:, slot], warm_start)
        root = root._replace(actions=root.actions.at[:, slot].set(second))
    return Start(k_search, inside, root, policy, model.value(values))


def _on_devices(roots: Any, sharding: jax.sharding.Sharding | None) -> Any:
    return roots if sharding is None else jax.lax.with_sharding_constraint(roots, sharding)


def _in_parts(function: Callable[[PRNGKeyArray, Any], Any], key: PRNGKeyArray, roots: Any) -> Any:
    """Returns ``function(key, roots)``, computed for :func:`roots_at_once` roots of the batch at a time."""
    batch = len(jax.tree.leaves(roots)[0])
    at_once = roots_at_once(batch, jax.default_backend())
    if at_once == batch:
        return function(key, roots)
    keys = jax.random.split(key, batch // at_once)
    parts = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), roots)
    found = jax.lax.map(lambda part: function(*part), (keys, parts))
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
