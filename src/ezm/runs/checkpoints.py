"""Checkpoints that are either complete or absent, with checksums that reveal damage.

```text
checkpoints/
    000012000/            the state after 12,000 steps; the last two are kept
        agent.npz, ...    a part of the state each, as numpy.savez writes it; nested names are joined by "/"
        meta.json         plain values: counters and random state
        manifest.json     the number of this format, size and SHA-256 of every other file
    000012500.1/          a step saved again; 000012500 is removed when this is complete
    000013000.xyz.tmp/    a save in progress, or a killed save, which the next save removes
```

A checkpoint is written in full, with its manifest, and then renamed into place. Only then are older checkpoints
renamed, and then removed. So a kill at any moment loses nothing but the save in progress.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ezm.errors import UserError

_log = logging.getLogger(__name__)

FORMAT = 1
"""Version of this format. It increases when an older ezm can no longer read a checkpoint."""

KEPT_CHECKPOINTS = 2

MANIFEST = "manifest.json"
META = "meta.json"

_FIXES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}


class Checkpoint(NamedTuple):
    """A checkpoint that :meth:`Checkpoints.latest` has read."""

    step: int
    arrays: dict[str, Any]
    """Nested dictionaries of numpy arrays, as saved."""
    meta: dict[str, Any]


class Saved(NamedTuple):
    """The size and duration of a save by :meth:`Checkpoints.save`."""

    step: int
    bytes: int
    """Size on disk, manifest included."""
    seconds: float
    """Wall clock from the call to the complete checkpoint."""


class Folder(NamedTuple):
    """The place of a checkpoint. Later saves of one step have higher revisions."""

    step: int
    revision: int
    path: Path


Files = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 of each file of a checkpoint, by name."""


class Damaged(Exception):
    """A checkpoint does not match its manifest. The message names the first such file."""


class Checkpoints:
    """The checkpoints of one run, in the folder `path`. One process at a time may save."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """Returns the steps of the saved checkpoints, oldest first."""
        return sorted({folder.step for folder in self.folders()})

    def folders(self) -> list[Folder]:
        """Returns the folders of all checkpoints, oldest first.

        Raises:
            UserError: permissions forbid reading.
        """
        try:
            paths = list(self.path.iterdir()) if self.path.is_dir() else []
        except OSError as error:
            raise unreadable(self.path, error) from error
        names = ((re.fullmatch(r"(\d+)(?:\.(\d+))?", path.name), path) for path in paths)
        return sorted(Folder(int(name[1]), int(name[2] or 0), p) for name, p in names if name)

    def save(self, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> Saved:
        """Saves a checkpoint and returns once it is complete.

        The last checkpoint of an earlier step stays, and all others are removed. A kill or an error half-way leaves
        the existing checkpoints as they were.

        Args:
            step: environment steps per task so far. A checkpoint of the same step is replaced.
            arrays: the parts of the state by name. Each is a dictionary, which may be nested, of numbers or arrays of
                numpy or JAX. Arrays outside the machine's memory, with ``nbytes`` and ``__array__``, are read in turn.
            meta: plain values, as JSON can hold them.

        Raises:
            ValueError: an array has a dtype that .npz files cannot hold, or a name contains "/".
            UserError: the disk is full, or the folder cannot be written to. Nothing is left of the checkpoint.
        """
        start = time.monotonic()
        parts = {name: dict(_flat(part)) for name, part in arrays.items()}
        size = sum(array.nbytes for part in parts.values() for array in part.values())
        try:
            self.path.mkdir(exist_ok=True)
            for unfinished in self.path.glob("*.tmp"):  # of killed saves
                shutil.rmtree(unfinished)
            if size > shutil.disk_usage(self.path).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with tempfile.TemporaryDirectory(
                prefix=f"{step:09d}.", suffix=".tmp", dir=self.path, ignore_cleanup_errors=True
            ) as staging:
                written = _write(Path(staging) / "new", parts, meta)
                self._put_in_place(Path(staging), step)
        except OSError as error:
            if error.errno is None:
                raise
            raise self._unsaved(step, size, error.errno) from error
        return Saved(step, written, time.monotonic() - start)

    def latest(self, wanted: Sequence[str] = ("",)) -> Checkpoint | None:
        """Returns the newest checkpoint that matches its manifest and can be read, or None where none was saved.

        A broken checkpoint is passed over with a warning that names the damaged file.

        Args:
            wanted: beginnings of the names of the wanted arrays, such as ``agent/statistics/``. The contents of other
                files are neither read nor checked.

        Raises:
            UserError: there are checkpoints and none can be read, permissions forbid reading, or a newer ezm wrote
                the checkpoint.
        """
        folders = self.folders()
        for step, _, path in reversed(folders):
            try:
                return Checkpoint(step, *_read(path, tuple(wanted)))
            except PermissionError as error:
                raise unreadable(path, error) from error
            except (Damaged, OSError, ValueError, zipfile.BadZipFile) as error:
                reason = (str(error) or repr(error)).splitlines()[0][:200]
                _log.warning(f"checkpoint {path} is broken, passed over: {reason}")
        if folders:
            raise UserError(f"{self.path}: no checkpoint can be read; start a new run")
        return None

    def _put_in_place(self, staging: Path, step: int) -> None:
        before = self.folders()
        again = [folder.revision + 1 for folder in before if folder.step == step]
        os.rename(staging / "new", self.path / f"{step:09d}{f'.{max(again)}' if again else ''}")
        _sync(self.path)
        earlier = [folder for folder in before if folder.step < step]
        for folder in before:
            # Later steps were abandoned when the run resumed from an earlier checkpoint.
            if folder not in earlier[1 - KEPT_CHECKPOINTS :]:
                os.rename(folder.path, staging / folder.path.name)

    def _unsaved(self, step: int, size: int, code: int) -> UserError:
        free = shutil.disk_usage(self.path if self.path.is_dir() else self.path.parent).free
        what = "no space left" if code == errno.ENOSPC else os.strerror(code).lower()
        return UserError(
            f"cannot write checkpoint {step} to {self.path}: {what} "
            f"({size / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free): "
            f"{_FIXES.get(code, 'make the folder writable')}, then --resume {self.path.parent}"
        )


def read_manifest(path: Path) -> tuple[int, Files]:
    """Returns the format of the checkpoint in `path`, and its files by name.

    The format is 0 if the manifest has none: an older ezm wrote the files with Orbax.

    Raises:
        Damaged: the manifest is missing or damaged.
    """
    try:
        document = json.loads((path / MANIFEST).read_bytes())
        files = document["files"].items()
        found = {name: (int(each["size"]), str(each["sha256"])) for name, each in files}
        return int(document.get("format", 0)), found
    except FileNotFoundError as error:
        raise Damaged(f"{MANIFEST} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} is damaged") from error


def verify(path: Path, files: Files, read: Iterable[str]) -> None:
    """Compares the sizes of all files below `path` with the manifest's, and the contents of those to `read`.

    Raises:
        Damaged: a file is missing, or has another size or content.
    """
    # All sizes first, because reading takes a second for each gigabyte.
    for name, (size, _) in files.items():
        file = path / name
        if not file.is_file():
            raise Damaged(f"{name} is missing")
        if file.stat().st_size != size:
            raise Damaged(f"{name} has {file.stat().st_size} bytes, {size} were written")
    for name in read:
        if _sha256(path / name) != files[name][1]:
            raise Damaged(f"{name} is damaged, its checksum differs")


def _flat(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the arrays of nested dictionaries with their joined names."""
    for key, value in part.items():
        name = prefix + key
        if "/" in key:
            raise ValueError(f"the name {key!r} cannot be saved")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}/")
            continue
        array = value if hasattr(value, "nbytes") else np.asarray(value)
        # V: structures, and types from outside of numpy, which .npz files turn into bytes.
        if array.dtype.kind in "OV":
            raise ValueError(f"{name}: arrays of {array.dtype} cannot be saved")
        yield name, array


