"""Recorded learning curves of humanoid tasks, as a table and as a picture with curves that others published.

``python -m benchmarks.humanoids h1-stand --method mppi --steps 75000`` prints the mean return in a window of agent
steps, for each seed and way of acting, training included. The option ``--picture FILE`` draws all seeds of the method
over control steps. Rows come from ``benchmarks/recorded/learning-SUITE.jsonl``, see :mod:`benchmarks.keep`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.command import Flag, command, show
from benchmarks.learning import recorded_path
from benchmarks.results import Row, read
from ezm.errors import UserError
from ezm.report.panels import GRID, INK, TASK_COLOURS
from ezm.report.reference import published

FLASHSAC: dict[str, list[float]] = {
    "h1-stand": [62, 195, 803, 834, 874],
    "h1-walk": [49, 115, 303, 607, 845],
    "h1-run": [13, 28, 65, 126, 245],
}
"""Mean return of FlashSAC's single-task agents at 100,000 to 500,000 control steps. The source is arXiv 2604.04539, the
result files of its repository at 87edc90 (five seeds, falls end an episode)."""
_FLASHSAC_STEPS = np.arange(1, 6) * 100_000
_STYLES = {"search": "-", "training": ":", "mean": "--"}


@dataclass(frozen=True)
class Options:
    """Show recorded curves of humanoid tasks."""

    suite: tyro.conf.Positional[str]
    """The suite of the runs, e.g. h1-stand."""
    method: str
    """The recipe of the rows to show."""
    steps: int = 75_000
    """Last agent step of the window that is averaged."""
    window: int = 7_500
    """Length of the window, in agent steps."""
    picture: Path | None = None
    """A PNG file to write."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def recorded(suite: str, method: str) -> list[Row]:
    """Returns the recorded rows of a method.

    Raises:
        UserError: there are none.
    """
    path = recorded_path(suite)
    rows = [row for row in read(path) if row["method"] == method]
    if not rows:
        raise UserError(f"{path} holds no rows of {method!r}: keep a run with benchmarks.keep")
    return rows


def windows(rows: Sequence[Row], steps: int, window: int) -> Iterator[dict[str, Any]]:
    """Yields the mean and the number of the evaluations in the window, for each task, seed and way of acting."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        if steps - window <= row["steps_per_task"] <= steps:
            key = row["task"], row["seed"], row.get("acting", "search")
            found.setdefault(key, []).append(row["return"])
    for (task, seed, acting), returns in sorted(found.items()):
        mean = float(np.mean(returns))
        yield {"task": task, "seed": seed, "acting": acting, "mean": mean, "rows": len(returns)}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Makes a table with a row for each task, seed and way of acting."""
    shown = Table("task", "seed", "acting", "mean return", "evaluations")
    for row in rows:
        shown.add_row(*(f"{x:.0f}" if isinstance(x, float) else str(x) for x in row.values()))
    return shown


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws a panel for each task, with each seed's curves over control steps and the published curves."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    others, _ = published(tasks)
    with matplotlib.rc_context({"font.size": 9, "text.color": INK, "axes.edgecolor": GRID}):
        figure = Figure(figsize=(max(6.0, 4.0 * len(tasks)), 3.6), layout="constrained")
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for task, axes in zip(tasks, panels, strict=True):
            curves: dict[tuple[int, str], list[tuple[float, float]]] = {}
            for row in rows:
                acting = row.get("acting", "search")
                if row["task"] == task and acting in _STYLES:
                    point = row["control_steps"], row["return"]
                    curves.setdefault((row["seed"], acting), []).append(point)
            furthest = max(steps for curve in curves.values() for steps, _ in curve)
            for (seed, acting), curve in sorted(curves.items()):
                x, y = zip(*curve, strict=True)
                colour = TASK_COLOURS[seed % len(TASK_COLOURS)]
                axes.plot(
                    x, y, _STYLES[acting], color=colour, lw=1.4, label=f"seed {seed}, {acting}"
                )
            for name, other in others[task].items():
                axes.plot(other.steps, other.mean, "-.", color=INK, lw=1.2, label=name)
            if task in FLASHSAC:
                axes.plot(
                    _FLASHSAC_STEPS, FLASHSAC[task], ".", color=INK, label="FlashSAC, published"
                )
            axes.set_xlim(0, furthest)
            axes.set_ylim(bottom=0)
            axes.set_title(task, fontsize=9)
            axes.set_xlabel("control steps", fontsize=8)
            axes.grid(color=GRID, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(fontsize=7, frameon=False, loc="upper left")
        panels[0].set_ylabel("return")
        figure.savefig(path, dpi=150)


def main(options: Options) -> None:
    """Prints the table, and draws the picture if ``options`` name one."""
    rows = recorded(options.suite, options.method)
    show(list(windows(rows, options.steps, options.window)), table, as_json=options.json)
    if options.picture is not None:
        draw(rows, options.picture)


if __name__ == "__main__":
    command(main, Options, __doc__)
