"""``ezm train`` and ``ezm demo``."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from ezm import platform
from ezm.cli.options import parse
from ezm.cli.output import Lenient
from ezm.cli.run_options import Options, config_of, parse_run, with_defaults
from ezm.cli.terminal import print_results
from ezm.config import TrainConfig
from ezm.config.presets import PRESETS, defaults, origin
from ezm.errors import UserError

DEMO_SUITE = "cartpole"

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Train(Options):
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

    FIRST: ClassVar[tuple[str, ...]] = (*Options.FIRST, "wandb")

    out: Path | None = None
    """Folder of the new run. None: a new folder in runs/."""
    resume: Path | None = None
    """Go on with the run in this folder, with the options it was started with.
    Only --steps, which can only grow, --devices and --replay.device may change."""
    wandb: Flag = False
    """Also log to Weights & Biases (needs the extra `wandb`)."""


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


def train(arguments: Sequence[str]) -> int:
    """Runs ``ezm train`` and returns the exit code."""
    options = parse_run(Train, "train", arguments)
    if options.resume is None:
        return _train(config_of(options), options)
    if options.out is not None:
        raise UserError(f"--out {options.out} contradicts --resume: the run stays where it is")
    return _resume(options)


def _train(config: TrainConfig, options: Train, *, demo: bool = False) -> int:
    platform.prepare_jax(options.device)
    print(f"defaults: {origin(config.preset, config.suite)}", file=Lenient(sys.stdout))
    if config.model == PRESETS["paper"].model:
        print(
            "preset paper: the published widths and depths come to 15M parameters, the paper says "
            "about 16M; docs/presets.md says what is left open",
            file=Lenient(sys.stdout),
        )
    from ezm.cli.progress import TrainingProgress
    from ezm.training import session

    name = "demo" if demo else config.suite
    with _run_path(options.out, name, config) as path, _interruptible(path):
        finished = session.train(config, path, wandb=options.wandb, display=TrainingProgress)
    if finished and demo:
        _film(path)
    return _finish(path, finished)


@contextlib.contextmanager
def _run_path(out: Path | None, name: str, config: TrainConfig) -> Iterator[Path]:
    """Yields the folder of a new run. If the user named no folder and the run is refused, removes the empty folder."""
    from ezm.runs.folder import new_run_path

    path = out or new_run_path(Path("runs"), name, config.preset, config.seed)
    try:
        yield path
    finally:
        if out is None:
            with contextlib.suppress(OSError):  # a run is in it
                path.rmdir()
                path.parent.rmdir()


def _resume(options: Train) -> int:
    assert options.resume is not None
    platform.prepare_jax(options.device)
    from ezm.cli.progress import TrainingProgress
    from ezm.training import session

    with _interruptible(options.resume):
        finished = session.resume(
            options.resume,
            steps=options.steps,
            devices=options.devices,
            replay_on_device=options.replay.device,
            wandb=options.wandb,
            display=TrainingProgress,
        )
    return _finish(options.resume, finished)


def demo(arguments: Sequence[str]) -> int:
    """Runs ``ezm demo`` and returns the exit code."""
    options = parse(Demo, "demo", arguments)
    config = dataclasses.replace(defaults("cpu", DEMO_SUITE), suite=DEMO_SUITE, seed=options.seed)
    return _train(config, with_defaults(Train, config, out=options.out), demo=True)


@contextlib.contextmanager
def _interruptible(path: Path) -> Iterator[None]:
    """Adds a line on how to resume when Ctrl-C ends the run at once."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped(path)) from None


def _stopped(path: Path) -> str:
    if not (path / "config.json").exists():
        return "stopped"
    return f"stopped; go on with: ezm train --resume {shlex.quote(str(path))}"


def _film(path: Path) -> None:
    """Films every task for the report. If no library can draw, prints a line that says so."""
    from ezm.cli.watch import watch

    with contextlib.redirect_stdout(Lenient(sys.stdout)):  # the report follows in any case
        try:
            watch([str(path)])
        except UserError as error:
            print(f"no films: {error}")
        except KeyboardInterrupt:
            print(f"filming stopped; go on with: ezm watch {shlex.quote(str(path))}")


def _finish(path: Path, finished: bool) -> int:
    """Prints the results and writes the report of a run. If the run was stopped, says how to resume it."""
    if not finished:
        raise KeyboardInterrupt(_stopped(path))
    from ezm.report.report import write_report

    page = write_report([path])
    print_results(path)
    print(f"report: {page}")
    if not (path / "films").exists():
        print(f"watch it: ezm watch {shlex.quote(str(path))}")
    return 0
