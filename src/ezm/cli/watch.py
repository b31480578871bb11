"""``ezm watch``."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ezm import platform
from ezm.cli.options import ActingOptions
from ezm.config.schema import Bound
from ezm.errors import UserError

if TYPE_CHECKING:
    from ezm.acting.inspector import PlanInspector

_LENGTH = Bound(lambda value: 0 < value < math.inf, "be finite and greater than 0")
_PORT = Bound(lambda value: 0 <= value < 65536, "be between 0 and 65535")


@dataclass(frozen=True)
class Watch(ActingOptions):
    """Film a run's agent at each of its tasks, or watch it live: its actions, and the search behind them.

    A film goes to films/TASK.mp4 in the run's folder, where `ezm report` finds it. It needs no screen. With --live
    auto, MuJoCo's viewer opens, or without a screen a page for the browser. Ctrl-C ends it.

    Examples:
      ezm watch runs/RUN
      ezm watch runs/RUN --task cartpole-swingup --seconds 20
      ezm watch runs/RUN --live auto
    """

    task: tuple[str, ...] = ()
    """Names of tasks. Without names: all tasks of the run."""
    seconds: Annotated[float, _LENGTH] = 10.0
    """Length of each film, in simulated seconds."""
    episodes: Annotated[int | None, Bound(lambda value: value >= 1, "be at least 1")] = None
    """Number of whole episodes to film, instead of --seconds."""
    out: Path | None = None
    """Folder of the films. None: the folder films in the run's folder."""
    live: Literal["off", "auto", "window", "browser"] = "off"
    """Watch live instead, in a window or in the browser. auto: a window if there is a screen, otherwise the browser."""
    port: Annotated[int, _PORT] = 8484
    """Port of the page for the browser, at 127.0.0.1. 0: any free port."""

    def __call__(self) -> None:
        from ezm.runs.folder import RunFolder

        run = RunFolder.open(self.run)
        platform.prepare_jax(self.device)
        from ezm.acting.inspector import PlanInspector
        from ezm.acting.load import load_agent
        from ezm.tasks import with_protocol

        agent, _ = load_agent(run)
        if self.protocol is not None:
            suite = with_protocol(agent.suite, self.protocol)
            agent = dataclasses.replace(agent, suite=suite)
        suite = agent.suite
        names = suite.only(*self.task).task_names if self.task else suite.task_names
        tasks = [suite.task_names.index(name) for name in names]
        seed = 500_000_000 + self.seed  # far from the seeds of training
        act = _films if self.live == "off" else _live
        act(PlanInspector(agent, self.planner, seed), tasks, seed, self)


def _films(inspector: PlanInspector, tasks: Sequence[int], seed: int, options: Watch) -> None:
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


def _live(inspector: PlanInspector, tasks: Sequence[int], seed: int, options: Watch) -> None:
    from ezm.watching import browser, window

    say = functools.partial(print, flush=True)
    if options.live == "window" or (options.live == "auto" and not window.obstacle()):
        window.show(inspector, tasks, seed, say)
    else:
        browser.serve(inspector, tasks, seed, options.port, say)
        say("closed")
