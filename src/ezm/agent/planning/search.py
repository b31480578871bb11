"""Gumbel search on any latent model, for sampled and for discrete actions (paper, section 3).

The root has K candidates and uses Sequential Halving (Danihelka et al. 2022, "Policy improvement by planning with
Gumbel"). A node inside the tree has a few candidates, chosen by completed Q-values.

The simulations of one round of Sequential Halving pass through *different* root actions, so their subtrees are
disjoint. Each node rescales Q by its own range. The simulations are therefore independent, and a round is one batched
model call. With K=16 and N=32 the search takes four calls (16, 8, 4 and 4 root actions) instead of 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ezm.agent.planning.candidates import NO_ACTION, Candidates, exists
from ezm.config import PlannerConfig

Propose = Callable[[PRNGKeyArray], Candidates]


class LatentModel(NamedTuple):
    """A model to plan with. ``state`` is any pytree of arrays with batch axes (B, M): M nodes of each of B roots."""

    step: Callable[[Any, Array], tuple[Any, Array, Array]]
    """``step(state, action (B, M, A)) -> next state, reward (B, M), discount (B, M)``. Discount 0 ends the episode."""
    predict: Callable[[Any], tuple[Array, Propose]]
    """``predict(state) -> value (B, M), propose``. The call ``propose(key)`` returns the nodes' candidates (B, M, I).
    The search does not call it for nodes of the last round."""


class SearchResult(NamedTuple):
    """The result of a search, for B roots with K candidates each."""

    action: Float[Array, "batch action"]
    """The best action found, among the candidates with the most visits."""
    actions: Float[Array, "batch K action"]
    """The root's candidates."""
    policy: Float[Array, "batch K"]
    """The improved policy over the candidates: softmax of prior logits plus transformed, completed Q-values."""
    q_values: Float[Array, "batch K"]
    """Search value of each candidate, or the mixed root value for a candidate without a visit."""
    value: Float[Array, " batch"]
    """Search value of the root: mean of the network's value and all simulations' returns."""
    visits: Int[Array, "batch K"]
    next_action: Float[Array, "batch action"]
    """The plan's action after ``action``: the most visited action below it, or ``action`` again if none was visited."""


