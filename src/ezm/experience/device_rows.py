"""A replay's rows in the memory of the device that learns, so that no batch is copied to it.

New rows collect on the host, in arrays of a fixed size. One program writes them to the device before the next read. The
device gathers batches from their (B,) places, and stores the learner's searches without the host. Programs overwrite
their input arrays, and sizes never change, so each program is compiled once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ezm.agent.batch import Searches
from ezm.experience.rows import SEARCHES, Deferred, RowSizes, empty, fields_of, windows

_CHUNK = 4096
"""Number of rows that saving and loading move at once."""


class DeviceRows:
    """Rows on the first device, allocated at once. It implements :class:`ezm.experience.rows.Rows`.

    Args:
        num_tasks: K.
        capacity: C.
        sizes: of a row.
    """

    def __init__(self, num_tasks: int, capacity: int, sizes: RowSizes):
        self.sizes = sizes
        self._fields: dict[str, jax.Array] = empty(jnp, num_tasks, capacity, sizes)
        self._capacity = capacity
        # A step appends a row to each task, and another row where an episode begins.
        zeros = sizes.zeros
        self._waiting = {
            of: _Waiting(2 * num_tasks, capacity, {name: zeros[name] for name in fields_of(of)})
            for of in ("state", "transition")
        }

    @property
    def nbytes(self) -> int:
        return sum(field.nbytes for field in self._fields.values())

    def put(self, of: str, task: int, slot: int, values: Mapping[str, Any]) -> None:
        if self._waiting[of].full:
            self._write()
        self._waiting[of].put(task, slot, values)

    def _write(self) -> None:
        """Writes the waiting rows to the device."""
        if any(self._waiting.values()):
            changes = [waiting.take() for waiting in self._waiting.values()]
            written = {name: self._fields[name] for _, values in changes for name in values}
            self._fields |= _written(written, changes)

    def put_searches(
        self, task: np.ndarray, slot: np.ndarray, searches: Searches, there: np.ndarray
    ) -> None:
        values = dict(zip(SEARCHES, searches, strict=True))
        kept = np.full(len(slot), self._capacity)
        kept[there] = slot[there]
        place = _index(task), _index(kept)
        self._fields |= _written({name: self._fields[name] for name in SEARCHES}, [(place, values)])

    def gather(
        self, task: np.ndarray, slot: np.ndarray, length: np.ndarray, window: int, states: int
    ) -> dict[str, Any]:
        self._write()
        place = _index(task), _index(slot), _index(length)
        gathered: dict[str, Any] = _gathered(self._fields, *place, window, states)
        return gathered

    def filled(self, name: str, task: int, count: int) -> Deferred:
        self._write()
        field = self._fields[name]
        shape = (int(count), *field.shape[2:])
        return Deferred(shape, field.dtype, partial(self._read, name, task, int(count)))

    def _read(self, name: str, task: int, count: int) -> np.ndarray:
        field = self._fields[name]
        found = np.empty((count, *field.shape[2:]), field.dtype)
        size = min(_CHUNK, self._capacity)
        for start in range(0, count, size):
            first = min(start, self._capacity - size)
            chunk = np.asarray(_chunk(field, np.int32(task), np.int32(first), size))
            found[start : start + size] = chunk[start - first : count - first]
        return found

    def fill(self, name: str, task: int, slots: np.ndarray, values: np.ndarray) -> None:
        self._write()
        size = min(_CHUNK, self._capacity)
        for start in range(0, len(slots), size):
            part = slots[start : start + size]
            slot = np.full(size, self._capacity, np.int32)
            slot[: len(part)] = part
            chunk = np.zeros((size, *values.shape[1:]), values.dtype)
            chunk[: len(part)] = values[start : start + size]
            place = np.full(size, task, np.int32), slot
            self._fields |= _written({name: self._fields[name]}, [(place, {name: chunk})])


class _Waiting:
    """New values of some fields, by row, in arrays of a fixed size. Unused places have a slot outside of the ring."""

    def __init__(self, size: int, capacity: int, zeros: dict[str, np.ndarray]):
        self._size, self._capacity, self._zeros = size, capacity, zeros
        self._clear()

    def _clear(self) -> None:
        # New arrays each time, because the device may still read the old arrays.
        self._task = np.zeros(self._size, np.int32)
        self._slot = np.full(self._size, self._capacity, np.int32)
        self._values = {
            name: np.zeros((self._size, *zero.shape), zero.dtype)
            for name, zero in self._zeros.items()
        }
        self._places: dict[tuple[int, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def full(self) -> bool:
        return len(self._places) == self._size

    def put(self, task: int, slot: int, values: Mapping[str, Any]) -> None:
        # A small ring may come round to a row that still waits. Then the last values count.
        place = self._places.setdefault((int(task), int(slot)), len(self._places))
        self._task[place], self._slot[place] = task, slot
        for name, waiting in self._values.items():
            waiting[place] = values.get(name, 0)

    def take(self) -> Any:
        taken = (self._task, self._slot), self._values
        self._clear()
        return taken


def _index(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int32)


@partial(jax.jit, donate_argnums=0)
def _written(fields: dict[str, Any], changes: list[Any]) -> dict[str, Any]:
    """Returns the fields with new values in some rows. Rows outside of the ring are left out."""
    written = dict(fields)
    for place, values in changes:
        for name, value in values.items():
            field = written[name]
            written[name] = field.at[place].set(value.astype(field.dtype), mode="drop")
    return written


@partial(jax.jit, static_argnums=(4, 5))
def _gathered(
    fields: dict[str, Any], task: Any, slot: Any, length: Any, *sizes: int
) -> dict[str, Any]:
    return windows(jnp, fields, task, slot, length, *sizes)


@partial(jax.jit, static_argnums=3)
def _chunk(field: jax.Array, task: Any, first: Any, size: int) -> jax.Array:
    """Returns ``size`` rows of a ring, from row ``first``."""
    begin = (task, first, *[np.int32(0)] * (field.ndim - 2))
    return jax.lax.dynamic_slice(field, begin, (1, size, *field.shape[2:]))[0]
