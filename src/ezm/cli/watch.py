"""``ezm watch``."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ezm import platform
from ezm.cli.options import parse
from ezm.errors import UserError
from ezm.platform import Device

if TYPE_CHECKING:
    from ezm.acting.inspector import PlanInspector

Live = Literal["off", "auto", "window", "browser"]


@dataclass(frozen=True)
class Watch:
    """Film a run's agent at each of its tasks, or watch it live: its actions, and the search behind them.

    A film goes to films/TASK.mp4 in the run's folder, where `ezm report` finds it. It needs no screen. With --live
    auto, MuJoCo's viewer opens, or without a screen a page for the browser. Ctrl-C ends it.

    Examples:
      ezm watch runs/RUN
      ezm watch runs/RUN --task cartpole-swingup --seconds 20
      ezm watch runs/RUN --live auto
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    task: tuple[str, ...] = ()
    """Names of tasks. Without names: all tasks of the run."""
    planner: Literal["search", "policy"] = "search"
    """Act on the search's best action, or on the policy's mean without search."""
    protocol: Literal["benchmark", "paper"] | None = None
    """For HumanoidBench's tasks. benchmark: a fall ends the episode. paper: the episode goes on.
    None: as in training."""
    seed: int = 0
    """Seed of the environments and of the search, independent of the training's seeds."""
    seconds: float = 10.0
    """Length of each film, in simulated seconds."""
    episodes: int | None = None
    """Number of whole episodes to film, instead of --seconds."""
    out: Path | None = None
    """Folder of the films. None: the folder films in the run's folder."""
    live: Live = "off"
    """Watch live instead, in a window or in the browser. auto: a window if there is a screen, otherwise the browser."""
    port: int = 8484
    """Port of the page for the browser, at 127.0.0.1. 0: any free port."""
    device: Device = "auto"
    """Device to compute on. auto: a GPU if there is one."""


def watch(arguments: Sequence[str]) -> int:
    """Runs ``ezm watch`` and returns the exit code."""
    options = parse(Watch, "watch", arguments)
    _check(options)
    from ezm.runs.folder import RunFolder

    run = RunFolder.open(options.run)
    platform.prepare_jax(options.device)
    from ezm.acting.inspector import PlanInspector
    from ezm.acting.load import load_agent
    from ezm.tasks import with_protocol

    agent, _ = load_agent(run)
    if options.protocol is not None:
        suite = with_protocol(agent.suite, options.protocol)
        agent = dataclasses.replace(agent, suite=suite)
    names = agent.suite.only(*options.task).task_names if options.task else agent.suite.task_names
    tasks = [agent.suite.task_names.index(name) for name in names]
    seed = 500_000_000 + options.seed  # far from the seeds of training
    inspector = PlanInspector(agent, options.planner, seed)
    if options.live != "off":
        return _live(inspector, tasks, seed, options)
    return _films(inspector, tasks, seed, options)


def _check(options: Watch) -> None:
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must not be negative")
    if not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds {options.seconds:g}: must be finite and greater than 0")
    if options.episodes is not None and options.episodes < 1:
        raise UserError(f"--episodes {options.episodes}: must be at least 1")
    if not 0 <= options.port < 65536:
        raise UserError(f"--port {options.port}: must be between 0 and 65535")


def _films(inspector: PlanInspector, tasks: Sequence[int], seed: int, options: Watch) -> int:
    from ezm.watching.films import Film, film_all

    folder = options.out or options.run / "films"
    length = {"seconds": options.seconds, "episodes": options.episodes}
    made = 0
    for found in film_all(inspector, tasks, folder, seed=seed, **length):
        if isinstance(found, Film):
            print(found, flush=True)
            made += 1
        else:
            print(f"no film: {found}", file=sys.stderr)
    if not made:
        raise UserError("no task can be filmed; the lines above say why")
    return 0


def _live(inspector: PlanInspector, tasks: Sequence[int], seed: int, options: Watch) -> int:
    from ezm.watching import browser, window

    if options.live == "window" or (options.live == "auto" and not window.obstacle()):
        window.show(inspector, tasks, seed, lambda line: print(line, flush=True))
    else:

        def announce(address: str) -> None:
            print(f"{address}  (Ctrl-C ends it)", flush=True)

        browser.serve(inspector, tasks, seed, options.port, announce)
        print("closed")
    return 0
