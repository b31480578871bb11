"""Profile of training: the time that each part of a run's loop takes.

JAX returns before its results are ready. So the profile waits for each timed part, to attribute its seconds to it. This
stops other work from running during an update. Therefore the loop runs unchanged for half of the time, which gives its
rates. It runs with every part timed for the other half, which gives the parts' shares.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from ezm.acting.evaluate import Mode
from ezm.acting.load import as_trained, suite_of
from ezm.config import TrainConfig, to_dict
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.report.figures import shares_figure
from ezm.runs.folder import RunFolder, unwritable, write_atomically
from ezm.runs.machine import machine, peak_memory
from ezm.runs.metrics import MetricsLogger
from ezm.training.display import Display
from ezm.training.trainer import EVALUATED, Trainer

_WARM_UP = 3  # updates before the clock starts, after which everything is compiled
_TARGETS = "targets"  # made in a separate thread
_BOUNDS = {
    "gradient step": "the learner: {share:.0%} of the time is the gradient step; targets run beside it",
    "waiting for targets": "the targets: {share:.0%} of the time is waiting for them",
    "acting (search)": "acting: {share:.0%} of the time is the search for actions",
    "environments": "the environments: {share:.0%} of the time is their steps",
}


@dataclass(frozen=True)
class Part:
    """Total seconds and number of the calls of one part."""

    seconds: float = 0.0
    calls: int = 0


class Stopwatch:
    """Measures seconds and calls of a program's parts, which must not be nested.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.parts: dict[str, Part] = {}
        """The parts that were called, by name."""
        self._clock = clock

    def watch(self, name: str, owner: object, method: str) -> None:
        """Counts calls of ``owner.method`` as the part ``name`` from now on, each until its results are ready."""
        function = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._clock()
            result = jax.block_until_ready(function(*args, **kwargs))
            seconds = self._clock() - start
            part = self.parts.get(name, Part())
            self.parts[name] = Part(part.seconds + seconds, part.calls + 1)
            return result

        setattr(owner, method, timed)


@dataclass(frozen=True)
class Pace:
    """Duration, environment steps and updates of a stretch of the loop."""

    seconds: float
    env_steps: int
    """Environment steps of all tasks together."""
    updates: int

    @property
    def env_steps_per_s(self) -> float:
        return self.env_steps / self.seconds

    @property
    def updates_per_s(self) -> float:
        return self.updates / self.seconds


@dataclass(frozen=True)
class Occasion:
    """A periodic task of the run, such as an evaluation or a checkpoint."""

    seconds: float
    """Duration of one occasion."""
    every: int
    """Environment steps per task between two occasions."""
    share: float
    """Time that all occasions add to the loop, as a fraction of the loop's time."""
    mib: float | None = None
    """MiB written, if any."""


