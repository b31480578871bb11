"""The work of a training besides acting and learning: figures, evaluations and checkpoints, each at its own interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

import ezm
from ezm.acting.actor import Actor
from ezm.acting.collector import Experience
from ezm.acting.diagnostics import Diagnostic
from ezm.acting.evaluate import Evaluator, Mode, random_policy
from ezm.agent.search_policy import ActingParameters
from ezm.config import TrainConfig
from ezm.runs.machine import machine
from ezm.runs.metrics import MetricsLogger
from ezm.tasks import Suite
from ezm.training.display import Display
from ezm.training.pipeline import Updates
from ezm.training.timer import Timer

EVALUATED: tuple[Mode, ...] = ("search", "policy")
"""Modes of acting in evaluations. The difference shows what the search adds to the policy."""
_LOG_EVERY = 50  # steps per task between two rows of losses


class Moment(NamedTuple):
    """The state of a training after a step."""

    step: int
    """Environment steps per task so far."""
    seconds: float
    """Wall-clock seconds of training, earlier parts of the run included."""
    updates: int
    parameters: Callable[[], ActingParameters]
    """Returns the newest parameters. Few hooks need them."""
    experience: Experience | None = None
    """The step's experience. None outside of the loop."""
    learned: Updates | None = None
    """The step's last updates, which may still be under way. None before learning begins."""


class Hook(Protocol):
    """Work after some of the steps."""

    section: str
    """Section of the loop's timer that it counts to."""

    def due(self, step: int) -> bool:
        """Whether the step has this work."""

    def __call__(self, moment: Moment) -> None:
        """Does the work."""


@dataclass
class Recorder:
    """Where figures go."""

    suite: Suite
    metrics: MetricsLogger
    display: Display


@dataclass
class Episodes:
    """Records each training episode that ended."""

    recorder: Recorder
    section: str = "metrics"

    def due(self, step: int) -> bool:
        return True

    def __call__(self, moment: Moment) -> None:
        experience, names = moment.experience, self.recorder.suite.task_names
        assert experience is not None
        ends = experience.step
        for e in np.flatnonzero(ends.terminated | ends.truncated).tolist():
            name, policy = names[experience.task[e]], names[experience.behaviour_task[e]]
            value, length = float(ends.episode_return[e]), int(ends.episode_length[e])
            figures = {"return": value, "length": length, "terminated": bool(ends.terminated[e])}
            self.recorder.metrics.log(
                "episode", moment.step, moment.seconds, task=name, policy=policy, **figures
            )
            if policy == name:
                self.recorder.display.episode(name, value)


@dataclass
class Losses:
    """Records the losses of a step's last updates, and where the time went since the last such row."""

    recorder: Recorder
    timer: Timer
    section: str = "metrics"

    def __post_init__(self) -> None:
        self._timed = self.timer.taken()

    def due(self, step: int) -> bool:
        return step % _LOG_EVERY == 0

    def __call__(self, moment: Moment) -> None:
        learned, suite = moment.learned, self.recorder.suite
        if learned is None:
            return
        values = {name: float(value[-1]) for name, value in learned.figures.items()}
        errors = learned.value_errors(suite.num_tasks)
        values["value_error"] = float(np.nanmean(errors))
        for name, error in zip(suite.task_names, errors, strict=True):
            values[f"priority/{name}"] = float(error)
        for name, taken in self.timer.taken(self._timed).items():
            values[f"time/{name.replace(' ', '_')}"] = taken.seconds
        self._timed = self.timer.taken()
        self.recorder.metrics.log(
            "train", moment.step, moment.seconds, updates=moment.updates, **values
        )


@dataclass
class Position:
    """Shows how far the training is."""

    recorder: Recorder
    section: str = "metrics"

    def due(self, step: int) -> bool:
        return True

    def __call__(self, moment: Moment) -> None:
        self.recorder.display.update(moment.step, moment.updates, moment.seconds)


@dataclass
class Evaluation:
    """Evaluates the agent with its search and with its policy alone."""

    recorder: Recorder
    config: TrainConfig
    evaluator: Evaluator
    actor: Actor
    section: str = "evaluation"

    def due(self, step: int) -> bool:
        # The last step has its own, longer evaluation.
        return step % self.config.evaluate_every == 0 and step < self.config.steps

    def __call__(self, moment: Moment) -> None:
        self.run(moment, self.config.evaluation_episodes, EVALUATED)

    def run(self, moment: Moment, episodes: int, modes: tuple[Mode, ...]) -> None:
        """Records the returns of some episodes of each task, for each mode of acting."""
        for mode in modes:
            if mode == "random":
                act = random_policy(self.recorder.suite, self.config.seed)
            else:
                act = self.actor.policy(moment.parameters(), mode)
            returns = self.evaluator.run(act, episodes)
            for name, values in zip(self.recorder.suite.task_names, returns, strict=True):
                mean = float(np.mean(values))
                self.recorder.metrics.log(
                    "eval",
                    moment.step,
                    moment.seconds,
                    updates=moment.updates,
                    task=name,
                    mode=mode,
                    returns=[float(v) for v in values],
                    mean=mean,
                )
                if mode == "search":
                    self.recorder.display.evaluation(name, mean)


@dataclass
class Diagnosis:
    """Records how well the agent ranks actions, see :class:`ezm.acting.diagnostics.Diagnostic`."""

    recorder: Recorder
    config: TrainConfig
    diagnostic: Diagnostic
    section: str = "evaluation"

    def due(self, step: int) -> bool:
        every = self.config.diagnose_every
        return bool(every) and step % every == 0

    def __call__(self, moment: Moment) -> None:
        for task, name in enumerate(self.recorder.suite.task_names):
            figures = self.diagnostic(moment.parameters(), task, self.config.seed + moment.step)
            if figures:
                self.recorder.metrics.log(
                    "diagnostic", moment.step, moment.seconds, task=name, **figures
                )


@dataclass
class Checkpointing:
    """Saves the run."""

    every: int
    save: Callable[[], None]
    section: str = "saving"

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def __call__(self, moment: Moment) -> None:
        self.save()


def describe(recorder: Recorder, config: TrainConfig, parameters: int) -> None:
    """Records the suite, the machine and the number of parameters at the start of a run, and shows them."""
    suite, display = recorder.suite, recorder.display
    recorder.metrics.log(
        "start",
        0,
        0.0,
        version=ezm.__version__,
        machine=machine(),
        suite=suite.name,
        tasks=list(suite.task_names),
        parameters=parameters,
    )
    tasks = suite.num_tasks
    display.message(
        f"{tasks} tasks, {parameters / 1e6:.2f}M parameters, {config.steps:,} steps per task"
    )
    display.message(
        f"each step learns W = {config.windows(tasks):g} windows per task in "
        f"G = {config.updates_per_step:g} gradient steps of batch {config.optimizer.batch_size}"
    )
