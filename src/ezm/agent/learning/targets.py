"""Training targets as pure functions of arrays (paper, section 5). Time is the first axis."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ezm.agent.planning import SearchResult

# Keeps the scaled policy target finite while all Q-values are equal.
_MIN_RANGE = 1e-3


def n_step_value(
    reward: Float[Array, "window batch"],
    bootstrap: Float[Array, "states batch"],
    length: Int[Array, " batch"],
    terminated: Bool[Array, " batch"],
    discount: Float[Array, " batch"],
    n_step: int,
) -> Float[Array, "states batch"]:
    """Returns the n-step returns of the first ``states`` states of a window.

    The target of state i is the sum over j < m of discount^j r[i + j], plus discount^m bootstrap[i]. Here
    m = min(n, length - i) is the number of transitions left, up to n. The bootstrap of a terminal state counts as 0.
    The bootstrap at a truncation counts. States after a terminal state get 0.

    Args:
        reward: rewards of the window's transitions, 0 after ``length``.
        bootstrap: value of the observation ``min(i + n, length)``, one per state i.
        length: number of real transitions of each window.
        terminated: whether the last real state is terminal.
        discount: per sample.
        n_step: n.
    """
    states = bootstrap.shape[0]
    index = jnp.arange(states)[:, None]
    total = jnp.zeros_like(bootstrap)
    for j in range(n_step):
        total += discount**j * reward[j : j + states]
    taken = jnp.clip(length - index, 0, n_step)
    terminal = terminated & (index + n_step >= length)
    return total + jnp.where(terminal, 0.0, discount**taken * bootstrap)


def mixed_value(
    n_step: Float[Array, "states batch"],
    search: Float[Array, "states batch"],
    age: Int[Array, " batch"],
    updates: Int[Array, ""],
    *,
    after_updates: int,
    older_than: int,
) -> Float[Array, "states batch"]:
    """Returns search values for stale samples after ``after_updates`` updates, and n-step values otherwise.

    A sample is stale if its age is above ``older_than``. Off-policy n-step returns of old data are biased towards the
    policy that collected them. The value of a search with the present model is not (EfficientZero-v2). A stored search
    is as old as its last reanalysis.
    """
    stale = (age > older_than) & (updates > after_updates)
    return jnp.where(stale, search, n_step)


def policy_weights(
    kind: Literal["best_action", "improved", "scaled", "prior"],
    search: SearchResult,
    log_ratio: Float[Array, "batch K"],
    q_range: Float[Array, " batch"],
    temperature: float | Float[Array, ""],
) -> Float[Array, "batch K"]:
    """Returns the weight with which the policy imitates each sampled root action. The weights sum to 1.

    The kind ``best_action`` is the paper's. The kind ``improved`` is the search's improved policy, which stretches
    every state's Q-values to [0, 1]. The kind ``scaled`` is the softmax of temperature * Q / ``q_range``. It uses the
    task's typical range, so that states where the action hardly matters do not turn noise into a target. The kind
    ``prior`` adds ``log_ratio``, log pi - log beta of each candidate. Flat Q-values then leave the policy as it is.
    """
    if kind == "improved":
        return search.policy
    seen = jnp.where(search.visits > 0, search.q_values, -jnp.inf)
    if kind == "best_action":
        return jax.nn.one_hot(seen.argmax(-1), seen.shape[-1])
    logits = temperature * seen / (q_range[:, None] + _MIN_RANGE)
    return jax.nn.softmax(logits + log_ratio if kind == "prior" else logits)


def best_alone(
    actions: Float[Array, "batch K action"], weights: Float[Array, "batch K"]
) -> tuple[Float[Array, "batch 1 action"], Float[Array, "batch 1"]]:
    """Returns the action with the largest weight, alone, with weight 1: the target "best_action"."""
    best = weights.argmax(-1)[:, None]
    return jnp.take_along_axis(actions, best[..., None], axis=1), jnp.ones_like(weights[:, :1])


def task_means(
    values: Float[Array, "states batch"],
    known: Bool[Array, "states batch"],
    task: Int[Array, " batch"],
    otherwise: Float[Array, " tasks"],
) -> Float[Array, " tasks"]:
    """Returns the mean of each task's known values, or ``otherwise`` for a task without any."""
    one_hot = jax.nn.one_hot(task, otherwise.shape[0])
    count = known.sum(0) @ one_hot
    total = jnp.where(known, values, 0.0).sum(0) @ one_hot
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), otherwise)