def rounds(actions: int, simulations: int) -> list[int]:
    """Returns the number of root actions visited in each round of Sequential Halving. The sum is ``simulations``.

    Each phase halves the survivors (never below 2). It gets an equal part of the simulations, at least one per
    survivor. For example, 16 actions and 32 simulations give [16, 8, 4, 4].
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
    logits: Float[Array, "*batch K"],
) -> Float[Array, "*batch K"]:
    """Returns Q with the mixed value for unvisited actions (Danihelka et al. 2022, appendix D).

    The mixed value is (V + N sum_a pi(a) q(a) / sum_a pi(a)) / (N + 1). Its sums go over the visited actions, and N is
    the total number of visits.
    """
    seen = visits > 0
    prior = jnp.maximum(jax.nn.softmax(logits), jnp.finfo(q.dtype).tiny) * seen
    mean_q = (prior * jnp.where(seen, q, 0.0)).sum(-1) / jnp.where(seen.any(-1), prior.sum(-1), 1.0)
    total = visits.sum(-1)
    mixed = (raw_value + total * mean_q) / (total + 1)
    return jnp.where(seen, q, mixed[..., None])


def sigma(
    q: Float[Array, "*batch K"],
    visits: Int[Array, "*batch K"],
    exists: Bool[Array, "*batch K"],
    config: PlannerConfig,
) -> Float[Array, "*batch K"]:
    """Returns (c_visit + max visits) c_scale q, with completed q rescaled to [0, 1] by the node's own range.

    Slots without an action take no part in the range.
    """
    low = jnp.where(exists, q, jnp.inf).min(-1, keepdims=True)
    high = jnp.where(exists, q, -jnp.inf).max(-1, keepdims=True)
    rescaled = (q - low) / jnp.maximum(high - low, 1e-8)
    return (config.c_visit + visits.max(-1, keepdims=True)) * config.c_scale * rescaled


QTransform = Callable[[Array, Array, Array, PlannerConfig], Array]
"""A function ``(completed q, visits, exists, config) -> transformed q``, such as :func:`sigma`."""


class _Subtrees(NamedTuple):
    """The trees below M root actions of B roots. Each has V nodes, in order of expansion.

    Node 0 is the state after the root action. An edge's reward and discount are stored at the node it leads to.
    """

    state: Any  # (B, M, V, ...)
    raw_value: Array  # (B, M, V) the network's
    value: Array  # (B, M, V) mean over all visits
    visits: Array  # (B, M, V)
    reward: Array  # (B, M, V)
    discount: Array  # (B, M, V)
    candidates: Candidates  # (B, M, V, I) proposed at the node, empty at nodes of the last round
    child: Array  # (B, M, V, I) node index, -1 if not expanded
    child_visits: Array  # (B, M, V, I)
    child_q: Array  # (B, M, V, I) reward + discount * value of the child, 0 if not expanded

    def pick(self, index: Int[Array, "batch M2"]) -> _Subtrees:
        """Returns the subtrees of the root actions at ``index``."""
        rows = jnp.arange(index.shape[0])[:, None]
        return jax.tree.map(lambda x: x[rows, index], self)


def _at(x: Array, index: Int[Array, "batch M"]) -> Array:
    """Returns entry ``index`` of the third axis: (B, M, V, ...) -> (B, M, ...).

    The axis is short, so a masked sum compiles faster and runs faster than a gather.
    """
    if x.shape[2] == 1:
        return x[:, :, 0]
    hot = jnp.arange(x.shape[2]) == index[..., None]
    hot = hot.reshape(*hot.shape, *(1,) * (x.ndim - 3))
    return jnp.where(hot, x, 0).sum(2).astype(x.dtype)


class _Path(NamedTuple):
    """The paths of one round's simulations, and the edges to expand."""

    on: Array  # (B, M, V) whether a node is on the path, nowhere in an inactive subtree
    chosen: Array  # (B, M, V, I) whether a candidate is the one chosen at the node
    parent: Array  # (B, M) the last node of the path, whose chosen candidate becomes a new node


def _descend(tree: _Subtrees, active: Array, transform: QTransform, config: PlannerConfig) -> _Path:
    """Walks every active subtree from node 0 to the edge to expand.

    At each node it takes the argmax of the improved policy minus each action's share of visits (Danihelka et al. 2022,
    section 5). All nodes choose at once, on the path or not, because a choice for each depth makes a longer program.
    """
    logits, visits = tree.candidates.logits, tree.child_visits
    completed = complete_q(tree.child_q, visits, tree.raw_value, logits)
    real = exists(logits)
    # An empty slot's Q lies outside the node's range, so its transform may have any size.
    transformed = jnp.where(real, transform(completed, visits, real, config), 0.0)
    improved = jax.nn.softmax(logits + transformed)
    best = (improved - visits / (1 + visits.sum(-1, keepdims=True))).argmax(-1)
    chosen = jnp.arange(logits.shape[-1]) == best[..., None]
    following = jnp.where(chosen, tree.child, 0).sum(-1)
    on = active[..., None]
    for node in range(1, tree.value.shape[2]):  # every node comes after its parent
        reached = (on & (following[:, :, :node] == node)).any(-1, keepdims=True)
        on = jnp.concatenate((on, reached), -1)
    return _Path(on, chosen, (on & (following < 0)).argmax(-1))


def _expand(
    model: LatentModel, state: Any, action: Array, key: PRNGKeyArray | None, slots: int
) -> _Subtrees:
    """Calls the model once and returns the new nodes, as subtrees of a single node.

    Without a key, all their ``slots`` stay empty.
    """
    state, reward, discount = model.step(state, action)
    value, propose = model.predict(state)
    if key is None:
        logits = jnp.full((*value.shape, slots), NO_ACTION, value.dtype)
        candidates = Candidates(jnp.zeros((*logits.shape, action.shape[-1]), action.dtype), logits)
    else:
        candidates = propose(key)
    new = _Subtrees(
        state=state,
        raw_value=value,
        value=value,
        visits=jnp.ones(value.shape, jnp.int32),
        reward=reward,
        discount=discount,
        candidates=candidates,
        child=jnp.full(candidates.logits.shape, -1, jnp.int32),
        child_visits=jnp.zeros(candidates.logits.shape, jnp.int32),
        child_q=jnp.zeros(candidates.logits.shape, value.dtype),
    )
    return jax.tree.map(lambda x: x[:, :, None], new)


