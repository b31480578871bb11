"""Checkpoints that are either complete or absent, with checksums that reveal damage.

```text
checkpoints/
    000012000/            the state after 12,000 steps; the last two are kept
        arrays/, meta/    as Orbax writes them
        manifest.json     size and SHA-256 of every other file
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
import io
import json
import logging
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ezm.errors import UserError
from ezm.experience.rows import Deferred

KEPT_CHECKPOINTS = 2

MANIFEST = "manifest.json"

_TOGETHER = 2**26
"""Bytes of deferred arrays that are in memory at once, apart from one more array."""

_FIXES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}


class Checkpoint(NamedTuple):
    """A checkpoint that :meth:`Checkpoints.latest` has read."""

    step: int
    arrays: Any
    """Nested dictionaries and lists of numpy arrays, as saved (tuples come back as lists)."""
    meta: dict[str, Any]


class Saved(NamedTuple):
    """The size and duration of a save by :meth:`Checkpoints.save`."""

    step: int
    bytes: int
    """Size on disk, manifest included."""
    seconds: float
    """Wall clock from the call to the complete checkpoint."""


class _Folder(NamedTuple):
    step: int
    revision: int
    path: Path


class Damaged(Exception):
    """A checkpoint does not match its manifest. The message names the first such file."""


class Checkpoints:
    """The checkpoints of one run, in the folder `path`. One process at a time may save."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpointer: Any = None

    def steps(self) -> list[int]:
        """Returns the steps of the saved checkpoints, oldest first."""
        return sorted({folder.step for folder in self._folders()})

    def save(self, step: int, arrays: Any, meta: dict[str, Any]) -> Saved:
        """Saves a checkpoint and returns once it is complete.

        The last checkpoint of an earlier step stays, and all others are removed. A kill or an error half-way leaves
        the existing checkpoints as they were.

        Args:
            step: environment steps per task so far, from 0. A checkpoint of the same step is replaced.
            arrays: nested dictionaries and lists with string keys, of numbers or of numpy or JAX
                arrays. They are restored bit for bit with their dtype and shape. Object arrays and
                arrays without elements are a ValueError, because Orbax cannot write them. Arrays of type
                :class:`ezm.experience.rows.Deferred` are read into memory a few at a time.
            meta: plain values, as JSON can hold them.

        Raises:
            UserError: the disk is full, or the folder cannot be written to. Nothing is left of
                the checkpoint.
        """
        import jax

        start = time.monotonic()
        # Numpy arrays throughout, so that a checkpoint restores without the devices that made it.
        arrays = jax.tree.map(lambda x: x if isinstance(x, Deferred) else np.asarray(x), arrays)
        for leaf in jax.tree.leaves(arrays):  # Orbax would fail too, and leave waiting threads
            if leaf.dtype == object or not leaf.size:
                raise ValueError(f"arrays of {leaf.dtype} and shape {leaf.shape} cannot be saved")
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        try:
            self.path.mkdir(exist_ok=True)
            self._remove_leftovers()
            free = shutil.disk_usage(self.path).free
            if size > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with self._staging(step) as staging:
                written = self._write(staging / "new", arrays, meta)
                self._put_in_place(staging, step)
        except Exception as error:
            code = _os_error(error)
            if code is None:
                raise
            raise self._unsaved(step, size, code) from error
        return Saved(step, written, time.monotonic() - start)

    def latest(self, wanted: Any = None) -> Checkpoint | None:
        """Returns the newest checkpoint that matches its manifest and can be read, or None where none was saved.

        A broken checkpoint is passed over with a warning that names the damaged file. Checkpoints of
        ezm 0.1 before manifests were introduced have no manifest, and are read as they are.

        Args:
            wanted: nested dictionaries that lead to the wanted arrays, with any number in place of each. None reads
                all arrays.

        Raises:
            UserError: there are checkpoints and none can be read, or permissions forbid reading.
        """
        import orbax.checkpoint as ocp

        part: dict[str, Any] = {} if wanted is None else {"item": wanted, "partial_restore": True}
        folders = self._folders()
        for step, _, path in reversed(folders):
            try:
                verify(path)
                with _one_report():
                    restored = self._orbax().restore(
                        path,
                        args=ocp.args.Composite(
                            arrays=ocp.args.PyTreeRestore(**part), meta=ocp.args.JsonRestore()
                        ),
                    )
                return Checkpoint(step, restored["arrays"], restored["meta"])
            except PermissionError as error:
                raise _unreadable(path, error) from error
            except Exception as error:  # noqa: BLE001 - damage raises many kinds
                reason = (str(error) or repr(error)).splitlines()[0][:200]
                warnings.warn(f"checkpoint {path} is broken, passed over: {reason}", stacklevel=3)
        if folders:
            raise UserError(f"{self.path}: no checkpoint can be read; start a new run")
        return None

    def _folders(self) -> list[_Folder]:
        """Returns the folders of all checkpoints, oldest first."""
        try:
            paths = list(self.path.iterdir()) if self.path.is_dir() else []
        except OSError as error:
            raise _unreadable(self.path, error) from error
        names = ((re.fullmatch(r"(\d+)(?:\.(\d+))?", path.name), path) for path in paths)
        return sorted(_Folder(int(name[1]), int(name[2] or 0), p) for name, p in names if name)

    def _remove_leftovers(self) -> None:
        """Removes what killed saves left, also those by an ezm without manifests."""
        for pattern in ("*.tmp", "*.orbax-checkpoint-tmp*"):
            for unfinished in self.path.glob(pattern):
                shutil.rmtree(unfinished)

    @contextlib.contextmanager
    def _staging(self, step: int) -> Iterator[Path]:
        # A new name each time, because threads of a failed save may still write to the last folder.
        staging = Path(tempfile.mkdtemp(prefix=f"{step:09d}.", suffix=".tmp", dir=self.path))
        try:
            yield staging
        except BaseException:
            _remove_for_good(staging)
            raise
        shutil.rmtree(staging, ignore_errors=True)  # the checkpoint is complete by now

    def _write(self, path: Path, arrays: Any, meta: dict[str, Any]) -> int:
        """Writes a checkpoint and its manifest to the new folder `path`. Returns its size in bytes."""
        import orbax.checkpoint as ocp

        with _one_report():
            self._orbax().save(
                path,
                args=ocp.args.Composite(
                    arrays=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(meta)
                ),
            )
        return write_manifest(path)

    def _put_in_place(self, staging: Path, step: int) -> None:
        before = self._folders()
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
            f"({_megabytes(size)} needed, {_megabytes(free)} free): "
            f"{_FIXES.get(code, 'make the folder writable')}, then --resume {self.path.parent}"
        )

    def _orbax(self) -> Any:
        if self._checkpointer is None:
            import orbax.checkpoint as ocp
            from orbax.checkpoint import type_handlers

            # Orbax would warn at a resume that jax.Array metadata is missing, but all arrays are numpy's.
            logging.getLogger("absl").addFilter(
                lambda record: "ArrayMetadata persistence" not in record.getMessage()
            )

            class InPlace(type_handlers.NumpyHandler):
                """Saves and restores numpy arrays without a second copy of all of them."""

                def __init__(self) -> None:
                    super().__init__(deepcopy_host_arrays=False)  # nothing changes meanwhile

                async def deserialize(self, infos: Any, args: Any = None) -> list[np.ndarray]:
                    # Restored all at once, the files' contents and the arrays would be in memory together.
                    args = args or [ocp.RestoreArgs()] * len(infos)
                    one_by_one = []
                    for info, arg in zip(infos, args, strict=True):
                        one_by_one += await super().deserialize([info], [arg])
                    return one_by_one

            class PartByPart(InPlace):
                """Saves deferred arrays in parts. It reads the next part when the part before is written."""

                async def _background_serialize(
                    self, values: Any, infos: Any, args: Any = None
                ) -> None:
                    part = np.cumsum([value.nbytes for value in values]) // _TOGETHER
                    for number in np.unique(part):
                        here = np.flatnonzero(part == number)
                        rest = [infos[i] for i in here], [args[i] for i in here]
                        # A variable would keep these arrays alive while the next arrays are read.
                        await super()._background_serialize(
                            [np.asarray(values[i]) for i in here], *rest
                        )

            scalars = type_handlers.ScalarHandler()
            # Weights and observations hardly compress, and saving without compression takes half the time.
            arrays = ocp.PyTreeCheckpointHandler(
                use_ocdbt=True,
                use_zarr3=True,
                use_compression=False,
                type_handler_registry=type_handlers.create_type_handler_registry(
                    (np.ndarray, InPlace()),
                    (Deferred, PartByPart()),
                    (int, scalars),
                    (float, scalars),
                ),
            )
            self._checkpointer = ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(arrays=arrays, meta=ocp.JsonCheckpointHandler())
            )
        return self._checkpointer