def _nested(flat: Iterable[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Returns the nested dictionaries that :func:`_flat` took apart."""
    nested: dict[str, Any] = {}
    for name, array in flat:
        *places, last = name.split("/")
        inner = nested
        for place in places:
            inner = inner.setdefault(place, {})
        inner[last] = array
    return nested


def _write(path: Path, parts: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> int:
    """Writes a checkpoint and its manifest to the new folder `path`. Returns its size in bytes."""
    path.mkdir()
    for part, arrays in parts.items():
        with durable(path / f"{part}.npz") as file, zipfile.ZipFile(file, "w") as npz:
            for name, array in arrays.items():
                with npz.open(f"{name}.npy", "w", force_zip64=True) as member:
                    # numpy.savez would keep a deferred array in memory while it reads the next.
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    with durable(path / META) as file:
        file.write(json.dumps(meta).encode())
    files = {
        file.name: {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(path.iterdir())
    }
    with durable(path / MANIFEST) as file:
        file.write(json.dumps({"format": FORMAT, "files": files}, indent=1).encode())
    _sync(path)
    return sum(file.stat().st_size for file in path.iterdir())


def _read(path: Path, wanted: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the wanted arrays of the checkpoint in `path`, and its plain values."""
    version, files = read_manifest(path)
    if version > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {version}, this ezm reads up to {FORMAT}: update ezm"
        )
    if version < FORMAT:
        raise Damaged(f"{MANIFEST} is an older ezm's")
    parts = [
        part
        for part, suffix in map(os.path.splitext, files)
        if suffix == ".npz" and any(f"{part}/".startswith(each[: len(part) + 1]) for each in wanted)
    ]
    verify(path, files, [META, *(f"{part}.npz" for part in parts)])
    arrays = {}
    for part in parts:
        with np.load(path / f"{part}.npz", allow_pickle=False) as npz:
            names = [name for name in npz.files if f"{part}/{name}".startswith(wanted)]
            arrays[part] = _nested((name, npz[name]) for name in names)
    return arrays, json.loads((path / META).read_bytes())


@contextlib.contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file to write, and flushes it to disk at the end."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def unreadable(path: Path, error: OSError) -> UserError:
    """Returns the error to raise when reading `path` failed with `error`."""
    return UserError(f"{path} cannot be read ({error.strerror}): check its permissions")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Flushes the names in `folder` to disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