def _along(path: _Path, start: Array, change: Callable[[Array, int], Array]) -> Array:
    """Carries ``start`` (B, M) from the leaf up, with ``change(carried, node)`` at the path's nodes.

    Returns what reaches each node, (B, M, V).
    """
    carried, reaches = start, []
    for node in reversed(range(path.on.shape[2])):
        reaches.append(carried)
        carried = jnp.where(path.on[:, :, node], change(carried, node), carried)
    return jnp.stack(reaches[::-1], -1)


def _backup(tree: _Subtrees, path: _Path, leaf: _Subtrees) -> _Subtrees:
    """Adds the new nodes to the active trees and averages their values into all nodes on the path."""
    size = tree.value.shape[2]
    reward, discount = tree.reward, tree.discount
    leaf_q = (leaf.reward + leaf.discount * leaf.raw_value)[:, :, 0]
    # The return from each node: g <- reward + discount g along the edges, from the leaf up.
    g = _along(path, leaf_q, lambda g, i: reward[:, :, i] + discount[:, :, i] * g)
    mean = (tree.value * tree.visits + g) / (tree.visits + 1)
    q = reward + discount * mean
    child_q = _along(path, leaf_q, lambda _, i: q[:, :, i])[..., None]
    taken = path.on[..., None] & path.chosen
    tree = tree._replace(
        value=jnp.where(path.on, mean, tree.value),
        visits=tree.visits + path.on,
        child=jnp.where(taken & (tree.child < 0), size, tree.child),
        child_visits=tree.child_visits + taken,
        child_q=jnp.where(taken, child_q, tree.child_q),
    )
    grown: _Subtrees = jax.tree.map(lambda x, y: jnp.concatenate((x, y), axis=2), tree, leaf)
    return grown


def _schedule(counts: Sequence[int], most: int, simulations: int) -> np.ndarray:
    """Returns the number of root actions visited in each round, (most + 1, rounds). The row is the number considered.

    A number that is not among ``counts`` has the rounds of the next larger number, without the missing actions.
    """
    known = sorted({min(count, most) for count in counts})
    sizes = {count: rounds(count, simulations) for count in known}
    table = np.zeros((most + 1, max(map(len, sizes.values()))), np.int32)
    for count in range(1, most + 1):
        row = sizes[next((n for n in known if n >= count), known[-1])]
        table[count, : len(row)] = np.minimum(row, count)
    return table


def root_noise(
    key: PRNGKeyArray, root: Candidates, config: PlannerConfig
) -> Float[Array, "batch K"]:
    """Returns the Gumbel noise of the root's candidates, as mctx draws it from the same key."""
    noise = jax.random.gumbel(jax.random.split(key)[1], root.logits.shape, root.logits.dtype)
    return config.gumbel_scale * noise


