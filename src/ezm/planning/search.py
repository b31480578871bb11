"""Gumbel search over sampled actions, on any latent model (paper, section 3).

Root: K sampled actions with a uniform prior, Sequential Halving (Danihelka et al. 2022, "Policy improvement by
planning with Gumbel"). Inside the tree: a few sampled actions a node, chosen by completed Q-values.

The simulations of one round of Sequential Halving pass through *different* root actions, so their subtrees are
disjoint, and Q is rescaled by each node's own range: they are independent. A round is therefore one batched model
call: K=16, N=32 takes four calls (16, 8, 4 and 4 root actions) instead of 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.config import PlannerConfig


class SampledPolicy(Protocol):
    """What the search needs of a policy over actions: see ``ezm.world_model.Gaussian``."""

    def mode(self) -> Float[Array, "*batch action"]:
        """The action without noise."""
        ...

    def sample(self, key: PRNGKeyArray, num: int, spread: Any = 1.0) -> Array:
        """``num`` actions, shape (*batch, num, action)."""
        ...


class LatentModel(NamedTuple):
    """A model to plan with. ``state`` is any pytree of arrays with batch axes (B, M): M nodes of each of B roots."""

    step: Callable[[Any, Array], tuple[Any, Array, Array]]
    """``step(state, action (B, M, A)) -> next state, reward (B, M), discount (B, M)``; discount 0: episode over."""
    predict: Callable[[Any], tuple[Array, SampledPolicy]]
    """``predict(state) -> value (B, M), policy``."""


class SearchResult(NamedTuple):
    """What a search returns, for B roots with K sampled actions each."""

    action: Float[Array, "batch action"]
    """The best action found."""
    actions: Float[Array, "batch K action"]
    """The sampled root actions."""
    policy: Float[Array, "batch K"]
    """The improved policy over them: softmax of the transformed, completed Q-values."""
    q_values: Float[Array, "batch K"]
    """Search value of each root action; the mixed root value where it was never visited."""
    value: Float[Array, " batch"]
    """Search value of the root: mean of the network's value and all simulations' returns."""
    visits: Int[Array, "batch K"]


def sample_actions(
    key: PRNGKeyArray, policy: SampledPolicy, config: PlannerConfig
) -> Float[Array, "*batch K action"]:
    """The root's candidates: some from the policy, the others from it with a widened spread."""
    wide = config.root_actions - config.policy_actions
    spread = jnp.array([1.0] * config.policy_actions + [config.spread] * wide)
    actions = policy.sample(key, config.root_actions, spread)
    return actions.at[..., 0, :].set(policy.mode()) if config.include_mean else actions


