"""Contents of a replay's rows: observations, actions, rewards and the searches made at them.

:data:`FIELDS` declares every field once. Storage, checkpoints, windows, batches and the training's sink follow it.

The contents take most of the replay's memory. The class :class:`Rows` keeps them in the machine's memory, and
:class:`ezm.experience.device_rows.DeviceRows` in the memory of the device that learns. Both give the same windows, bit
for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from ezm.agent.batch import Batch, Searches


class Field(NamedTuple):
    """A field of every row."""

    of: Literal["state", "transition", "search"]
    """Whether its values come with an observation, with an action, or with a search.

    In B windows of W transitions, a state's field is (W + 1, B, ...) and a transition's (W, B, ...). A search's is
    (S, B, ...), for the first S states. After a window's length, transitions are 0. States and searches repeat the last
    row.
    """
    shape: tuple[int | str, ...]
    """Sizes. A name stands for a size of :class:`RowSizes`."""
    dtype: type[np.generic]


# The searches are most of a row. Half precision is finer than the spread of a policy that explores.
FIELDS: dict[str, Field] = {
    "observation": Field("state", ("observation",), np.float32),
    "action": Field("transition", ("action",), np.float32),
    "reward": Field("transition", (), np.float32),
    "search_actions": Field("search", ("root_actions", "action"), np.float16),
    "search_weights": Field("search", ("root_actions",), np.float16),
    "search_value": Field("search", (), np.float32),
    "search_spread": Field("search", (), np.float32),
}
"""The fields of a row by their names in checkpoints. A search's fields have the order of ``Searches``.

A loss reads any other field as ``Batch.extras[name]``. A transition's field takes its values from the attribute of that
name of ``Experience``, or of its step.
"""


def fields_of(of: str) -> list[str]:
    """Returns the names of the fields of a "state", a "transition" or a "search"."""
    return [name for name, field in FIELDS.items() if field.of == of]


SEARCHES = Searches(*fields_of("search"))
"""The fields that a search fills."""


class RowSizes(NamedTuple):
    """Sizes of a row's contents."""

    observation: int
    """O."""
    action: int
    """A."""
    root_actions: int
    """R, number of root actions kept of each search."""

    @property
    def zeros(self) -> dict[str, np.ndarray]:
        """A row of zeros: an array of its shape and type for each of :data:`FIELDS`."""
        return {
            name: np.zeros(
                [n if isinstance(n, int) else getattr(self, n) for n in field.shape], field.dtype
            )
            for name, field in FIELDS.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return sum(zero.nbytes for zero in self.zeros.values())


@dataclass(frozen=True, eq=False)
class Deferred:
    """An array outside the machine's memory, to be saved. Calling ``read`` copies it there."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


def windows(
    xp: ModuleType,
    fields: dict[str, Any],
    task: Any,
    slot: Any,
    length: Any,
    window: int,
    states: int,
) -> dict[str, Any]:
    """Implements :meth:`Rows.gather` for arrays (K, C, ...), with numpy or with jax.numpy."""
    capacity = fields["reward"].shape[1]
    rows = (slot + xp.minimum(xp.arange(window + 1)[:, None], length)) % capacity  # (W + 1, B)
    real = xp.arange(window)[:, None] < length
    rows = task * capacity + rows  # of the rings laid end to end
    places = {"state": rows, "transition": rows[:-1], "search": rows[:states]}
    found = {
        # The function `take` copies whole rows faster than an index does.
        name: xp.take(field.reshape(-1, *field.shape[2:]), places[FIELDS[name].of], 0, mode="clip")
        for name, field in fields.items()
    }
    for name in fields_of("transition"):
        x = found[name]
        found[name] = xp.where(real.reshape(*real.shape, *[1] * (x.ndim - 2)), x, x.dtype.type(0))
    return sorted_out(found)


def sorted_out(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a batch's arrays, given by the names of :data:`FIELDS`, as arguments of :class:`ezm.agent.batch.Batch`."""
    searches = Searches(*(found[name] for name in SEARCHES))
    rest = {name: values for name, values in found.items() if name not in SEARCHES}
    extras = {name: rest.pop(name) for name in [*rest] if name not in Batch._fields}
    return {**rest, "searches": searches, "extras": extras}


class Rows:
    """K rings of C rows, in the machine's memory. A task and a slot are the indices of a ring and of a place in it.

    The caller keeps track of which state lies in which slot.

    Args:
        num_tasks: K.
        capacity: C.
        sizes: of a row.
        xp: module that makes the arrays.
    """

    def __init__(self, num_tasks: int, capacity: int, sizes: RowSizes, xp: ModuleType = np):
        self.sizes = sizes
        self._fields: dict[str, Any] = {
            name: xp.zeros((num_tasks, capacity, *zero.shape), zero.dtype)
            for name, zero in sizes.zeros.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of memory once all rows are filled. The system allocates the machine's memory as rows are written."""
        return sum(field.nbytes for field in self._fields.values())

    def put(self, of: str, task: int, slot: int, values: Mapping[str, Any]) -> None:
        """Writes a row's fields of a "state" or a "transition", see :class:`Field`. Those without a value get 0."""
        for name in fields_of(of):
            self._fields[name][task, slot] = values.get(name, 0)

    def put_searches(
        self, task: np.ndarray, slot: np.ndarray, searches: Searches, there: np.ndarray
    ) -> None:
        """Writes the searches with the indices ``there``, out of (N, ...). No two of them belong to one row."""
        task, slot = task[there], slot[there]
        for name, values in zip(SEARCHES, searches, strict=True):
            self._fields[name][task, slot] = np.asarray(values)[there]

    def gather(
        self, task: np.ndarray, slot: np.ndarray, length: np.ndarray, window: int, states: int
    ) -> dict[str, Any]:
        """Returns windows of ``window`` transitions from the first rows (B,), with searches for ``states`` states.

        They are the arguments of :class:`ezm.agent.batch.Batch` that :func:`sorted_out` gives.
        """
        return windows(np, self._fields, task, slot, length, window, states)

    def filled(self, name: str, task: int, count: int) -> np.ndarray | Deferred:
        """Returns a field of a ring's first rows, (count, ...). It must be saved before anything is written."""
        return self._fields[name][task, :count]  # a view

    def fill(self, name: str, task: int, slots: np.ndarray, values: np.ndarray) -> None:
        """Writes a field of many rows of a ring. No slot may occur twice."""
        self._fields[name][task, slots] = values
