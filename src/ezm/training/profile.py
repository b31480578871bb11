"""Profile of training: where the time of its loop goes, read from the timers that every run carries."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from ezm.acting.load import as_trained, suite_of
from ezm.config import TrainConfig, to_dict
from ezm.errors import UserError
from ezm.runs.folder import RunFolder, unwritable
from ezm.runs.machine import machine, peak_memory
from ezm.runs.metrics import MetricsLogger
from ezm.training.display import Display
from ezm.training.session import prepared
from ezm.training.timer import REST, Taken
from ezm.training.trainer import Trainer

_FEW = 3  # updates to warm up, and to trace


@dataclass(frozen=True)
class Occasion:
    """A periodic task of the run, such as an evaluation or a checkpoint."""

    seconds: float
    """Duration of one occasion."""
    every: int
    """Environment steps per task between two occasions."""
    share: float
    """Time that all occasions add to the loop, as a fraction of the loop's time."""


@dataclass(frozen=True)
class Profile:
    """Rates of a run, and the time that its sections take."""

    suite: str
    preset: str
    seconds: float
    env_steps_per_s: float
    """Environment steps of all tasks together."""
    updates_per_s: float
    sections: dict[str, Taken]
    """Sections of the loop, the longest first. They add up to :attr:`seconds`."""
    beside: dict[str, Taken]
    """Sections of the thread that makes targets."""
    checkpoint: Occasion
    checkpoint_mib: float
    evaluation: Occasion
    peak_memory_mib: float
    """Peak resident memory of the process, compilation included."""

    @property
    def bound(self) -> str:
        """Text that names the bottleneck: the longest section of the loop."""
        name, taken = next(iter(self.sections.items()))
        return f"{name}: {taken.seconds / self.seconds:.0%} of the time"

    def to_dict(self) -> dict[str, Any]:
        """Returns the machine and the profile as plain values, for JSON."""
        return {"machine": machine(), **asdict(self), "bound": self.bound}


def profile(
    config: TrainConfig,
    seconds: float,
    out: Path,
    resumed: Path | None = None,
    trace: Path | None = None,
    note: Callable[[str], None] = print,
) -> Profile:
    """Trains for ``seconds`` seconds in a temporary folder, and returns the time that each section took.

    Args:
        config: of the run. Its random phase is cut short.
        seconds: of training, without compilation, evaluation and checkpoint. At least one update is made.
        out: folder of the temporary folder, so that the checkpoint goes to this disk.
        resumed: a run whose latest checkpoint is the start. The run is not changed.
        trace: folder that receives JAX's own profile of a few updates after these seconds.
        note: receives a line about each stage.

    Raises:
        UserError: the configuration, the suite or a folder is unusable.
    """
    source = None
    if resumed is None:
        config, suite = prepared(config)
    else:
        suite = suite_of(config)
    if resumed is None:
        fewest = config.loss.unroll + config.loss.n_step + 1
        config = replace(config, random_steps=min(config.random_steps, fewest))
    else:
        source = RunFolder.open(resumed)
        suite = as_trained(suite, source)
        if not source.checkpoint_steps():
            raise UserError(f"{resumed} has no checkpoint yet: train it further first")
    with ExitStack() as stack:
        for folder in (trace or out, out):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                place = stack.enter_context(TemporaryDirectory(prefix=".ezm-profile-", dir=folder))
            except OSError as error:
                raise unwritable(folder, error) from error
        run = RunFolder.create(Path(place), to_dict(config))
        metrics = stack.enter_context(MetricsLogger(run))
        trainer = Trainer(config, suite, run, metrics, Display(suite.task_names, config.steps))
        trainer.restore(source)
        stack.enter_context(trainer.opened())
        note("compiling (once; cached for later runs), and the first updates")
        _train(trainer, 0.0, _FEW)
        # A training makes what evaluations need during its first updates, or when it saves for the first time.
        trainer.await_evaluation_programs()
        _ = trainer.evaluator
        note(f"training for {seconds:g} s")
        timers = (trainer.timer, trainer.pipeline.targets_timer)
        before = [timer.taken() for timer in timers]
        step, updates = trainer.step, trainer.pipeline.updates
        _train(trainer, seconds, 1)
        sections, beside = (t.taken(earlier) for t, earlier in zip(timers, before, strict=True))
        del beside[REST]
        wall = sum(taken.seconds for taken in sections.values())
        steps_per_s = (trainer.step - step) / wall
        updates_per_s = (trainer.pipeline.updates - updates) / wall
        if trace is not None:
            note(f"JAX's own profile of {_FEW} updates or more")
            with jax.profiler.trace(str(trace)):
                _train(trainer, 0.0, _FEW)
        note("one checkpoint, and one evaluation")

        def occasion(work: Callable[[], None], every: int) -> Occasion:
            start = time.perf_counter()
            work()
            taken = time.perf_counter() - start
            return Occasion(taken, every, taken * steps_per_s / every)

        saving = occasion(trainer.save, config.checkpoint_every)
        files = [file for file in run.checkpoints_path.rglob("*") if file.is_file()]
        episodes = config.evaluation_episodes
        return Profile(
            suite=config.suite,
            preset=config.preset,
            seconds=wall,
            env_steps_per_s=suite.num_tasks * steps_per_s,
            updates_per_s=updates_per_s,
            sections=dict(sorted(sections.items(), key=lambda item: -item[1].seconds)),
            beside=beside,
            checkpoint=saving,
            checkpoint_mib=sum(file.stat().st_size for file in files) / 2**20,
            evaluation=occasion(lambda: trainer.evaluate(episodes), config.evaluate_every),
            peak_memory_mib=peak_memory(),
        )


def _train(trainer: Trainer, seconds: float, updates: int) -> None:
    """Trains for some seconds, and for some updates at least."""
    end, due = time.perf_counter() + seconds, trainer.pipeline.updates + updates
    while trainer.pipeline.updates < due or time.perf_counter() < end:
        trainer.advance()