def rounds(actions: int, simulations: int) -> list[int]:
    """Root actions visited in each round of Sequential Halving; sums to ``simulations``.

    Each phase halves the survivors (never below 2) and gets an equal part of the simulations, at least one a
    survivor. Known value: 16 actions, 32 simulations give [16, 8, 4, 4].
    """
    if actions == 1:
        return [1] * simulations
    phases = math.ceil(math.log2(actions))
    sizes: list[int] = []
    survivors = actions
    while sum(sizes) < simulations:
        visits = max(1, simulations // (phases * survivors))
        for _ in range(visits):
            sizes.append(min(survivors, simulations - sum(sizes)))
            if sum(sizes) == simulations:
                break
        survivors = max(2, survivors // 2)
    return sizes


def complete_q(
    q: Float[Array, "*batch K"],
    visits: Int[Array, "*batch K"],
    raw_value: Float[Array, "*batch"],
) -> Float[Array, "*batch K"]:
    """Give unvisited actions the mixed value (Danihelka et al. 2022, appendix D), for a uniform prior."""
    seen = visits > 0
    mean_q = jnp.where(seen, q, 0.0).sum(-1) / jnp.maximum(seen.sum(-1), 1)
    total = visits.sum(-1)
    mixed = (raw_value + total * mean_q) / (total + 1)
    return jnp.where(seen, q, mixed[..., None])


def sigma(
    q: Float[Array, "*batch K"], visits: Int[Array, "*batch K"], config: PlannerConfig
) -> Float[Array, "*batch K"]:
    """(c_visit + max visits) c_scale q, with completed q rescaled to [0, 1] by the node's own range."""
    low, high = q.min(-1, keepdims=True), q.max(-1, keepdims=True)
    rescaled = (q - low) / jnp.maximum(high - low, 1e-8)
    return (config.c_visit + visits.max(-1, keepdims=True)) * config.c_scale * rescaled


class _Subtrees(NamedTuple):
    """The trees below M root actions of B roots; all have the same number of nodes V, in order of expansion.

    Node 0 is where the root action leads. An edge's reward and discount are kept at the node it leads to.
    """

    state: Any  # (B, M, V, ...)
    actions: Array  # (B, M, V, I, A) sampled at the node
    raw_value: Array  # (B, M, V) the network's
    value: Array  # (B, M, V) mean over all visits
    visits: Array  # (B, M, V)
    reward: Array  # (B, M, V)
    discount: Array  # (B, M, V)
    child: Array  # (B, M, V, I) node index; -1: not expanded

    def pick(self, index: Int[Array, "batch M2"]) -> _Subtrees:
        """The subtrees of fewer root actions."""
        rows = jnp.arange(index.shape[0])[:, None]
        return jax.tree.map(lambda x: x[rows, index], self)


def _at(x: Array, index: Int[Array, "batch M"]) -> Array:
    """Entry ``index`` of the third axis: (B, M, V, ...) -> (B, M, ...).

    The axis is short: a masked sum compiles faster and runs faster than a gather.
    """
    hot = jnp.arange(x.shape[2]) == index[..., None]
    hot = hot.reshape(*hot.shape, *(1,) * (x.ndim - 3))
    return jnp.where(hot, x, 0).sum(2).astype(x.dtype)


def _select(tree: _Subtrees, node: Array, config: PlannerConfig) -> tuple[Array, Array]:
    """Interior action choice at one node of each subtree: the slot, and the child there (-1: none).

    argmax of the improved policy minus each action's share of visits (Danihelka et al. 2022, section 5).
    """
    child = _at(tree.child, node)
    is_child = jnp.arange(tree.value.shape[2]) == child[..., None]  # (B, M, I, V)

    def of_child(x: Array) -> Array:
        return jnp.where(is_child, x[:, :, None], 0).sum(-1).astype(x.dtype)

    visits = of_child(tree.visits)
    q = of_child(tree.reward + tree.discount * tree.value)
    completed = complete_q(q, visits, _at(tree.raw_value, node))
    improved = jax.nn.softmax(sigma(completed, visits, config))
    slot = (improved - visits / (1 + visits.sum(-1, keepdims=True))).argmax(-1)
    return slot, _at(child, slot)


class _Path(NamedTuple):
    """Where the simulations of one round descend: one node and slot per depth, and whether still descending."""

    nodes: list[Array]
    active: list[Array]
    parent: Array
    slot: Array


def _descend(tree: _Subtrees, config: PlannerConfig) -> _Path:
    """Walk every subtree from node 0 to the edge to expand."""
    size = tree.value.shape[2]
    node = jnp.zeros(tree.value.shape[:2], jnp.int32)
    active = jnp.ones_like(node, bool)
    parent, slot = node, node
    nodes, flags = [], []
    for _ in range(size):
        chosen, child = _select(tree, node, config)
        nodes.append(node)
        flags.append(active)
        stop = active & (child < 0)
        parent, slot = jnp.where(stop, node, parent), jnp.where(stop, chosen, slot)
        active = active & (child >= 0)
        node = jnp.where(active, child, node)
    return _Path(nodes, flags, parent, slot)


def _expand(
    key: PRNGKeyArray, model: LatentModel, state: Any, action: Array, config: PlannerConfig
) -> _Subtrees:
    """One model call: the new nodes, as subtrees of a single node."""
    state, reward, discount = model.step(state, action)
    value, policy = model.predict(state)
    actions = policy.sample(key, config.interior_actions)
    if config.include_mean:
        actions = actions.at[..., 0, :].set(policy.mode())
    new = _Subtrees(
        state=state,
        actions=actions,
        raw_value=value,
        value=value,
        visits=jnp.ones(value.shape, jnp.int32),
        reward=reward,
        discount=discount,
        child=jnp.full(actions.shape[:3], -1, jnp.int32),
    )
    return jax.tree.map(lambda x: x[:, :, None], new)


def _backup(tree: _Subtrees, path: _Path, leaf: _Subtrees) -> _Subtrees:
    """Hang the new nodes into the trees and average their values into all nodes on the path."""
    size = tree.value.shape[2]
    grown: _Subtrees = jax.tree.map(lambda x, y: jnp.concatenate((x, y), axis=2), tree, leaf)
    is_parent = jnp.arange(size + 1) == path.parent[..., None]
    is_slot = jnp.arange(tree.child.shape[-1]) == path.slot[..., None]
    child = jnp.where(is_parent[..., None] & is_slot[:, :, None], size, grown.child)
    value, visits = grown.value, grown.visits
    # The return seen from each depth, from the leaf up: g <- reward + discount g along the edge below.
    below = jnp.full(path.parent.shape, size)
    g = leaf.raw_value[:, :, 0]
    for node, active in zip(reversed(path.nodes), reversed(path.active), strict=True):
        g = jnp.where(active, _at(grown.reward, below) + _at(grown.discount, below) * g, g)
        here = (jnp.arange(size + 1) == node[..., None]) & active[..., None]
        value = jnp.where(here, (value * visits + g[..., None]) / (visits + 1), value)
        visits = visits + here
        below = jnp.where(active, node, below)
    return grown._replace(child=child, value=value, visits=visits)


def gumbel_search(
    key: PRNGKeyArray,
    model: LatentModel,
    state: Any,
    actions: Float[Array, "batch K action"],
    value: Float[Array, " batch"],
    config: PlannerConfig,
) -> SearchResult:
    """Plan from ``state`` (batch axis B) with the sampled root ``actions``.

    Pure and jittable; everything has a fixed size.

    Args:
        key: draws the actions inside the tree.
        model: see :class:`LatentModel`.
        state: pytree of arrays (B, ...), the roots.
        actions: candidates at the root.
        value: the network's value of the roots.
        config: simulations, interior actions, c_visit and c_scale.
    """
    batch, num, _ = actions.shape
    q = jnp.zeros((batch, num), value.dtype)
    visits = jnp.zeros((batch, num), jnp.int32)
    sizes = rounds(num, config.simulations)
    keys = jax.random.split(key, len(sizes))

    # First round: every (or, with few simulations, each of the first) root action once.
    alive = jnp.broadcast_to(jnp.arange(sizes[0]), (batch, sizes[0]))
    first = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:, None], (batch, sizes[0], *x.shape[1:])), state
    )
    tree = _expand(keys[0], model, first, actions[:, : sizes[0]], config)
    for i, size in enumerate(sizes):
        if i > 0:
            scores = jnp.take_along_axis(q, alive, axis=1)
            # Survivors stay in index order, so that ties always fall to the first action.
            best = jnp.sort(jax.lax.top_k(scores, size)[1], axis=-1)
            alive, tree = jnp.take_along_axis(alive, best, axis=1), tree.pick(best)
            path = _descend(tree, config)
            parent_state = jax.tree.map(lambda x, p=path.parent: _at(x, p), tree.state)
            action = _at(_at(tree.actions, path.parent), path.slot)
            tree = _backup(tree, path, _expand(keys[i], model, parent_state, action, config))
        new_q = tree.reward[:, :, 0] + tree.discount[:, :, 0] * tree.value[:, :, 0]
        rows = jnp.arange(batch)[:, None]
        q = q.at[rows, alive].set(new_q)
        visits = visits.at[rows, alive].add(1)
    last = jnp.take_along_axis(q, alive, axis=1).argmax(-1)
    chosen = jnp.take_along_axis(alive, last[:, None], axis=1)
    completed = complete_q(q, visits, value)
    return SearchResult(
        action=jnp.take_along_axis(actions, chosen[..., None], axis=1)[:, 0],
        actions=actions,
        policy=jax.nn.softmax(sigma(completed, visits, config)),
        q_values=completed,
        value=(value + (visits * q).sum(-1)) / (1 + visits.sum(-1)),
        visits=visits,
    )
