"""``ezm train``, ``ezm demo`` and ``ezm profile``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ezm import platform
from ezm.cli.options import Flag, RunOptions, config_of
from ezm.cli.terminal import Lenient, print_profile, print_results
from ezm.cli.watch import Watch
from ezm.config import TrainConfig
from ezm.config.presets import PRESETS, defaults, origin
from ezm.errors import UserError
from ezm.platform import Device

DEMO_SUITE = "cartpole"


@dataclass(frozen=True)
class Train(RunOptions):
    """Train one agent on all tasks of a suite, and write a report.

    A run has its own folder in runs/: options, metrics, checkpoints, report. The first Ctrl-C stops after the current
    step and saves, the second stops at once. A step is one action in every task of the suite.

    Examples:
      ezm train cartpole                      four tasks, minutes on two cores
      ezm train h1-stand,h1-walk --seed 1     humanoids
      ezm train my_tasks:make --steps 5000    your own environment

      ezm train --resume runs/RUN             go on with a run that was stopped
      ezm train --resume runs/RUN --steps 20000

    Ablations are one option each:
      --model.no-task-embedding       the networks do not know the task
      --replay.no-per-task            one replay for all tasks, not one for each

      --loss.consistency-weight 0     no temporal consistency
      --loss.path-weight 0            no path consistency
      --loss.value-target n_step      or search, or mixed (the published one)
    """

    FIRST: ClassVar[tuple[str, ...]] = (*RunOptions.FIRST, "wandb")

    out: Path | None = None
    """Folder of the new run. None: a new folder in runs/."""
    resume: Path | None = None
    """Go on with the run in this folder, with the options it was started with.
    Only --steps, which can only grow, --devices and --replay.device may change."""
    wandb: Flag = False
    """Also log to Weights & Biases (needs the extra `wandb`)."""

    def __call__(self) -> None:
        if self.resume is None:
            _train(config_of(self), self.out, self.device, wandb=self.wandb)
            return
        if self.out is not None:
            raise UserError(f"--out {self.out} contradicts --resume: the run stays where it is")
        platform.prepare_jax(self.device)
        from ezm.cli.progress import TrainingProgress
        from ezm.training import session

        with _stoppable(self.resume):
            finished = session.resume(
                self.resume,
                steps=self.steps,
                devices=self.devices,
                replay_on_device=self.replay.device,
                wandb=self.wandb,
                display=TrainingProgress,
            )
        _finish(self.resume, finished)


@dataclass(frozen=True)
class Demo:
    """Train one agent on the four cartpole tasks (minutes on two cores), film it, show what it learned.

    Examples:
      ezm demo
      ezm demo --seed 1 --out runs/first
    """

    seed: int = 0
    """Seed of all randomness."""
    out: Path | None = None
    """Folder of the new run. Without --out: a new folder in runs/."""

    def __call__(self) -> None:
        given = defaults("cpu", DEMO_SUITE)
        config = dataclasses.replace(given, suite=DEMO_SUITE, seed=self.seed)
        _train(config, self.out, "auto", demo=True)


def _train(
    config: TrainConfig, out: Path | None, device: Device, wandb: bool = False, demo: bool = False
) -> None:
    """Trains a new run, films it if it is the demo's, and writes its report."""
    platform.prepare_jax(device)
    from ezm.cli.progress import TrainingProgress
    from ezm.runs.folder import new_run_path
    from ezm.training import session

    def display(*args: Any, **options: Any) -> TrainingProgress:
        # Only here, because a run that is refused prints nothing but the reason.
        say = functools.partial(print, file=Lenient(sys.stdout))
        say(f"defaults: {origin(config.preset, config.suite)}")
        if config.model == PRESETS["paper"].model:
            say(
                "preset paper: the published widths and depths come to 15M parameters, the paper says "
                "about 16M; docs/presets.md says what is left open"
            )
        return TrainingProgress(*args, **options)

    name = "demo" if demo else config.suite
    path = out or new_run_path(Path("runs"), name, config.preset, config.seed)
    with _stoppable(path, own_folder=out is None):
        finished = session.train(config, path, wandb=wandb, display=display)
    if finished and demo:
        _film(path)
    _finish(path, finished)


@contextlib.contextmanager
def _stoppable(path: Path, *, own_folder: bool = False) -> Iterator[None]:
    """Adds a line on how to resume when Ctrl-C ends the run at once.

    If the run is refused, its empty folder is removed, unless the user named it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise _stopped(path) from None
    finally:
        if own_folder:
            with contextlib.suppress(OSError):  # a run is in it
                path.rmdir()
                path.parent.rmdir()


def _stopped(path: Path) -> KeyboardInterrupt:
    if not (path / "config.json").exists():
        return KeyboardInterrupt("stopped")
    return KeyboardInterrupt(f"stopped; go on with: ezm train --resume {shlex.quote(str(path))}")


def _film(path: Path) -> None:
    """Films every task for the report. If no library can draw, prints a line that says so."""
    with contextlib.redirect_stdout(Lenient(sys.stdout)):  # the report follows in any case
        try:
            Watch(path)()
        except UserError as error:
            print(f"no films: {error}")
        except KeyboardInterrupt:
            print(f"filming stopped; go on with: ezm watch {shlex.quote(str(path))}")


def _finish(path: Path, finished: bool) -> None:
    """Prints the results and writes the report of a run. If the run was stopped, says how to resume it."""
    if not finished:
        raise _stopped(path)
    from ezm.report.report import write_report

    page = write_report([path])
    print_results(path)
    print(f"report: {page}")
    if not (path / "films").exists():
        print(f"watch it: ezm watch {shlex.quote(str(path))}")


@dataclass(frozen=True)
class Profile(RunOptions):
    """Train for some seconds and show where they went, as a table and in profile.json.

    It trains as `ezm train` does with the same options, in a temporary folder. Compilation and the random phase are
    left out. The sections of the loop add up to its time. Work that overlaps counts only where the loop waits for it.

    Examples:
      ezm profile cartpole
      ezm profile h1 --preset paper --seconds 120 --out profiles
      ezm profile --resume runs/RUN
      ezm profile cartpole --trace trace
    """

    FIRST: ClassVar[tuple[str, ...]] = (*RunOptions.FIRST, "seconds")

    seconds: float = 30.0
    """Seconds of training. One checkpoint and one evaluation follow."""
    out: Path = Path()
    """Folder of profile.json, and of the temporary folder with the checkpoint."""
    resume: Path | None = None
    """Profile a copy of the run in this folder, with its options, replay and parameters."""
    trace: Path | None = None
    """Folder for JAX's own profile of a few more updates, which TensorBoard's profiler and Perfetto show."""

    def __call__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UserError(f"--seconds {self.seconds:g}: must be finite and greater than 0")
        platform.prepare_jax(self.device)
        from ezm.runs.folder import write_atomically
        from ezm.training import profile

        found = profile.profile(config_of(self), self.seconds, self.out, self.resume, self.trace)
        print_profile(found)
        path = self.out / "profile.json"
        write_atomically(path, json.dumps(found.to_dict(), indent=2) + "\n")
        print(path)
