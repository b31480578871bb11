"""A replay's rows in the memory of the device that learns, so that no batch is copied to it.

New rows collect on the host, in arrays of a fixed size. One program writes them to the device before the next read. The
device gathers batches from their (B,) places, and stores the learner's searches without the host. Programs overwrite
their input arrays, and sizes never change, so each program is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ezm.agent.batch import Searches
from ezm.experience.rows import SEARCHES, Deferred, Rows, RowSizes, fields_of, windows

_CHUNK = 4096
"""Number of rows that saving and loading move at once."""


class DeviceRows(Rows):
    """Rows on the first device, allocated at once."""

    def __init__(self, num_tasks: int, capacity: int, sizes: RowSizes):
        super().__init__(num_tasks, capacity, sizes, jnp)
        self._capacity = capacity
        # A step appends a row to each task, and another row where an episode begins.
        self._most = 2 * num_tasks
        self._waiting: dict[str, dict[tuple[int, int], Any]] = {"state": {}, "transition": {}}
        """New values of a row's fields, by task and slot."""

    def put(self, of: str, task: int, slot: int, values: Mapping[str, Any]) -> None:
        if len(self._waiting[of]) == self._most:
            self._write()
        # A small ring may come round to a row that still waits. Then the last values count.
        row = {name: np.array(values.get(name, 0)) for name in fields_of(of)}
        self._waiting[of][int(task), int(slot)] = row

    def _write(self) -> None:
        """Writes the waiting rows to the device, in arrays of a fixed size."""
        if not any(self._waiting.values()):
            return
        most, zeros, changes = self._most, self.sizes.zeros, []
        for of, waiting in self._waiting.items():
            # Places without a row have a slot outside of the ring.
            place = np.zeros(most, np.int32), np.full(most, self._capacity, np.int32)
            values = {name: np.stack([zeros[name]] * most) for name in fields_of(of)}
            for i, ((task, slot), row) in enumerate(waiting.items()):
                place[0][i], place[1][i] = task, slot
                for name, value in row.items():
                    values[name][i] = value
            changes.append((place, values))
            waiting.clear()
        self._set(changes)

    def _set(self, changes: list[Any]) -> None:
        """Sets rows to new values, given as pairs of their places and of the fields' values."""
        names = {name for _, values in changes for name in values}
        self._fields |= _written({name: self._fields[name] for name in names}, changes)

    def put_searches(
        self, task: np.ndarray, slot: np.ndarray, searches: Searches, there: np.ndarray
    ) -> None:
        values = dict(zip(SEARCHES, searches, strict=True))
        kept = np.full(len(slot), self._capacity)
        kept[there] = slot[there]
        self._set([((_index(task), _index(kept)), values)])

    def gather(
        self, task: np.ndarray, slot: np.ndarray, length: np.ndarray, window: int, states: int
    ) -> dict[str, Any]:
        self._write()
        place = _index(task), _index(slot), _index(length)
        return _gathered(self._fields, *place, window, states)

    def filled(self, name: str, task: int, count: int) -> Deferred:
        self._write()
        field = self._fields[name]
        shape = (int(count), *field.shape[2:])
        return Deferred(shape, field.dtype, partial(self._read, name, task, int(count)))

    def _read(self, name: str, task: int, count: int) -> np.ndarray:
        field = self._fields[name]
        found = np.empty((count, *field.shape[2:]), field.dtype)
        for part, slot in self._parts(np.arange(count)):
            found[part] = np.asarray(_chunk(field, np.int32(task), slot))[: len(found[part])]
        return found

    def fill(self, name: str, task: int, slots: np.ndarray, values: np.ndarray) -> None:
        self._write()
        for part, slot in self._parts(slots):
            chunk = np.resize(values[part], (len(slot), *values.shape[1:]))
            self._set([((np.full(len(slot), task, np.int32), slot), {name: chunk})])

    def _parts(self, slots: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields parts of the slots, each in an array of a fixed size. A slot outside of the ring fills it up."""
        size = min(_CHUNK, self._capacity)
        for start in range(0, len(slots), size):
            part = slice(start, start + size)
            slot = np.full(size, self._capacity, np.int32)
            slot[: len(slots[part])] = slots[part]
            yield part, slot


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


@jax.jit
def _chunk(field: jax.Array, task: Any, slot: Any) -> jax.Array:
    """Returns some rows of a ring."""
    return field[task, slot]
