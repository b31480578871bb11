"""Where the time of training goes: the parts of a run's loop, timed one by one.

JAX returns before its results are there. So a part that is timed is waited for, and its seconds are its own; but what
otherwise runs beside the last update then waits for it too. Therefore the loop runs as ever for half of the time, which
gives its rates, and with every part timed for the other half, which gives their shares.
"""

from __future__ import annotations

import io
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
from rich.console import Console

from ezm.config import TrainConfig, to_dict
from ezm.errors import UserError
from ezm.evaluation.evaluate import Mode
from ezm.evaluation.figures import shares_figure
from ezm.training.machine import machine, peak_memory
from ezm.training.metrics import MetricsLogger
from ezm.training.progress import TrainingProgress
from ezm.training.run_folder import RunFolder, unwritable, write_atomically
from ezm.training.runs import as_trained, suite_of
from ezm.training.trainer import EVALUATED, Trainer
from ezm.validation import check

_WARM_UP = 3  # updates before the clock starts, behind which everything is compiled
_TARGETS = "targets"  # made in a thread of their own
_BOUNDS = {
    "gradient step": "the learner: {share:.0%} of the time is the gradient step; targets run beside it",
    "waiting for targets": "the targets: {share:.0%} of the time is waiting for them",
    "acting (search)": "acting: {share:.0%} of the time is the search for actions",
    "environments": "the environments: {share:.0%} of the time is their steps",
}


@dataclass(frozen=True)
class Part:
    """What the calls of one part came to."""

    seconds: float = 0.0
    calls: int = 0


class Stopwatch:
    """Seconds and calls of a program's parts, which must not lie within each other.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.parts: dict[str, Part] = {}
        """By name, once they were called."""
        self._clock = clock

    def watch(self, name: str, owner: object, method: str) -> None:
        """From now on ``owner.method`` counts as the part ``name``, each call until its results are there."""
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
    """A stretch of the loop."""

    seconds: float
    env_steps: int
    """Of all tasks together."""
    updates: int

    @property
    def env_steps_per_s(self) -> float:
        return self.env_steps / self.seconds

    @property
    def updates_per_s(self) -> float:
        return self.updates / self.seconds


@dataclass(frozen=True)
class Occasion:
    """What the run does now and then."""

    seconds: float
    """One time."""
    every: int
    """Environment steps per task in between."""
    share: float
    """What all times add to the loop's time, as a part of it."""
    mib: float | None = None
    """What is written."""


@dataclass(frozen=True)
class Profile:
    """Where the time goes."""

    suite: str
    preset: str
    pace: Pace
    """As training is."""
    timed: Pace
    """With every part timed: :attr:`parts` and :attr:`unattributed` make up its seconds."""
    parts: dict[str, Part]
    """Of the loop, one after the other; those that were called, the longest first."""
    beside: dict[str, Part]
    """Of other threads."""
    evaluation: Occasion
    checkpoint: Occasion
    peak_memory_mib: float
    """Resident memory of the process, compilation included."""

    @property
    def unattributed(self) -> float:
        """Seconds of the timed loop that no part accounts for."""
        return self.timed.seconds - sum(part.seconds for part in self.parts.values())

    @property
    def bound(self) -> str:
        """What bounds the run: the longest part of the loop."""
        name, part = max(self.parts.items(), key=lambda item: item[1].seconds)
        text = _BOUNDS.get(name, "{name}: {share:.0%} of the time")
        return text.format(name=name, share=part.seconds / self.timed.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
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
    """Train for so many seconds in a temporary folder, and find where they went.

    Args:
        config: of the run. Its random phase is cut short.
        seconds: of training, without compilation, evaluation and checkpoint; at least two updates.
        out: where the temporary folder is, so that the checkpoint goes to this disk.
        resumed: a run whose latest checkpoint is gone on from; it stays as it is.
        note: takes a line of what is being done.

    Raises:
        UserError: the configuration, the suite or a folder will not do.
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
        silent = Console(file=io.StringIO())
        progress = stack.enter_context(TrainingProgress(suite.task_names, short.steps, silent))
        trainer = _Profiled(short, suite, source or run, metrics, progress)
        trainer.restore()
        trainer.run = run
        return trainer.profile(config, seconds, note)


def write_profile(found: Profile, out: Path) -> list[Path]:
    """Write profile.json and profile.png to a folder; returns their paths.

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
        """See :func:`profile`; ``asked`` says how often there are evaluations and checkpoints."""
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
        if modes != ("random",):  # that of the beginning, of which nobody would see the result
            super()._evaluate(episodes, modes)

    def _pace(self, seconds: float) -> Pace:
        """Train so long, and for one update at least."""
        step, updates = self.step, self._pipeline.updates
        start = time.perf_counter()
        while self._pipeline.updates == updates or time.perf_counter() < start + seconds:
            self._advance()
        jax.block_until_ready(self._pipeline.state)
        taken = time.perf_counter() - start
        env_steps = (self.step - step) * self.suite.num_tasks
        return Pace(taken, env_steps, self._pipeline.updates - updates)

    def _watched(self) -> Stopwatch:
        """A stopwatch on every part of the loop."""
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
        import orbax.checkpoint  # noqa: F401 - importing it is no part of saving

        start = time.perf_counter()
        self.save()
        return time.perf_counter() - start

    def _saved(self) -> float:
        """MiB of all checkpoints."""
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
