"""A run's metrics, in metrics.jsonl, mirrored to TensorBoard and Weights & Biases.

metrics.jsonl holds one JSON object a line. Every row has

- ``kind``: "start", "episode", "train", "eval" or "diagnostic",
- ``step``: environment (agent) steps per task,
- ``seconds``: wall clock since the run began, earlier sessions of a resumed run included,

and the values of its kind. A number that is not finite is written as null. The page
docs/metrics.md explains every column.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from ezm.errors import UserError
from ezm.runs.checkpoints import unreadable
from ezm.runs.folder import RunFolder, unwritable, write_atomically
from ezm.runs.wandb import WandbMirror


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns all rows of a metrics.jsonl, as :func:`stream_metrics` yields them."""
    return list(stream_metrics(path))


def stream_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a metrics.jsonl, in the order they were written, or none where there is no file.

    A last line that a kill cut short is skipped.

    Raises:
        UserError: another line is damaged (the message names it), or the file cannot be read.
    """
    damaged = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if damaged:
                    raise UserError(
                        f"{path} line {damaged} is damaged (no row of a run): remove that line"
                    )
                row = _parse(line)
                if row is None:
                    damaged = number
                else:
                    yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error


class MetricsLogger:
    """Appends rows to a run's metrics.jsonl and mirrors their numbers. ``with`` closes it.

    One process at a time may hold a logger on a run: see :meth:`RunFolder.lock`.
    """

    def __init__(self, run: RunFolder, tensorboard: bool = True, wandb: bool = False) -> None:
        """Args:
            run: where metrics.jsonl and tensorboard/ go.
            tensorboard: also write TensorBoard events.
            wandb: also log to Weights & Biases, see :mod:`ezm.runs.wandb`.

        Raises:
            UserError: wandb is asked for and not installed, or the folder cannot be written to.
        """
        self._run = run
        self._tensorboard_wanted = tensorboard
        self._tensorboard: Any = None
        self._wandb = WandbMirror(run) if wandb else None
        try:
            run.metrics_path.touch()
            _mend_last_line(run.metrics_path)
        except OSError as error:
            raise unwritable(run.metrics_path, error) from error
        self.rows = sum(1 for _ in stream_metrics(run.metrics_path))
        """Number of rows in the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, kind: str, step: int, seconds: float, **values: Any) -> None:
        """Appends one row, which is in the file when this returns.

        Args:
            kind: "start", "episode", "train", "eval" or "diagnostic".
            step: environment steps per task.
            seconds: wall clock since the run began.
            values: plain values, numpy or JAX scalars and arrays, nested as JSON allows. Names
                such as "loss/total" are passed as ``**{"loss/total": 0.5}``.

        Raises:
            UserError: the file cannot be written to, e.g. because the disk is full.
        """
        row = _plain({"kind": kind, "step": step, "seconds": seconds, **values})
        _append(self._run.metrics_path, [row])
        self.rows += 1
        numbers = scalars(row)
        if numbers:
            tagged = [{"tag": tag, "simple_value": number} for tag, number in numbers.items()]
            self._mirror(row["step"], summary={"value": tagged})
            if self._wandb is not None:
                self._wandb.log(numbers, row["step"])

    def truncate(self, rows: int, step: int, *, keep_evaluations: bool = False) -> set[str]:
        """Moves all rows after the first ``rows`` to metrics.dropped.jsonl, before a run resumes at ``step``.

        They were measured after the checkpoint that the run resumes from, and will be measured
        again.

        Args:
            rows: number of rows at the checkpoint.
            step: of the checkpoint.
            keep_evaluations: whether later rows with evaluations of this step stay, because they are not measured again.

        Returns:
            The modes of acting that the kept rows evaluate at ``step``.
        """
        found = read_metrics(self._run.metrics_path)
        kept, dropped = found[:rows], list[dict[str, Any]]()
        for row in found[rows:]:
            stays = keep_evaluations and row["kind"] == "eval" and row["step"] == step
            (kept if stays else dropped).append(row)
        if dropped:
            _append(self._run.metrics_path.with_suffix(".dropped.jsonl"), dropped)
            write_atomically(self._run.metrics_path, _lines(kept))
        self.rows = len(kept)
        self._mirror(step + 1, session_log={"status": "START"})  # forgets this step and later ones
        return {row["mode"] for row in kept if row["kind"] == "eval" and row["step"] == step}

    def close(self) -> None:
        """Finishes all outputs. A second call does nothing."""
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):  # the error was raised when the row was written
                self._tensorboard.close()
            self._tensorboard = None
        if self._wandb is not None:
            self._wandb.close()

    def _mirror(self, step: int, **content: Any) -> None:
        """Writes an event to TensorBoard, if wanted."""
        if not self._tensorboard_wanted:
            return
        # Not SummaryWriter: on a full disk its thread dies, and then it blocks for ever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        folder = self._run.tensorboard_path
        try:
            if self._tensorboard is None:
                folder.mkdir(exist_ok=True)
                # Files are named by the second, so two writers within one second would share a file.
                self._tensorboard = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            self._tensorboard.write_event(Event(wall_time=time.time(), step=step, **content))
            self._tensorboard.flush()
        except OSError as error:
            raise unwritable(folder, error) from error


def is_own(row: Mapping[str, Any]) -> bool:
    """Returns whether the task's own search acted in the episode of a row, or its own policy in a run without search."""
    return row.get("policy", row["task"]) == row["task"] and not row.get("by_policy", False)


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a row by their TensorBoard tags.

    - An evaluation gives ``eval_search/<task>`` (or another mode, such as ``eval_policy/<task>``).
    - An episode that is the task's own (:func:`is_own`) gives ``episode_return/<task>`` and ``episode_length/<task>``.
    - A diagnostic gives ``diagnostic/<task>/<name>``.
    - A training row keeps its names, under ``train/`` where a name has no group.
    """
    kind, task = row["kind"], row.get("task")
    own = {k: v for k, v in row.items() if k not in ("kind", "step", "seconds", "task")}
    named: dict[str, Any] = {}
    if kind == "eval":
        named = {f"eval_{row.get('mode', 'search')}/{task}": row.get("mean")}
    elif kind == "episode" and is_own(row):
        named = {f"episode_{name}/{task}": row.get(name) for name in ("return", "length")}
    elif kind == "diagnostic":
        named = {f"diagnostic/{task}/{name}": value for name, value in own.items()}
    elif kind == "train":
        named = {name if "/" in name else f"train/{name}": v for name, v in own.items()}
    return {
        tag: float(value)
        for tag, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _mend_last_line(path: Path) -> None:
    """Completes or removes an unfinished last line, so that the next row starts on a new line."""
    with open(path, "rb+") as file:
        content = file.read()
        start = content.rstrip(b"\n").rfind(b"\n") + 1
        if _parse(content[start:]) is None:
            file.truncate(start)
        elif not content.endswith(b"\n"):
            file.write(b"\n")


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes all of `rows`, or nothing where the disk fills half-way."""
    rest = memoryview(_lines(rows).encode())
    try:
        with open(path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the row in a line, or None if the line is damaged or lacks a value that every row has."""
    try:
        row = json.loads(line)
        whole = isinstance(row["kind"], str) and math.isfinite(row["step"] + row["seconds"])
    except (ValueError, KeyError, TypeError):
        return None
    return row if whole else None


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _plain(value: Any) -> Any:
    """Converts `value` to plain values that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(np.asarray(value).tolist())