@dataclass(frozen=True)
class Profile:
    """Rates of a run, and the time that its parts take."""

    suite: str
    preset: str
    pace: Pace
    """The loop as in training."""
    timed: Pace
    """The loop with every part timed. Its seconds are the sum of :attr:`parts` and :attr:`unattributed`."""
    parts: dict[str, Part]
    """Sequential parts of the loop that were called, the longest first."""
    beside: dict[str, Part]
    """Parts that run in other threads."""
    evaluation: Occasion
    checkpoint: Occasion
    peak_memory_mib: float
    """Peak resident memory of the process, compilation included."""

    @property
    def unattributed(self) -> float:
        """Seconds of the timed loop that no part accounts for."""
        return self.timed.seconds - sum(part.seconds for part in self.parts.values())

    @property
    def bound(self) -> str:
        """Text that names the bottleneck: the longest part of the loop."""
        name, part = max(self.parts.items(), key=lambda item: item[1].seconds)
        text = _BOUNDS.get(name, "{name}: {share:.0%} of the time")
        return text.format(name=name, share=part.seconds / self.timed.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Returns the profile as plain values, for JSON."""
        return {
            **asdict(self),
            "unattributed": self.unattributed,
            "bound": self.bound,
            "env_steps_per_s": self.pace.env_steps_per_s,
            "updates_per_s": self.pace.updates_per_s,
        }


def profile(
    config: TrainConfig,
    seconds: float,
    out: Path,
    resumed: Path | None = None,
    note: Callable[[str], None] = print,
) -> Profile:
    """Trains for ``seconds`` seconds in a temporary folder, and returns the time that each part took.

    Args:
        config: of the run. Its random phase is cut short.
        seconds: of training, without compilation, evaluation and checkpoint. At least two updates are made.
        out: folder of the temporary folder, so that the checkpoint goes to this disk.
        resumed: a run whose latest checkpoint is the start. The run is not changed.
        note: receives a line about each stage.

    Raises:
        UserError: the configuration, the suite or a folder is unusable.
    """
    suite = suite_of(config)
    check(config, suite.num_tasks)
    short, source = config, None
    if resumed is None:
        window = config.loss.unroll + config.loss.n_step
        short = replace(config, random_steps=min(config.random_steps, window + 1))
    else:
        source = RunFolder.open(resumed)
        suite = as_trained(suite, source)
        if not source.checkpoint_steps():
            raise UserError(f"{resumed} has no checkpoint yet: train it further first")
    never = sys.maxsize
    short = replace(short, evaluate_every=never, checkpoint_every=never, diagnose_every=0)
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(TemporaryDirectory(prefix=".ezm-profile-", dir=out))
        except OSError as error:
            raise unwritable(out, error) from error
        run = RunFolder.create(Path(folder), to_dict(short))
        metrics = stack.enter_context(MetricsLogger(run))
        display = Display(suite.task_names, short.steps)
        trainer = _Profiled(short, suite, source or run, metrics, display)
        trainer.restore()
        trainer.run = run
        return trainer.profile(config, seconds, note)


def write_profile(found: Profile, out: Path) -> list[Path]:
    """Writes profile.json and profile.png to a folder, and returns their paths.

    Raises:
        UserError: the folder cannot be written to.
    """
    figures, picture = out / "profile.json", out / "profile.png"
    document = {"machine": machine(), **found.to_dict()}
    write_atomically(figures, json.dumps(document, indent=2) + "\n")
    wall = found.timed.seconds
    groups = {
        "in the loop": {
            **{name: part.seconds / wall for name, part in found.parts.items()},
            "unattributed": found.unattributed / wall,
        },
        "beside it, in a thread of its own": {
            name: part.seconds / wall for name, part in found.beside.items()
        },
        "on top of it, now and then": {
            "evaluations": found.evaluation.share,
            "checkpoints": found.checkpoint.share,
        },
    }
    title = f"Where the time goes: {found.suite}, preset {found.preset}"
    try:
        shares_figure(title, groups, "share of the loop's time").savefig(picture, dpi=150)
    except OSError as error:
        raise unwritable(picture, error) from error
    return [figures, picture]


class _Profiled(Trainer):
    """A run that is timed instead of finished."""

    def profile(self, asked: TrainConfig, seconds: float, note: Callable[[str], None]) -> Profile:
        """Runs :func:`profile`. ``asked`` gives the steps between evaluations and between checkpoints."""
        self._started = time.monotonic()
        with ExitStack() as stack:
            self._open(stack)
            stack.callback(self._pipeline.close)
            note("compiling (once; cached for later runs), and the first updates")
            warm = self._pipeline.updates + _WARM_UP
            while self._pipeline.updates < warm:
                self._advance()
            note(f"training for {seconds / 2:g} s, and for {seconds / 2:g} s part by part")
            pace = self._pace(seconds / 2)
            watch = self._watched()
            timed = self._pace(seconds / 2)
            parts = dict(sorted(watch.parts.items(), key=lambda item: -item[1].seconds))
            beside = {_TARGETS: parts.pop(_TARGETS, Part())}
            note("one checkpoint, and one evaluation")

            def occasion(taken: float, every: int, mib: float | None = None) -> Occasion:
                between = every * self.suite.num_tasks / pace.env_steps_per_s
                return Occasion(taken, every, taken / between, mib)

            return Profile(
                asked.suite,
                asked.preset,
                pace,
                timed,
                parts,
                beside,
                checkpoint=occasion(self._seconds_to_save(), asked.checkpoint_every, self._saved()),
                evaluation=occasion(self._seconds_to_evaluate(), asked.evaluate_every),
                peak_memory_mib=peak_memory(),
            )

    def _evaluate(self, episodes: int, modes: tuple[Mode, ...]) -> None:
        if modes != ("random",):  # the evaluation at the beginning, whose result is not used here
            super()._evaluate(episodes, modes)

    def _pace(self, seconds: float) -> Pace:
        """Trains for ``seconds`` seconds, and for at least one update."""
        step, updates = self.step, self._pipeline.updates
        start = time.perf_counter()
        while self._pipeline.updates == updates or time.perf_counter() < start + seconds:
            self._advance()
        jax.block_until_ready(self._pipeline.state)
        taken = time.perf_counter() - start
        env_steps = (self.step - step) * self.suite.num_tasks
        return Pace(taken, env_steps, self._pipeline.updates - updates)

    def _watched(self) -> Stopwatch:
        """Returns a stopwatch on every part of the loop."""
        watch = Stopwatch()
        for name, owner, *methods in (
            ("environments", self._environments, "step"),
            ("acting (search)", self._actor, "explore"),
            ("sampling", self.replay, "sample"),
            ("waiting for targets", self._pipeline, "_wait"),
            ("gradient step", self._pipeline, "_learn"),
            ("reading the loss", self._pipeline, "settle"),
            ("storing searches", self.replay, "store"),
            ("priorities", self.replay, "update_priorities"),
            ("replay writes", self.replay, "add", "begin"),
            ("observation statistics", self.agent.statistics, "add", "normalizer"),
            ("metrics", self.metrics, "log"),
            (_TARGETS, self._pipeline, "_make"),
        ):
            for method in methods:
                watch.watch(name, owner, method)
        return watch

    def _seconds_to_save(self) -> float:
        start = time.perf_counter()
        self.save()
        return time.perf_counter() - start

    def _saved(self) -> float:
        """Returns the size of all checkpoints in MiB."""
        files = self.run.checkpoints_path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20

    def _seconds_to_evaluate(self) -> float:
        size = self._evaluator.copies * self.suite.num_tasks
        observation = np.zeros((size, self.suite.observation_size), np.float32)
        for mode in EVALUATED:
            self._policy(mode)(observation, np.zeros(size, np.int32))  # compiles
        start = time.perf_counter()
        self._evaluate(self.config.evaluation_episodes, EVALUATED)
        return time.perf_counter() - start
