"""Which of two recorded methods learns faster: areas under learning curves, and the interval of their difference.

``python -m benchmarks.difference SUITE --method A --against B`` compares two recipes of a suite. With ``--alone`` the
agents of the second recipe learn one task each, and their rows come from the recorded files of the tasks. The curves of
a task are cut to their common steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from rich.table import Table

from benchmarks.command import Flag, command, show
from benchmarks.learning import recorded_path
from benchmarks.results import Curves, Row, cell, read
from ezm.errors import UserError
from ezm.statistics.intervals import format_return


@dataclass(frozen=True)
class Options:
    """Compare two recorded methods."""

    suite: tyro.conf.Positional[str]
    """The suite of the first method's runs."""
    method: str
    """The recipe of the first method's rows."""
    against: str
    """The recipe of the second method's rows."""
    alone: Flag = False
    """The second method's agents learn one task each."""
    steps: int = 75_000
    """Last agent step of the areas."""
    acting: Literal["search", "mean", "training"] = "search"
    """The way of acting of the curves."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def recorded(options: Options) -> list[Row]:
    """Returns the rows of both methods, for the tasks of the suite.

    Raises:
        UserError: a method has no rows.
    """
    suites = [options.suite]
    first = _of(options.method, suites)
    if options.alone:
        suites = list(dict.fromkeys(row["task"] for row in first))
    return first + _of(options.against, suites)


def _of(method: str, suites: Sequence[str]) -> list[Row]:
    rows = [
        row for suite in suites for row in read(recorded_path(suite)) if row["method"] == method
    ]
    if not rows:
        raise UserError(f"{method!r} has no rows for {', '.join(suites)}: see benchmarks.keep")
    return rows


def welch(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two means by Welch's t, nan with fewer than two seeds of either.

    Args:
        first: (n,) a figure of each seed.
        second: (m,) another method's figures.
    """
    if min(first.size, second.size) < 2:
        return math.nan, math.nan
    from scipy.stats import ttest_ind

    found = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return float(found.low), float(found.high)


def compare(rows: Sequence[Row], options: Options) -> Iterator[dict[str, Any]]:
    """Yields both methods' areas and the difference, for each task that both have."""
    methods = (options.method, options.against)
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        curves = Curves(own, options.steps, options.acting)
        first, second = (curves.area(method, task) for method in methods)
        if first.size and second.size:
            yield {
                "task": task,
                "steps": [curves.low, curves.high],
                "areas": first.tolist(),
                "areas against": second.tolist(),
                "difference": float(first.mean() - second.mean()),
                "interval": list(welch(first, second)),
            }


def table(rows: Sequence[dict[str, Any]], options: Options) -> Table:
    """Makes a table with a row for each task. Areas have their standard deviation over seeds, and the seeds' number."""
    shown = Table(title=f"areas under the curves of {options.acting}")
    heads = ("task", "agent steps", options.method, options.against, "difference", "95 % interval")
    for head in heads:
        shown.add_column(head, overflow="fold")
    for row in rows:
        each = (f"{cell(np.array(row[k]))} ({len(row[k])})" for k in ("areas", "areas against"))
        steps, interval = "{:,} to {:,}".format(*row["steps"]), map(format_return, row["interval"])
        difference = format_return(row["difference"])
        shown.add_row(row["task"], steps, *each, difference, " to ".join(interval))
    return shown


def main(options: Options) -> None:
    """Prints the comparison.

    Raises:
        UserError: the methods have no task in common.
    """
    found = list(compare(recorded(options), options))
    if not found:
        raise UserError(f"no task has curves of {options.acting} by both methods")
    show(found, lambda rows: table(rows, options), as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
