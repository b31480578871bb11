"""Learning curves: the format of recorded files, and the tables that compare methods.

A recorded file holds one JSON object a line, headers and rows. A header ``{"header": {...}}`` has the
machine, the versions and the settings of the rows after it. A row is a :class:`Row`. Lines are only
appended. A run that was recorded again comes later in the file and replaces the earlier run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
from rich import box
from rich.table import Table

from ezm.errors import UserError
from ezm.statistics.intervals import format_return

Row = TypedDict(
    "Row",
    {
        "suite": str,
        "method": str,
        "seed": int,
        "task": str,
        "steps_per_task": int,
        "seconds": float,
        "return": float,
        "returns": NotRequired[list[float]],
        "control_steps": NotRequired[int],
        "acting": NotRequired[str],
        "protocol": NotRequired[str],
    },
)
"""One evaluation of one task: the mean undiscounted return after ``steps_per_task`` agent steps per
task and ``seconds`` of wall clock, compilation and evaluations included.

Rows of humanoids also hold the return of each episode, the control steps per task, the way of acting and the protocol
of falls. The ways of acting are search (the default), mean, training, random and hold. The protocols are benchmark (the
default) and paper.
"""

RANDOM = "random"
"""The method with one row, at 0 steps, per task and seed. If it is recorded, all curves start there."""


def area_under_curve(
    steps: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    low: float | None = None,
    high: float | None = None,
) -> float:
    """Returns the mean height of a learning curve over its steps.

    AUC = 1 / (b - a) * integral from a to b of R(s) ds, where R joins the points (steps[i], values[i]) by straight
    lines. This is the trapezoid rule divided by the range. The result has the unit of a return, and curves with
    different numbers of points can be compared.

    Args:
        steps: (n,) strictly increasing, n >= 2.
        values: (n,) the return at each step.
        low: a. Default: the first step. Give both ends to compare curves with different ends.
        high: b. Default: the last step.

    Raises:
        ValueError: the points are too few or out of order, or do not cover the range.
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or x.size < 2 or not np.all(np.diff(x) > 0):
        raise ValueError("a curve is two or more points with strictly increasing steps")
    a = x[0] if low is None else float(low)
    b = x[-1] if high is None else float(high)
    if not x[0] <= a < b <= x[-1]:
        raise ValueError(f"the range {a:g} to {b:g} is not within {x[0]:g} to {x[-1]:g}")
    inside = (x > a) & (x < b)
    grid = np.concatenate([[a], x[inside], [b]])
    return float(np.trapezoid(np.interp(grid, x, y), grid) / (b - a))


class CurveKey(NamedTuple):
    method: str
    seed: int
    task: str
    acting: str = "search"
    protocol: str = "benchmark"


class _Curve(NamedTuple):
    steps: list[int]
    returns: list[float]


