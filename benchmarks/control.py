"""Comparison of a robot's planners, in milliseconds and in return.

``python -m benchmarks.control RUN`` lets the agent of a run act by ``ezm.control.Planner``, and times every call of
``act``. It tries fewer and more simulations, bfloat16 and a warm start, all on the same episodes. Without RUN it times
an untrained agent of the published size on the walker suite, and there are no returns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich import box
from rich.table import Table

from benchmarks.command import Flag, command, show
from benchmarks.results import column_head, short_names
from ezm.acting.evaluate import Evaluator
from ezm.acting.load import load_agent
from ezm.agent.agent import build
from ezm.config.presets import PRESETS
from ezm.control import Planner
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.statistics.intervals import format_return
from ezm.tasks import load_suite


@dataclass(frozen=True)
class Options:
    """Compare planners of one run."""

    run: tyro.conf.Positional[Path | None] = None
    """A run folder of `ezm train`."""
    simulations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    episodes: int = 10
    """Episodes per task."""
    calls: int = 600
    """Calls to time without a run."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


_WARM_UP = 20
"""Number of first calls that are not counted."""


class Timed:
    """A planner, and the duration of each of its calls."""

    def __init__(self, planner: Planner):
        self.planner = planner
        self.milliseconds: list[float] = []

    def act(self, observation: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Returns an evaluation's actions, with one call for each environment."""
        suite = self.planner.suite
        actions = np.zeros((len(task), suite.action_size), np.float32)
        for i, t in enumerate(task):
            start = time.perf_counter()
            action = self.planner.act(observation[i, : suite.tasks[t].observation_size], int(t))
            self.milliseconds.append(1e3 * (time.perf_counter() - start))
            actions[i, : len(action)] = action
        return actions

    def episodes(self, number: int) -> list[list[float]]:
        """Runs episodes, the same for every planner, and gives their returns by task."""
        evaluator = Evaluator(self.planner.suite, copies=1, seed=0)
        returns: list[list[float]] = [[] for _ in self.planner.tasks]
        for _ in range(number):
            self.planner.reset()
            for values, new in zip(returns, evaluator.run(self.act, 1), strict=True):
                values += new
        evaluator.close()
        return returns

    def calls(self, number: int) -> list[list[float]]:
        """Plans for random observations, which give no returns."""
        rng, suite = np.random.default_rng(0), self.planner.suite
        for call in range(number):
            observation = rng.normal(size=(1, suite.observation_size))
            self.act(observation, np.array([call % suite.num_tasks]))
        return []


def cases(options: Options) -> list[dict[str, Any]]:
    """Returns the arguments of each planner."""
    most = max(options.simulations)
    return [
        *({"simulations": number} for number in options.simulations),
        {"simulations": most, "precision": "bfloat16"},
        {"simulations": most, "warm_start": True},
    ]


def measure(options: Options) -> list[dict[str, Any]]:
    """Returns a row for each planner: milliseconds of a call, and returns by task.

    Raises:
        UserError: a number is too small. Fewer than two episodes, for example, have no spread.
    """
    if (
        min(options.episodes, options.calls - _WARM_UP) < 2
        or min(options.simulations, default=0) < 1
    ):
        raise UserError(
            f"--episodes must be at least 2, --calls {_WARM_UP + 2} and --simulations 1"
        )
    if options.run is None:
        paper = replace(PRESETS["paper"], suite="walker")
        agent = build(paper, load_suite(paper.suite))
    else:
        agent, _ = load_agent(RunFolder.open(options.run))
    rows = []
    for case in cases(options):
        timed = Timed(Planner(agent, **case))
        if options.run is None:
            returns = timed.calls(options.calls)
        else:
            returns = timed.episodes(options.episodes)
        taken = timed.milliseconds[_WARM_UP:]
        rows.append(
            {"precision": "float32", "warm_start": False}
            | case
            | {
                "median_ms": round(float(np.median(taken)), 3),
                "p99_ms": round(float(np.percentile(taken, 99)), 3),
                "returns": {
                    name: [round(value, 1) for value in values]
                    for name, values in zip(agent.suite.task_names, returns)
                },
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Makes a table of times and mean returns over episodes, with their standard errors."""
    title = "returns by simulations, milliseconds a call"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ["ms", "p99"]
    if rows[0]["returns"]:
        heads += [*short_names(tuple(rows[0]["returns"])), "mean"]
    shown.add_column("planner", overflow="fold")
    for head in heads:
        shown.add_column(column_head(head), justify="right", overflow="fold")
    for row in rows:
        name = str(row["simulations"])
        name += ", bfloat16" if row["precision"] == "bfloat16" else ""
        name += ", warm start" if row["warm_start"] else ""
        cells = [f"{row['median_ms']:.3g}", f"{row['p99_ms']:.3g}"]
        if row["returns"]:
            returns = np.array(list(row["returns"].values()))
            means, errors = returns.mean(1), returns.std(1, ddof=1) / np.sqrt(returns.shape[1])
            for mean, error in zip(means, errors, strict=True):
                cells.append(f"{format_return(mean)} ± {format_return(error)}")
            cells.append(format_return(means.mean()))
        shown.add_row(name, *cells)
    return shown


def main(options: Options) -> None:
    """Prints the table that ``options`` describe."""
    show(measure(options), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
