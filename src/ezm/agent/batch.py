"""The data that learning reads: a batch of windows and the searches of their states."""

from __future__ import annotations

from typing import Any, NamedTuple


class Searches(NamedTuple):
    """Results of searches, for states of any batch shape: the targets of the policy and the search value."""

    actions: Any
    """Root actions, (*batch, R, A). For the target "best_action", the best action alone (R = 1)."""
    weights: Any
    """Weights with which the policy imitates the actions, (*batch, R). They sum to 1."""
    value: Any
    """Search value of the root in task units, (*batch,)."""
    q_spread: Any
    """Largest minus smallest Q of the root's actions in task units, (*batch,)."""


class Batch(NamedTuple):
    """B windows of W transitions, time first.

    After ``length`` transitions, observations and searches repeat the last row. If the replay's rows are on a device,
    observations, actions, rewards, searches and extras are JAX arrays.
    """

    observation: Any
    """Observations, (W + 1, B, O) float32, as recorded (not normalised)."""
    action: Any
    """Actions, (W, B, A) float32, 0 after ``length``."""
    reward: Any
    """Rewards in task units, (W, B) float32, 0 after ``length``."""
    length: Any
    """Number of real transitions, (B,) int32, 1 to W."""
    terminated: Any
    """Whether the episode terminated (value 0) in the window's last real state, (B,) bool."""
    task: Any
    """Task index, (B,) int32."""
    weight: Any
    """Importance weight in [0.1, 1], (B,) float32."""
    age: Any
    """Number of rows that the task has recorded since, (B,) int32."""
    searches: Any
    """:class:`ezm.agent.batch.Searches` of the first S states of each window, (S, B, ...). Valid where ``searched``."""
    searched: Any
    """Whether the state has a stored search, (S, B) bool."""
    reanalyse: Any
    """Indices of the states to reanalyse, (N,) int32, among the S * B states, states first."""
    extras: Any
    """Dictionary of the other fields that ``ezm.experience.rows.FIELDS`` declares."""


WHOLE = -1
"""Batch axis of an array that has none."""

BATCH_AXIS = Batch(
    **dict.fromkeys(Batch._fields, 1)
    | dict.fromkeys(("length", "terminated", "task", "weight", "age"), 0)
    | {"reanalyse": WHOLE}
)
"""The batch axis of each field's arrays, or :data:`WHOLE` for indices into the whole batch."""
