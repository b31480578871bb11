"""Recording of a training: rows of metrics.jsonl, of which the display shows the returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import ezm
from ezm.acting.collector import Experience
from ezm.acting.evaluate import Mode
from ezm.config import TrainConfig
from ezm.runs.machine import machine
from ezm.runs.metrics import MetricsLogger
from ezm.tasks import Suite
from ezm.training.display import Display
from ezm.training.pipeline import Updates
from ezm.training.timer import Timer


class Position(NamedTuple):
    """How far a training is."""

    step: int
    """Environment steps per task."""
    updates: int
    seconds: float
    """Wall clock, earlier parts of the run included."""


class Recorder:
    """Writes a training's rows.

    Args:
        suite: the tasks.
        metrics: takes the rows.
        display: shows returns.
        timer: of the loop.
    """

    def __init__(
        self, suite: Suite, metrics: MetricsLogger, display: Display, timer: Timer
    ) -> None:
        self._names, self._suite = suite.task_names, suite
        self._metrics, self._display = metrics, display
        self._timer, self._timed = timer, timer.taken()

    def start(self, config: TrainConfig, parameters: int) -> None:
        """Records and shows what a new run is: its suite, machine, number of parameters and ratio."""
        tasks = len(self._names)
        self._metrics.log(
            "start",
            0,
            0.0,
            version=ezm.__version__,
            machine=machine(),
            suite=self._suite.name,
            tasks=list(self._names),
            parameters=parameters,
        )
        self._display.message(
            f"{tasks} task{'s' * (tasks > 1)}, {parameters / 1e6:.2f}M parameters, {config.steps:,} steps per task"
        )
        uses = config.optimizer.batch_uses
        self._display.message(
            f"each step learns W = {config.windows(tasks):g} windows per task in "
            f"G = {config.updates_per_step:g} gradient steps of batch {config.optimizer.batch_size}"
            + f", each batch in {uses} of them"
            * (uses > 1)
        )
        unknown = [task.name for task in self._suite.tasks if task.reward_range is None]
        if unknown and config.model.reward_range is None and not config.loss.reward_scaling:
            self._display.message(
                f"{', '.join(unknown)}: no reward_range is declared, so bins reach from -299 to 299, coarse for small "
                "rewards; declare it, or use --loss.reward-scaling"
            )

    def episodes(self, at: Position, experience: Experience) -> None:
        """Records each training episode that the step ended."""
        ends = experience.step
        for e in np.flatnonzero(ends.terminated | ends.truncated).tolist():
            name = self._names[experience.task[e]]
            policy = self._names[experience.behaviour_task[e]]
            figures = {
                "return": ends.episode_return[e],
                "length": ends.episode_length[e],
                "terminated": ends.terminated[e],
            }
            by_policy = experience.by_policy[e]
            self._metrics.log(
                "episode",
                at.step,
                at.seconds,
                task=name,
                policy=policy,
                by_policy=by_policy,
                **figures,
            )
            if policy == name and not by_policy:
                self._display.episode(name, figures["return"])

    def losses(self, at: Position, learned: Updates) -> None:
        """Records the losses of a step's last update, and where the time went since the last such row."""
        errors = learned.value_errors(len(self._names))
        values: dict[str, Any] = {name: value[-1] for name, value in learned.figures.items()}
        values["value_error"] = np.nanmean(errors)
        for name, error in zip(self._names, errors, strict=True):
            values[f"priority/{name}"] = error
        for name, taken in self._timer.taken(self._timed).items():
            values[f"time/{name.replace(' ', '_')}"] = taken.seconds
        self._timed = self._timer.taken()
        self._metrics.log("train", at.step, at.seconds, updates=at.updates, **values)

    def evaluation(self, at: Position, mode: Mode, returns: Sequence[Sequence[float]]) -> None:
        """Records the returns of each task's episodes, for one mode of acting."""
        for name, values in zip(self._names, returns, strict=True):
            mean = float(np.mean(values))
            figures = {"updates": at.updates, "mode": mode, "returns": values, "mean": mean}
            self._metrics.log("eval", at.step, at.seconds, task=name, **figures)
            if mode == "search":
                self._display.evaluation(name, mean)
