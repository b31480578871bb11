"""The run folder: all files of one training run.

```text
runs/<name>/
    config.json           the configuration, the tasks at the start, and the version of this layout
    metrics.jsonl         metrics, one JSON object a line
    checkpoints/<step>/   parameters, optimiser, replay and counters; see checkpoints.py
    tensorboard/          the same figures for TensorBoard
    wandb.json, wandb/    the run at Weights & Biases, if requested
    films/                a film of each task, if `ezm watch` made them
    eval.json, eval.csv   evaluations by `ezm eval`, if any
    report.html           made from all of these
    lock                  held by the process that writes to the folder
```

Files are replaced, never edited in place, so that a kill at any moment leaves either the old content or the new. The
exception is metrics.jsonl, which is appended to. A last line that a kill cut short is skipped there.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ezm.errors import UserError
from ezm.runs.checkpoints import Checkpoint, Checkpoints, Saved, durable, unreadable

_log = logging.getLogger(__name__)

FORMAT = 3
"""Version of the layout. It increases when an older ezm can no longer read a run. Format 1 had checkpoints of Orbax."""


def new_run_path(root: Path, suite: str, preset: str, seed: int) -> Path:
    """Makes an empty folder for a new run under `root`, e.g. cartpole-cpu-s0-20260101-120000.

    No other process gets the same folder. Characters of the suite that do not belong in a file name become dashes.

    Raises:
        UserError: `root` cannot be written to.
    """
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", suite).strip("-.")[:60] or "run"
    name = f"{slug}-{preset}-s{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for count in itertools.count(1):
            path = root / (name if count == 1 else f"{name}-{count}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise unwritable(root / name, error) from error
    return path


def write_atomically(path: Path, text: str) -> None:
    """Replaces the content of `path` by `text` in one step.

    Raises:
        UserError: the path cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with durable(temporary) as file:
            file.write(text.encode())
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too leaves nothing behind
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


class RunFolder:
    """One run on disk. :meth:`create` and :meth:`open` make it."""

    def __init__(self, path: Path, config: dict[str, Any], tasks: Sequence[Any] = ()) -> None:
        self.path = path
        self.config = config
        """The configuration as plain values, from :meth:`create` or :meth:`replace_config`."""
        self.tasks = tasks
        """The tasks as plain values. Empty in runs of an early ezm 0.1, which did not write them."""
        self.checkpoints_path = path / "checkpoints"
        self.metrics_path = path / "metrics.jsonl"
        self.tensorboard_path = path / "tensorboard"
        self.films_path = path / "films"
        self.report_path = path / "report.html"
        self._checkpoints = Checkpoints(self.checkpoints_path)

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], tasks: Sequence[Any] = ()) -> RunFolder:
        """Makes a new run folder, with its parents.

        Args:
            path: a folder that does not exist yet or is empty.
            config: nested plain values, as JSON can hold them.
            tasks: descriptions of the tasks for a resume, also plain values.

        Raises:
            UserError: the path is a run already, holds other files, or cannot be written to.
        """
        path = _place(path)
        if (path / "config.json").exists():
            raise UserError(
                f"{path} holds a run already: go on with it by --resume {path}, or choose another"
            )
        try:
            if path.is_dir() and any(path.iterdir()):
                raise UserError(f"{path} is not empty: choose a new folder for the run")
            (path / "checkpoints").mkdir(parents=True)
        except OSError as error:
            raise unwritable(path, error) from error
        _write_config(path, config, tasks)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Opens an existing run folder.

        Raises:
            UserError: the path is not a run folder, a newer or an older ezm wrote it, or its config.json is damaged
                or unreadable.
        """
        run, version = cls.open_any(path)
        if version < FORMAT:
            raise UserError(
                f"{run.path} was written by an older ezm: convert it with `ezm convert {shlex.quote(str(path))}`"
            )
        return run

    @classmethod
    def open_any(cls, path: Path) -> tuple[RunFolder, int]:
        """Opens a run folder of this format or of an older one. Returns it and its format.

        Raises:
            UserError: as :meth:`open`, except for an older format.
        """
        path = _place(path)
        file = path / "config.json"
        try:
            if not file.is_file():
                why = "holds no config.json" if path.is_dir() else "does not exist"
                raise UserError(
                    f"{path} is not a run folder, it {why}: name a folder that ezm train made"
                )
            document = json.loads(file.read_text(encoding="utf-8"))
            version, config = document["format"], document["config"]
            tasks = list(document.get("tasks") or ())
            newer = version > FORMAT
        except OSError as error:
            raise unreadable(file, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r}): restore it from a copy") from error
        if newer:
            raise UserError(
                f"{path} has run format {version}, this ezm reads up to {FORMAT}: update ezm"
            )
        return cls(path, config, tasks), version

    def replace_config(self, config: dict[str, Any]) -> None:
        """Replaces the configuration, for example when a run is given more steps. The caller must hold the lock.

        Raises:
            UserError: the folder cannot be written to.
        """
        _write_config(self.path, config, self.tasks)
        self.config = config

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder, so that no other process writes to it. The system frees the lock when this process ends.

        Where the system has no locks, it prints a line and goes on without a lock.

        Raises:
            UserError: another process holds the run (the message names it).
        """
        try:
            file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise unwritable(self.path / "lock", error) from error
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
                raise UserError(
                    f"{self.path} is in use by process {holder}: wait for it or stop it first"
                ) from error
            except OSError as error:  # NFS may have none
                _log.warning(
                    f"{self.path} cannot be locked ({error.strerror}): let no other process train there"
                )
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(file)

    def save_checkpoint(self, step: int, arrays: Mapping[str, Any], meta: dict[str, Any]) -> Saved:
        """Saves a checkpoint, see :meth:`Checkpoints.save`."""
        return self._checkpoints.save(step, arrays, meta)

    def latest_checkpoint(self, wanted: Sequence[str] = ("",)) -> Checkpoint | None:
        """Returns the newest readable checkpoint, or some of its arrays, see :meth:`Checkpoints.latest`."""
        return self._checkpoints.latest(wanted)

    def checkpoint_steps(self) -> list[int]:
        """Returns the steps of the saved checkpoints, oldest first."""
        return self._checkpoints.steps()


def _place(path: Path) -> Path:
    """Returns the absolute path.

    Raises:
        UserError: its name cannot be encoded in this locale, or the current folder is gone.
    """
    try:
        path = Path(path).absolute()
        str(path).encode(), os.fsencode(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} begins in the current folder, which is gone: change to another one, or give the whole path"
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path} has letters that this locale cannot write: set LC_ALL=C.UTF-8, or choose a name in ASCII"
        ) from error
    return path


def _write_config(path: Path, config: dict[str, Any], tasks: Sequence[Any]) -> None:
    document = {"format": FORMAT, "config": config, "tasks": tasks}
    write_atomically(path / "config.json", json.dumps(document, indent=2) + "\n")


def unwritable(path: Path, error: OSError) -> UserError:
    """Returns the error to raise when writing to `path` failed with `error`."""
    return UserError(
        f"cannot write to {path} ({error.strerror}): free the place or choose another folder"
    )
