"""Results of ``ezm eval``: summaries of episodes, and the files in the run folder that keep them.

The file ``eval.json`` holds all evaluations of a run::

    {"format": 1, "evaluations": [{"date": ..., "step": ..., "planner": ..., "tasks": {...}, ...}, ...]}

A new evaluation is appended. It replaces an earlier evaluation only if all settings, the version and the machine are
equal, so that only the date differs. The file ``eval.csv`` has a line for each episode of all evaluations.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ezm.acting.evaluate import Episodes
from ezm.errors import UserError
from ezm.runs.checkpoints import unreadable
from ezm.runs.folder import unwritable, write_atomically
from ezm.statistics.aggregates import (
    Statistic,
    interquartile_mean,
    interval,
    mean_score,
    median_score,
    optimality_gap,
)
from ezm.statistics.intervals import mean_interval
from ezm.statistics.scores import normalised, success_bar
from ezm.tasks import TaskSpec, protocol_of

FORMAT = 1
"""Version of eval.json."""
AGGREGATES = {
    "iqm": interquartile_mean,
    "median": median_score,
    "mean": mean_score,
    "optimality_gap": optimality_gap,
}
"""Aggregates of the normalised scores of all episodes and tasks."""


@dataclass(frozen=True)
class Bounded:
    """A value and its 95 % bootstrap interval, None for a single episode."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TaskResult:
    """The episodes of one task, and their summary."""

    source: str
    """Origin of the task, see :class:`ezm.tasks.TaskSpec`."""
    protocol: str | None
    """Effect of a fall, None for a task without protocols."""
    mean: float
    """Mean undiscounted return."""
    half_width: float | None
    """Half the width of the mean's 95 % interval by Student's t, None for a single episode."""
    iqm: float
    """Interquartile mean of the returns."""
    iqm_low: float | None
    """Lower end of the interquartile mean's 95 % bootstrap interval, None for a single episode."""
    iqm_high: float | None
    success_bar: float | None
    """Return from which an episode counts as solved."""
    solved: float | None
    """Share of episodes at or above the bar."""
    normalised: float | None
    """Mean normalised return, see :mod:`ezm.statistics.scores`."""
    length: float
    """Mean agent steps of an episode."""
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    terminated: tuple[bool, ...]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: its settings and its results."""

    date: str
    """Date of its end, ISO 8601 with the offset from UTC."""
    step: int
    """Environment steps per task of the agent."""
    planner: str
    """``search`` or ``policy``."""
    protocol: str
    """The requested protocol, or the one of the run's training. Each task has its own too."""
    episodes: int
    """Episodes per task."""
    seed: int
    version: str
    """Version of ezm."""
    machine: Mapping[str, Any]
    tasks: Mapping[str, TaskResult]
    aggregate: Mapping[str, Bounded] | None
    """:data:`AGGREGATES` over the tasks with normalised scores, None without such a task."""

    def scores(self) -> dict[str, np.ndarray]:
        """Returns the normalised returns (N,) of each task that has them."""
        found = {name: normalised(task.source, task.returns) for name, task in self.tasks.items()}
        return {name: each for name, each in found.items() if each is not None}

    def _settings(self) -> tuple[Any, ...]:
        sources = [(name, task.source) for name, task in self.tasks.items()]
        asked = self.step, self.planner, self.protocol, self.episodes, self.seed
        return *asked, self.version, dict(self.machine), sources


def task_result(spec: TaskSpec, found: Episodes) -> TaskResult:
    """Summarises a task's episodes."""
    mean = mean_interval(found.returns)
    iqm = _bounded(found.returns[:, None], interquartile_mean)
    bar, scores = success_bar(spec.source), normalised(spec.source, found.returns)
    return TaskResult(
        source=spec.source,
        protocol=protocol_of(spec),
        mean=mean.mean,
        half_width=_known(mean.half_width),
        iqm=iqm.value,
        iqm_low=iqm.low,
        iqm_high=iqm.high,
        success_bar=bar,
        solved=None if bar is None else float((found.returns >= bar).mean()),
        normalised=None if scores is None else float(scores.mean()),
        length=float(found.lengths.mean()),
        returns=tuple(found.returns.tolist()),
        lengths=tuple(found.lengths.tolist()),
        terminated=tuple(found.terminated.tolist()),
    )


def aggregate(results: Sequence[TaskResult]) -> dict[str, Bounded] | None:
    """Returns :data:`AGGREGATES` of the normalised scores of tasks with equally many episodes, None without scores."""
    columns = [normalised(each.source, each.returns) for each in results]
    known = [column for column in columns if column is not None]
    if not known:
        return None
    scores = np.stack(known, axis=1)
    return {name: _bounded(scores, each) for name, each in AGGREGATES.items()}


def _bounded(scores: np.ndarray, statistic: Statistic) -> Bounded:
    value, low, high = interval(scores, statistic)
    return Bounded(value, _known(low), _known(high))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_evaluations(run: Path) -> list[Evaluation]:
    """Reads all evaluations in a run folder, the last one at the end. Without eval.json there are none.

    Raises:
        UserError: eval.json cannot be read, or is not a file that :func:`save_evaluation` wrote.
    """
    path = Path(run) / "eval.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] > FORMAT:
            raise UserError(f"{path} was written by a newer ezm: update ezm")
        return [_evaluation(each) for each in document["evaluations"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or of another version of ezm ({error!r}): move it away"
        ) from error


def save_evaluation(run: Path, evaluation: Evaluation) -> None:
    """Adds an evaluation to a run folder's eval.json and eval.csv. Each file is replaced as a whole.

    Raises:
        UserError: the folder cannot be written to, or its eval.json cannot be read.
    """
    run = Path(run)
    with _locked(run):
        made = evaluation._settings()
        kept = [each for each in read_evaluations(run) if each._settings() != made] + [evaluation]
        document = {"format": FORMAT, "evaluations": [asdict(each) for each in kept]}
        write_atomically(run / "eval.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
        write_atomically(run / "eval.csv", _csv(kept))


def _evaluation(document: Mapping[str, Any]) -> Evaluation:
    tasks = {}
    for name, values in document["tasks"].items():
        own: dict[str, Any] = {k: tuple(values[k]) for k in ("returns", "lengths", "terminated")}
        tasks[name] = TaskResult(**{**values, **own})
    found = document["aggregate"]
    aggregates = found and {name: Bounded(**each) for name, each in found.items()}
    return Evaluation(**{**document, "tasks": tasks, "aggregate": aggregates})


_COLUMNS = (
    *("date", "step", "planner", "protocol", "seed", "version", "task"),
    *("episode", "return", "length", "terminated", "normalised", "solved"),
)


def _csv(evaluations: Sequence[Evaluation]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in evaluations:
        for name, task in each.tasks.items():
            made = each.date, each.step, each.planner, task.protocol, each.seed, each.version, name
            scores = normalised(task.source, task.returns)
            rows = zip(task.returns, task.lengths, task.terminated, strict=True)
            for number, (value, length, terminated) in enumerate(rows):
                solved = None if task.success_bar is None else int(value >= task.success_bar)
                score = None if scores is None else float(scores[number])
                writer.writerow([*made, number, value, length, int(terminated), score, solved])
    return text.getvalue()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from saving at the same time. A file system without locks keeps nobody out."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
