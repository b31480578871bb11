"""The records of a run as arrays for tables and figures, read once, row by row."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ezm.acting.evaluate import Mode
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import is_own, stream_metrics

Axis = Literal["step", "seconds"]
"""The x axis of a curve: environment steps per task, or wall-clock seconds of the run."""


class Series(NamedTuple):
    """Repeated measurements of one value: three (n,) arrays."""

    step: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


class Evaluated(NamedTuple):
    """The episodes of one evaluation of one task."""

    step: int
    seconds: float
    returns: tuple[float, ...]


@dataclass
class Record:
    """Everything that one run recorded, except its checkpoints."""

    path: Path
    config: Mapping[str, Any]
    start: Mapping[str, Any] = field(default_factory=dict)
    """The row "start": version, machine, suite, tasks, parameters."""
    step: int = 0
    """Environment steps per task of the last row."""
    seconds: float = 0.0
    """Wall-clock seconds of the last row."""
    updates: int | None = None
    """Learner updates at the last row that has them."""
    tasks: list[str] = field(default_factory=list)
    """Tasks in the suite's order. Without a start row, in the order of their first rows."""
    episodes: dict[str, Series] = field(default_factory=dict)
    """Task -> returns of the task's own training episodes (:func:`ezm.runs.metrics.is_own`)."""
    training: dict[str, Series] = field(default_factory=dict)
    """Name -> value of the rows "train"."""
    diagnostics: dict[str, dict[str, Series]] = field(default_factory=dict)
    """Name -> task -> value."""
    evaluations: dict[tuple[str, str], dict[int, Evaluated]] = field(default_factory=dict)
    """(Task, mode) -> step -> evaluation. The last evaluation counts if a step has several."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def suite(self) -> str:
        return str(self.start.get("suite", self.config.get("suite", "")))

    @classmethod
    def read(cls, path: Path) -> Record:
        """Reads the record of a run from its folder. The run may still be going on.

        Raises:
            UserError: not a run folder, or damaged metrics.
        """
        run = RunFolder.open(path)
        return cls.of(run.path, run.config, stream_metrics(run.metrics_path))

    @classmethod
    def of(cls, path: Path, config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Record:
        """Makes the record from rows of metrics.jsonl.

        Raises:
            UserError: a row lacks a value that its kind must have.
        """
        made = cls(path, config)
        numbers: dict[tuple[str, str, str], array[float]] = defaultdict(lambda: array("d"))
        for number, row in enumerate(rows, start=1):
            try:
                for key, value in made._add(row):
                    if isinstance(value, int | float) and not isinstance(value, bool):
                        numbers[key].extend((made.step, made.seconds, value))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(
                    f"{path / 'metrics.jsonl'} line {number} is damaged ({error!r}): remove that line"
                ) from error
        for (kind, name, task), values in numbers.items():
            series = Series(*np.frombuffer(values).reshape(-1, 3).T)
            if kind == "episode":
                made.episodes[task] = series
            elif kind == "train":
                made.training[name] = series
            else:
                made.diagnostics.setdefault(name, {})[task] = series
        return made

    def _add(self, row: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, str], Any]]:
        """Adds a row. Yields (kind, name, task) and the value, for each value that is measured repeatedly."""
        kind, task = row["kind"], row.get("task", "")
        self.step, self.seconds = int(row["step"]), float(row["seconds"])
        if row.get("updates") is not None:
            self.updates = int(row["updates"])
        if kind == "start":
            self.start, self.tasks = row, list(row["tasks"])
        elif task and task not in self.tasks:
            self.tasks.append(task)
        if kind == "episode" and is_own(row):
            yield (kind, "return", row["task"]), row["return"]
        elif kind == "eval":
            returns = tuple(float(r) for r in row["returns"] if r is not None)
            if returns:
                found = self.evaluations.setdefault((row["task"], row["mode"]), {})
                found[self.step] = Evaluated(self.step, self.seconds, returns)
        elif kind in ("train", "diagnostic"):
            for name, value in row.items():
                if name not in ("kind", "step", "seconds", "task"):
                    yield (kind, name, task), value

    def returns(self, task: str, mode: Mode = "search") -> list[Evaluated]:
        """Returns the evaluations of a task in order of their steps."""
        return [each for _, each in sorted(self.evaluations.get((task, mode), {}).items())]

    def last(self, task: str, mode: Mode = "search") -> tuple[float, ...]:
        """Returns the returns of a task's last evaluation, empty before the first."""
        found = self.returns(task, mode)
        return found[-1].returns if found else ()