def append(path: Path, entries: Iterable[Row | dict[str, Any]]) -> None:
    """Appends rows or a header to a recorded file, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def read(path: Path) -> list[Row]:
    """Returns the rows of a recorded file, or none without a file. Runs that were recorded again count once.

    Raises:
        UserError: a line is not a JSON object.
    """
    if not path.exists():
        return []
    curves: dict[CurveKey, list[Row]] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            entry = json.loads(line)
            if "header" in entry:
                continue
            curve = curves.setdefault(_key(entry), [])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} line {number} is not a row: remove it") from error
        if curve and entry["steps_per_task"] <= curve[-1]["steps_per_task"]:
            curve.clear()  # steps that start over mean that the run was recorded again
        curve.append(entry)
    return [row for curve in curves.values() for row in curve]


def recorded_steps(rows: Iterable[Row]) -> dict[CurveKey, int]:
    """Returns the last step of each curve."""
    steps: dict[CurveKey, int] = {}
    for row in rows:
        steps[_key(row)] = max(row["steps_per_task"], steps.get(_key(row), 0))
    return steps


class Curves:
    """Learning curves of several methods, cut to the steps that all of them have.

    Args:
        rows: of one suite.
        steps: last step at most. None cuts at the end of the shortest curve.
        acting: way of acting of these curves.
        protocol: of falls.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        steps: int | None = None,
        acting: str = "search",
        protocol: str = "benchmark",
    ) -> None:
        start: dict[str, list[float]] = {}
        points: dict[CurveKey, dict[int, float]] = {}
        for row in rows:
            if row["method"] == RANDOM:
                start.setdefault(row["task"], []).append(row["return"])
            elif (key := _key(row))[3:] == (acting, protocol):
                points.setdefault(key, {})[row["steps_per_task"]] = row["return"]
        self.random = {task: float(np.mean(returns)) for task, returns in start.items()}
        """Mean return of uniformly random actions, by task."""
        for key, curve in points.items():
            if key.task in self.random:
                curve.setdefault(0, self.random[key.task])
        self._curves = {key: _curve(curve) for key, curve in points.items()}
        ends = [curve.steps[-1] for curve in self._curves.values()]
        self.high = min(ends if steps is None else [*ends, steps], default=0)
        """The last step that all curves have."""
        self.low = max((curve.steps[0] for curve in self._curves.values()), default=0)
        """The first step that all curves have: 0 if random actions are recorded."""
        self.tasks = tuple(dict.fromkeys(row["task"] for row in rows))
        self.methods = tuple(dict.fromkeys(key.method for key in self._curves))

    def final(self, method: str, task: str) -> np.ndarray:
        """Returns the return of each seed at the last common step, (seeds,), by linear interpolation."""
        return np.array([np.interp(self.high, *curve) for curve in self._of(method, task)])

    def area(self, method: str, task: str) -> np.ndarray:
        """Returns the mean height of each seed's curve over the common steps, (seeds,), or nan for a single step."""
        curves = self._of(method, task)
        if self.low >= self.high:
            return np.full(len(curves), math.nan)
        return np.array(
            [area_under_curve(*curve, low=self.low, high=self.high) for curve in curves]
        )

    def grid(self, method: str, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns all evaluated steps up to the last common step, (P,), and the returns, (seeds, P)."""
        curves = self._of(method, task)
        steps = sorted({s for curve in curves for s in curve.steps if s <= self.high})
        returns = [np.interp(steps, *curve) for curve in curves]
        return np.array(steps), np.array(returns).reshape(len(curves), len(steps))

    def _of(self, method: str, task: str) -> list[_Curve]:
        return [
            curve for key, curve in self._curves.items() if (key.method, key.task) == (method, task)
        ]


def tables(curves: Curves) -> list[Table]:
    """Makes tables of the final returns and of the areas under the curves.

    The rows are methods and their ratios, and the columns are tasks. A cell is the mean and the standard deviation over
    seeds. The last column averages the tasks first.
    """
    span = f"0 to {curves.high:,}" if curves.low == 0 else f"{curves.low:,} to {curves.high:,}"
    if not curves.methods:
        return [_table("random actions", curves, curves.final)]
    return [
        _table(f"return at {curves.high:,} steps per task", curves, curves.final),
        _table(f"area under the learning curve, {span} steps per task", curves, curves.area),
    ]


def _table(title: str, curves: Curves, values: Callable[[str, str], np.ndarray]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    for head in (*short_names(curves.tasks), "mean"):
        table.add_column(column_head(head), justify="right", overflow="fold")
    groups = [*([task] for task in curves.tasks), list(curves.tasks)]
    start = [float(np.mean([curves.random.get(t, math.nan) for t in tasks])) for tasks in groups]
    table.add_row(RANDOM, *map(format_return, start))
    means: dict[str, list[float]] = {}
    for method in curves.methods:
        seeds = [_mean_over(tasks, method, values) for tasks in groups]
        means[method] = [float(each.mean()) if each.size else math.nan for each in seeds]
        table.add_row(_words(method), *map(cell, seeds))
    table.add_section()
    for method in curves.methods:
        if method != "ezm" and "ezm" in means:
            ratios = map(_ratio, means["ezm"], means[method])
            table.add_row(f"ezm / {_words(method)}", *ratios)
    return table


def _words(method: str) -> str:
    """Returns the name of a method with a space where a narrow terminal may break it."""
    return method.replace("-tuned", " tuned")


def column_head(name: str, width: int = 10) -> str:
    """Returns a task's name on lines that fit the figures below it, broken after a dash or an underscore."""
    lines = [""]
    for part in re.findall(r"[^-_]+[-_]*", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def short_names(tasks: Sequence[str]) -> list[str]:
    """Returns the tasks' names without a body that all share: ``cartpole-swingup`` becomes ``swingup``."""
    bodies = {task.partition("-")[0] for task in tasks}
    return [(len(bodies) == 1 and task.partition("-")[2]) or task for task in tasks]


def _mean_over(
    tasks: Sequence[str], method: str, values: Callable[[str, str], np.ndarray]
) -> np.ndarray:
    """Returns the mean over tasks, (seeds,), for the number of seeds that every task has."""
    each = [values(method, task) for task in tasks]
    count = min(map(len, each))
    return np.mean([column[:count] for column in each], axis=0)


def cell(seeds: np.ndarray) -> str:
    """Formats mean and standard deviation over seeds, or a dash without any seed."""
    if seeds.size == 0:
        return "-"
    spread = f" ± {format_return(float(seeds.std(ddof=1)))}" if seeds.size > 1 else ""
    return format_return(float(seeds.mean())) + spread


def _ratio(ours: float, theirs: float) -> str:
    if not (theirs > 0 and math.isfinite(ours)):
        return "-"
    return f"{ours / theirs:.2f}" if ours < 10 * theirs else "> 10"


def _curve(points: dict[int, float]) -> _Curve:
    steps = sorted(points)
    return _Curve(steps, [points[step] for step in steps])


def _key(row: Row) -> CurveKey:
    acting, protocol = row.get("acting", "search"), row.get("protocol", "benchmark")
    return CurveKey(row["method"], row["seed"], row["task"], acting, protocol)