def packed(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Packs arrays of any type and size, also texts and empty arrays, into bytes, (n,) uint8."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return np.frombuffer(file.getvalue(), np.uint8)


def unpacked(content: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays that :func:`packed` packed."""
    with np.load(io.BytesIO(content.tobytes())) as file:
        return dict(file)


def write_manifest(path: Path) -> int:
    """Writes sizes and checksums of all files below `path` to its manifest, and flushes the manifest to disk.

    Returns:
        The size of the folder in bytes, the manifest included.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = {
        file.relative_to(path).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in files
    }
    with open(path / MANIFEST, "w", encoding="utf-8") as manifest:
        json.dump({"files": entries}, manifest, indent=1)
        manifest.flush()
        os.fsync(manifest.fileno())
        size = manifest.tell()
    _sync(path)
    return size + sum(file.stat().st_size for file in files)


def verify(path: Path) -> None:
    """Compares the files below `path` with its manifest, if it has one.

    Raises:
        Damaged: a file is missing, or has another size or content, or the manifest is damaged.
    """
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        return
    try:
        entries = json.loads(text)["files"]
        expected = {
            path / name: (entry["size"], entry["sha256"]) for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} is damaged") from error
    # All sizes first, because reading takes a second for each gigabyte.
    for file, (size, _) in expected.items():
        name = file.relative_to(path)
        if not file.is_file():
            raise Damaged(f"{name} is missing")
        if file.stat().st_size != size:
            raise Damaged(f"{name} has {file.stat().st_size} bytes, {size} were written")
    for file, (_, checksum) in expected.items():
        if _sha256(file) != checksum:
            raise Damaged(f"{file.relative_to(path)} is damaged, its checksum differs")


def _unreadable(path: Path, error: OSError) -> UserError:
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


def _remove_for_good(folder: Path) -> None:
    """Removes a folder that tensorstore's threads may still write to, and create again, after an error.

    Returns once the folder has been gone for 0.2 s. After 5 s it leaves the rest to the next save.
    """
    end = time.monotonic() + 5
    gone = time.monotonic()
    while time.monotonic() < min(gone + 0.2, end):
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            gone = time.monotonic()
        time.sleep(0.01)


@contextlib.contextmanager
def _one_report() -> Iterator[None]:
    """Keeps Orbax from logging the tracebacks of its threads, because it raises the error as well."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _os_error(error: BaseException | None) -> int | None:
    """Returns the errno that caused `error`, or None. Tensorstore has it in its message alone."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"\[os_error_code='(\d+)'\]", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
