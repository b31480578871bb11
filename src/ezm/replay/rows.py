"""Contents of a replay's rows: observations, actions, rewards and the searches made at them.

The contents take most of the replay's memory. :class:`Rows` is their interface. The class :class:`HostRows` keeps them
in the machine's memory, and :class:`ezm.replay.device_rows.DeviceRows` in the memory of the device that learns. Both
give the same windows, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class Searches(NamedTuple):
    """Results of searches, for states of any batch shape: the targets of the policy and the search value."""

    actions: Any
    """Root actions, (*batch, R, A). For the target "best_action", the best action alone (R = 1)."""
    weights: Any
    """Weights with which the policy imitates the actions, (*batch, R). They sum to 1."""
    value: Any
    """Search value of the root, (*batch,)."""
    q_spread: Any
    """Largest minus smallest Q of the root's actions, (*batch,)."""


class Windows(NamedTuple):
    """Contents of B windows of W transitions, time first.

    After ``length``, observations and searches repeat the last row.
    """

    observation: Any
    """Observations, (W + 1, B, O) float32."""
    action: Any
    """Actions, (W, B, A) float32, 0 after ``length``."""
    reward: Any
    """Rewards, (W, B) float32, 0 after ``length``."""
    searches: Searches
    """Searches of the first S states, (S, B, ...)."""


class RowSizes(NamedTuple):
    """Sizes of a row's contents."""

    observation: int
    """O."""
    action: int
    """A."""
    root_actions: int
    """R, number of root actions kept of each search."""

    @property
    def fields(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and type of each field of a row, by its name in a checkpoint."""
        # Half precision is finer than the spread of any policy, and the searches are most of a row.
        return {
            "observation": ((self.observation,), np.float32),
            "action": ((self.action,), np.float32),
            "reward": ((), np.float32),
            "search_actions": ((self.root_actions, self.action), np.float16),
            "search_weights": ((self.root_actions,), np.float16),
            "search_value": ((), np.float32),
            "search_spread": ((), np.float32),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return sum(
            math.prod(shape) * np.dtype(kind).itemsize for shape, kind in self.fields.values()
        )


SEARCHES = Searches("search_actions", "search_weights", "search_value", "search_spread")
"""The fields of :class:`RowSizes` that a search fills."""


@dataclass(frozen=True, eq=False)
class Deferred:
    """An array outside the machine's memory, to be saved. Calling ``read`` copies it there."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read() if dtype is None else self.read().astype(dtype)


@runtime_checkable
class Rows(Protocol):
    """Interface to K rings of C rows. A task and a slot are the indices of a ring and of a place in it.

    The caller keeps track of which state lies in which slot.
    """

    sizes: RowSizes

    @property
    def nbytes(self) -> int:
        """Bytes of memory once all rows are filled."""
        ...

    def put_state(self, task: int, slot: int, observation: np.ndarray) -> None:
        """Writes a row's observation."""
        ...

    def put_transition(self, task: int, slot: int, action: np.ndarray, reward: float) -> None:
        """Writes the action and the reward that follow a row's observation."""
        ...

    def put_searches(
        self, task: np.ndarray, slot: np.ndarray, searches: Searches, there: np.ndarray
    ) -> None:
        """Writes the searches with the indices ``there``, out of (N, ...). No two of them belong to one row."""
        ...

    def gather(
        self, task: np.ndarray, slot: np.ndarray, length: np.ndarray, window: int, states: int
    ) -> Windows:
        """Returns windows of ``window`` transitions from the first rows (B,), with searches for ``states`` states."""
        ...

    def filled(self, name: str, task: int, count: int) -> np.ndarray | Deferred:
        """Returns a field of a ring's first rows, (count, ...). It must be saved before anything is written."""
        ...

    def fill(self, name: str, task: int, slots: np.ndarray, values: np.ndarray) -> None:
        """Writes a field of many rows of a ring. No slot may occur twice."""
        ...


def windows(
    xp: ModuleType,
    fields: dict[str, Any],
    task: Any,
    slot: Any,
    length: Any,
    window: int,
    states: int,
) -> Windows:
    """Implements :meth:`Rows.gather` for arrays (K, C, ...), with numpy or with jax.numpy."""
    capacity = fields["reward"].shape[1]
    rows = (slot + xp.minimum(xp.arange(window + 1)[:, None], length)) % capacity  # (W + 1, B)
    real = xp.arange(window)[:, None] < length
    first, nothing = rows[:states], np.float32(0.0)
    return Windows(
        observation=fields["observation"][task, rows],
        action=xp.where(real[..., None], fields["action"][task, rows[:-1]], nothing),
        reward=xp.where(real, fields["reward"][task, rows[:-1]], nothing),
        searches=Searches(*(fields[name][task, first] for name in SEARCHES)),
    )


def empty(xp: ModuleType, num_tasks: int, capacity: int, sizes: RowSizes) -> dict[str, Any]:
    """Returns zeros for the fields of K rings of C rows, (K, C, ...) each, with numpy or with jax.numpy."""
    return {
        name: xp.zeros((num_tasks, capacity, *shape), kind)
        for name, (shape, kind) in sizes.fields.items()
    }


class HostRows:
    """Rows in the machine's memory, which the system allocates as rows are written.

    Args:
        num_tasks: K.
        capacity: C.
        sizes: of a row.
    """

    def __init__(self, num_tasks: int, capacity: int, sizes: RowSizes):
        self.sizes = sizes
        self._fields: dict[str, np.ndarray] = empty(np, num_tasks, capacity, sizes)

    @property
    def nbytes(self) -> int:
        return sum(field.nbytes for field in self._fields.values())

    def put_state(self, task: int, slot: int, observation: np.ndarray) -> None:
        self._fields["observation"][task, slot] = observation

    def put_transition(self, task: int, slot: int, action: np.ndarray, reward: float) -> None:
        self._fields["action"][task, slot] = action
        self._fields["reward"][task, slot] = reward

    def put_searches(
        self, task: np.ndarray, slot: np.ndarray, searches: Searches, there: np.ndarray
    ) -> None:
        task, slot = task[there], slot[there]
        for name, values in zip(SEARCHES, searches, strict=True):
            self._fields[name][task, slot] = np.asarray(values)[there]

    def gather(
        self, task: np.ndarray, slot: np.ndarray, length: np.ndarray, window: int, states: int
    ) -> Windows:
        return windows(np, self._fields, task, slot, length, window, states)

    def filled(self, name: str, task: int, count: int) -> np.ndarray:
        return self._fields[name][task, :count]  # a view

    def fill(self, name: str, task: int, slots: np.ndarray, values: np.ndarray) -> None:
        self._fields[name][task, slots] = values
