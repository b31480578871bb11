"""Checkpoints that are complete or not there, and that tell when they are damaged.

::

    checkpoints/
        000012000/            the state after 12,000 steps; the last two are kept
            arrays/, meta/    as Orbax writes them
            manifest.json     size and SHA-256 of every other file
        000012500.1/          the same step, saved once more; 000012500 goes when this is complete
        000013000.xyz.tmp/    a save that runs, or that was killed: the next save removes it

A checkpoint is written in full, with its manifest, and then renamed into place. Only then do older ones go, and
they too are renamed before they are removed. So a kill at any moment loses nothing but the save that ran.
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
from ezm.replay.rows import Deferred

KEPT_CHECKPOINTS = 2

MANIFEST = "manifest.json"

_TOGETHER = 2**26
"""Bytes of deferred arrays that are in memory at once, and those of one array more."""

_FIXES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
}


class Checkpoint(NamedTuple):
    """What :meth:`Checkpoints.latest` found."""

    step: int
    arrays: Any
    """Nested dictionaries and lists of numpy arrays, as saved (tuples come back as lists)."""
    meta: dict[str, Any]


class Saved(NamedTuple):
    """What :meth:`Checkpoints.save` wrote."""

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
    """A checkpoint does not match its manifest; the message names the first such file."""


class Checkpoints:
    """The checkpoints of one run, in the folder `path`; one process at a time may save."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpointer: Any = None

    def steps(self) -> list[int]:
        """Steps of the saved checkpoints, oldest first."""
        return sorted({folder.step for folder in self._folders()})

    def save(self, step: int, arrays: Any, meta: dict[str, Any]) -> Saved:
        """Save a checkpoint and return once it is complete; the one before stays, older ones go.

        A kill or an error half-way leaves the earlier checkpoints as they were.

        Args:
            step: environment steps per task so far; counts from 0. A checkpoint of the same step
                is replaced.
            arrays: nested dictionaries and lists with string keys, of numbers or of numpy or JAX
                arrays. They come back bit for bit with their dtype and shape. Object arrays and
                arrays without elements are a ValueError: Orbax cannot write them. Those that are
                :class:`ezm.replay.rows.Deferred` come into memory a few at a time.
            meta: plain values, as JSON can hold them.

        Raises:
            UserError: the disk is full, or the folder cannot be written to; nothing is left of
                the checkpoint.
        """
        import jax

        start = time.monotonic()
        # Numpy throughout: a checkpoint then restores without the devices that made it.
        arrays = jax.tree.map(lambda x: x if isinstance(x, Deferred) else np.asarray(x), arrays)
        for leaf in jax.tree.leaves(arrays):  # Orbax would fail too, and leave threads that wait
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
        """The newest checkpoint that matches its manifest and can be read; None where none was saved.

        A broken one is passed over with a warning that names the damaged file. Checkpoints of
        ezm 0.1 before manifests were introduced have none, and are read as they are.

        Args:
            wanted: nested dictionaries that lead to the arrays to be read, with any number in place of each; None:
                all of them.

        Raises:
            UserError: there are checkpoints and none can be read, or they may not be read.
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
        """All that was saved, oldest first."""
        try:
            paths = list(self.path.iterdir()) if self.path.is_dir() else []
        except OSError as error:
            raise _unreadable(self.path, error) from error
        names = ((re.fullmatch(r"(\d+)(?:\.(\d+))?", path.name), path) for path in paths)
        return sorted(_Folder(int(name[1]), int(name[2] or 0), p) for name, p in names if name)

    def _remove_leftovers(self) -> None:
        """Remove what killed saves left, those of ezm without manifests too."""
        for pattern in ("*.tmp", "*.orbax-checkpoint-tmp*"):
            for unfinished in self.path.glob(pattern):
                shutil.rmtree(unfinished)

    @contextlib.contextmanager
    def _staging(self, step: int) -> Iterator[Path]:
        # A name of its own each time: threads of a failed save may still write to the last one.
        staging = Path(tempfile.mkdtemp(prefix=f"{step:09d}.", suffix=".tmp", dir=self.path))
        try:
            yield staging
        except BaseException:
            _remove_for_good(staging)
            raise
        shutil.rmtree(staging, ignore_errors=True)  # the checkpoint is complete by now

    def _write(self, path: Path, arrays: Any, meta: dict[str, Any]) -> int:
        """Write a checkpoint and its manifest to the new folder `path`. Returns its size in bytes."""
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
            # Later steps belong to a future that was given up when the run went on from here.
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

            # A warning to who resumes that there are no metadata of jax.Array: all arrays are numpy's.
            logging.getLogger("absl").addFilter(
                lambda record: "ArrayMetadata persistence" not in record.getMessage()
            )

            class InPlace(type_handlers.NumpyHandler):
                """Numpy arrays without a second copy of all of them, neither saved nor restored."""

                def __init__(self) -> None:
                    super().__init__(deepcopy_host_arrays=False)  # nothing changes meanwhile

                async def deserialize(self, infos: Any, args: Any = None) -> list[np.ndarray]:
                    # All at once, the files' contents would lie beside the arrays made of them.
                    args = args or [ocp.RestoreArgs()] * len(infos)
                    one_by_one = []
                    for info, arg in zip(infos, args, strict=True):
                        one_by_one += await super().deserialize([info], [arg])
                    return one_by_one

            class PartByPart(InPlace):
                """Deferred arrays, some brought here when those before are written."""

                async def _background_serialize(
                    self, values: Any, infos: Any, args: Any = None
                ) -> None:
                    part = np.cumsum([value.nbytes for value in values]) // _TOGETHER
                    for number in np.unique(part):
                        here = np.flatnonzero(part == number)
                        rest = [infos[i] for i in here], [args[i] for i in here]
                        # A name for the arrays would keep them while the next ones come.
                        await super()._background_serialize(
                            [np.asarray(values[i]) for i in here], *rest
                        )

            scalars = type_handlers.ScalarHandler()
            # Weights and observations hardly compress; without it saving takes half the time.
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
    """Arrays of any type and size, texts and empty ones too, as bytes: (n,) uint8."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return np.frombuffer(file.getvalue(), np.uint8)


def unpacked(content: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that :func:`packed` took."""
    with np.load(io.BytesIO(content.tobytes())) as file:
        return dict(file)


def write_manifest(path: Path) -> int:
    """Put sizes and checksums of all files below `path` into its manifest, everything on disk.

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
    """Compare the files below `path` with its manifest; does nothing where it has none.

    Raises:
        Damaged: a file is missing, has another size or another content.
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
    # All sizes first: reading takes a second for each gigabyte.
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
    """Have the names in `folder` on disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _remove_for_good(folder: Path) -> None:
    """Remove a folder that tensorstore's threads may still write to, and make anew, after an error.

    Done once it has been away for 0.2 s; after 5 s the rest is left to the next save.
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
    """Keep Orbax from logging the tracebacks of its threads: it raises the error as well."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _os_error(error: BaseException | None) -> int | None:
    """The errno that `error` stems from, or None; tensorstore has it in its message alone."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"\[os_error_code='(\d+)'\]", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
