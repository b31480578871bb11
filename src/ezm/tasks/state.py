"""Environments as bytes, to continue them in another process.

A snapshot (:meth:`ezm.tasks.Task.snapshot`) is pickled, so load only files that you wrote yourself. Some objects
belong to the environment, such as a compiled model or a function that cannot be pickled. The pickle holds only their
names. The environment that loads the pickle supplies the objects.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from ezm.errors import UserError
from ezm.tasks.task import Task

_FIX = "resume from another checkpoint, or start a new run"


def pack(task: Task) -> np.ndarray:
    """Returns a task's snapshot for :func:`restored`, (bytes,) uint8, empty if it cannot be written."""
    content = io.BytesIO()
    try:
        _Pickler(content, task.simulator.shared()).dump(task.snapshot())
    except Exception:  # noqa: BLE001 - there are no snapshots, or users' objects fail to pickle in many ways
        return np.zeros(0, np.uint8)
    return np.frombuffer(content.getvalue(), np.uint8)


def restored(task: Task, packed: np.ndarray) -> bool:
    """Puts a task of the same kind into a packed state, and returns whether that was possible."""
    try:
        task.restore(_Unpickler(packed.tobytes(), task.simulator.shared()).load())
    except Exception:  # noqa: BLE001 - nothing was packed, or the user's code has changed in between
        return False
    return True


def pack_all(tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Returns the states of E environments: one array for each, their task names, and checksums."""
    packed = [pack(task) for task in tasks]
    return {
        "tasks": _names(tasks),
        "checksums": np.array([zlib.crc32(each.tobytes()) for each in packed], np.uint32),
        **{f"environment_{index}": each for index, each in enumerate(packed)},
    }


def check(
    state: Mapping[str, np.ndarray], tasks: Sequence[Task], like: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Checks the output of :func:`pack_all` and returns the packed state of each environment.

    Args:
        like: arrays that ``state`` must also have, with this shape and kind of type.

    Raises:
        UserError: ``state`` is of other environments, or damaged.
    """
    names, own = state.get("tasks"), _names(tasks)
    if names is not None and names.tolist() != own.tolist():
        raise UserError(
            f"saved environments: they are of {_listed(names)} and this suite has {_listed(own)}; "
            "resume with the suite and the number of copies that the run began with"
        )
    expected = {**like, "tasks": own, "checksums": np.zeros(len(tasks), np.uint32)}
    for key, array in expected.items():
        found = state.get(key)
        if found is None or found.shape != array.shape or found.dtype.kind != array.dtype.kind:
            raise UserError(f"saved environments: {key!r} is missing or damaged; {_FIX}")
    packed = []
    for index, checksum in enumerate(state["checksums"].tolist()):
        each = state.get(f"environment_{index}")
        if each is None or zlib.crc32(each.tobytes()) != checksum:
            raise UserError(
                f"saved environments: 'environment_{index}' is missing or damaged; {_FIX}"
            )
        packed.append(each)
    return packed


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: Mapping[str, object]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._names = {id(value): name for name, value in shared.items()}

    def persistent_id(self, value: object) -> str | None:
        return self._names.get(id(value))


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, shared: Mapping[str, object]) -> None:
        super().__init__(io.BytesIO(content))
        self._shared = shared

    def persistent_load(self, name: str) -> object:
        return self._shared[name]


def _names(tasks: Sequence[Task]) -> np.ndarray:
    return np.array([task.spec.name for task in tasks])


def _listed(names: np.ndarray) -> str:
    kinds = dict.fromkeys(str(name) for name in names.ravel())
    return f"{names.size} environments ({', '.join(kinds)})"
