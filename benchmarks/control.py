"""What a robot's planner can save, in milliseconds and in return.

``python -m benchmarks.control RUN`` lets the agent of a run act by ``ezm.control.Planner``, with fewer and more simulations, in
bfloat16 and from a warm start, all on the same episodes, and times every call of ``act``.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.command import Flag, command
from benchmarks.results import column_head, short_names
from ezm.control import Planner
from ezm.errors import UserError
from ezm.evaluation.evaluate import Evaluator
from ezm.evaluation.statistics import format_return


@dataclass(frozen=True)
class Options:
    """Compare planners of one run."""

    run: tyro.conf.Positional[Path]
    """A run folder of `ezm train`."""
    simulations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    episodes: int = 10
    """Per task."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def cases(options: Options) -> list[dict[str, Any]]:
    """Arguments of each planner."""
    most = max(options.simulations)
    return [
        *({"simulations": number} for number in options.simulations),
        {"simulations": most, "precision": "bfloat16"},
        {"simulations": most, "warm_start": True},
    ]


def measure(options: Options) -> list[dict[str, Any]]:
    """A row for each planner: milliseconds of a call, and returns by task.

    Raises:
        UserError: fewer than two episodes, which have no spread.
    """
    if options.episodes < 2 or min(options.simulations, default=0) < 1:
        raise UserError("--episodes must be at least 2 and --simulations at least 1")
    rows = []
    for case in cases(options):
        planner = Planner.load(options.run, **case)
        sizes = [task.observation_size for task in planner.suite.tasks]
        taken: list[float] = []

        def act(
            observation: np.ndarray,
            task: np.ndarray,
            planner: Planner = planner,
            sizes: list[int] = sizes,
            taken: list[float] = taken,
        ) -> np.ndarray:
            actions = np.zeros((len(task), planner.suite.action_size), np.float32)
            for i, t in enumerate(task):
                start = time.perf_counter()
                action = planner.act(observation[i, : sizes[t]], int(t))
                taken.append(1e3 * (time.perf_counter() - start))
                actions[i, : len(action)] = action
            return actions

        evaluator = Evaluator(planner.suite, copies=1, seed=0)
        returns: list[list[float]] = [[] for _ in sizes]
        for _ in range(options.episodes):
            planner.reset()
            for values, new in zip(returns, evaluator.run(act, 1), strict=True):
                values += new
        evaluator.close()
        rows.append(
            {"precision": "float32", "warm_start": False}
            | case
            | {
                "median_ms": round(float(np.median(taken)), 3),
                "p99_ms": round(float(np.percentile(taken, 99)), 3),
                "returns": {
                    name: [round(value, 1) for value in values]
                    for name, values in zip(planner.tasks, returns, strict=True)
                },
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """Mean returns over episodes, with their standard errors."""
    title = "returns by simulations, milliseconds a call"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("planner", overflow="fold")
    for head in ("ms", "p99", *short_names(tuple(rows[0]["returns"])), "mean"):
        shown.add_column(column_head(head), justify="right", overflow="fold")
    for row in rows:
        name = str(row["simulations"])
        name += ", bfloat16" if row["precision"] == "bfloat16" else ""
        name += ", warm start" if row["warm_start"] else ""
        returns = np.array(list(row["returns"].values()))
        means, errors = returns.mean(1), returns.std(1, ddof=1) / np.sqrt(returns.shape[1])
        cells = [
            f"{format_return(mean)} ± {format_return(error)}"
            for mean, error in zip(means, errors, strict=True)
        ]
        shown.add_row(
            name,
            f"{row['median_ms']:.3g}",
            f"{row['p99_ms']:.3g}",
            *cells,
            format_return(means.mean()),
        )
    return shown


def main(options: Options) -> None:
    """Print the table that ``options`` describe."""
    rows = measure(options)
    if options.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        Console().print(table(rows))


if __name__ == "__main__":
    command(main, Options, __doc__)