def gumbel_search(
    key: PRNGKeyArray,
    model: LatentModel,
    state: Any,
    root: Candidates,
    value: Float[Array, " batch"],
    config: PlannerConfig,
    *,
    counts: Sequence[int] | None = None,
    transform: QTransform = sigma,
) -> SearchResult:
    """Searches from the roots ``state`` (batch axis B).

    The function is pure and jittable, and all its shapes are fixed. At most once a round, root actions are ranked by
    noise + prior logit + transformed Q.

    Args:
        key: draws the candidates inside the tree, and the root's noise where ``config.gumbel_scale`` is not 0.
        model: see :class:`LatentModel`.
        state: pytree of arrays (B, ...), the roots.
        root: (B, K) candidates at the roots.
        value: the network's value of the roots.
        config: simulations, considered actions, noise, c_visit and c_scale.
        counts: possible numbers of candidates of a root, where some roots have padding slots. The default is K. Each
            number has a schedule of rounds, in which roots with fewer actions visit them more often. A root whose
            number is not listed takes the schedule of the next larger number, and fewer simulations.
        transform: of completed Q-values.
    """
    batch, num = root.logits.shape
    most = config.considered(num)
    table = _schedule(counts or (num,), most, config.simulations)
    widths = table.max(0).tolist()
    considered = jnp.minimum(root.exists.sum(-1), most)
    noise = jnp.zeros_like(root.logits)
    if config.gumbel_scale:
        noise = root_noise(key, root, config)
    logits = jnp.maximum(root.logits - root.logits.max(-1, keepdims=True), NO_ACTION)
    q = jnp.zeros((batch, num), value.dtype)
    visits = jnp.zeros((batch, num), jnp.int32)

    def scores() -> Array:
        completed = complete_q(q, visits, value, logits)
        transformed = transform(completed, visits, root.exists, config)
        return jnp.where(root.exists, noise + logits + transformed, NO_ACTION)

    # Lanes are the root actions still visited, in index order, so that the first action wins every tie.
    alive = jnp.broadcast_to(jnp.arange(num), (batch, num))
    running = root.exists
    rows = jnp.arange(batch)[:, None]
    tree: _Subtrees | None = None
    keys = jax.random.split(jax.random.split(key)[0], len(widths))
    for i, width in enumerate(widths):
        active = running
        if counts is not None or width < alive.shape[1]:
            ranking = jnp.where(running, scores()[rows, alive], -jnp.inf)
            best = jax.lax.top_k(ranking, width)[1]
            rank = jnp.argsort(best, axis=-1)
            best = jnp.take_along_axis(best, rank, axis=1)
            alive, running = alive[rows, best], running[rows, best]
            sizes = jnp.asarray(table)[considered, i][:, None]
            active = running & (rank < sizes)
            # A root without further rounds keeps its lanes.
            running = jnp.where(sizes > 0, active, running)
            tree = None if tree is None else tree.pick(best)
        next_key = keys[i] if i + 1 < len(widths) else None
        if tree is None:
            first = jax.tree.map(lambda x, n=width: jnp.repeat(x[:, None], n, axis=1), state)
            tree = _expand(model, first, root.actions[rows, alive], next_key, 0)
        else:
            path = _descend(tree, active, transform, config)
            parent = jax.tree.map(lambda x, at=path.parent: _at(x, at), tree.state)
            chosen = jnp.where(path.chosen[..., None], tree.candidates.actions, 0).sum(-2)
            action = _at(chosen, path.parent)
            leaf = _expand(model, parent, action, next_key, tree.child.shape[-1])
            tree = _backup(tree, path, leaf)
        new_q = tree.reward[:, :, 0] + tree.discount[:, :, 0] * tree.value[:, :, 0]
        q = q.at[rows, alive].set(jnp.where(active, new_q, q[rows, alive]))
        visits = visits.at[rows, alive].add(active)
    assert tree is not None
    final = scores()
    often = root.exists & (visits == visits.max(-1, keepdims=True))
    chosen = jnp.where(often, final, -jnp.inf).argmax(-1)[:, None]
    action = jnp.take_along_axis(root.actions, chosen[..., None], axis=1)[:, 0]
    return SearchResult(
        action=action,
        actions=root.actions,
        policy=jax.nn.softmax(jnp.where(root.exists, final - noise, -jnp.inf)),
        q_values=complete_q(q, visits, value, logits),
        value=(value + (visits * q).sum(-1)) / (1 + visits.sum(-1)),
        visits=visits,
        next_action=_next_action(tree, alive == chosen, action),
    )


def _next_action(tree: _Subtrees, is_chosen: Array, action: Array) -> Array:
    """Returns the most visited action below the chosen root action, or ``action`` itself if none was visited."""
    if tree.child.shape[-1] == 0:  # a single round
        return action
    rows, lane = jnp.arange(len(action)), is_chosen.argmax(-1)
    visits = tree.child_visits[rows, lane, 0]
    next_action = tree.candidates.actions[rows, lane, 0, visits.argmax(-1)]
    return jnp.where(visits.any(-1)[:, None], next_action, action)
