"""Figures of a run, drawn from its metrics; for the report page and for image files.

They are drawn in :data:`INK` and :data:`GRID` on a light ground; the report replaces these two
colours by those of the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ezm.evaluation.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#24292f", "#d0d7de"
EPISODE, SEARCH, POLICY, SAC = "#8c959f", "#3b82f6", "#f59e0b", "#e5484d"
BAR = "#10b981"
TASK_COLOURS = (SEARCH, POLICY, "#10b981", SAC, "#8b5cf6", "#0891b2", "#db2777", "#84cc16")

Rows = Sequence[Mapping[str, Any]]
Reference = Mapping[str, Mapping[str, float]]


def tasks_of(metrics: Rows) -> list[str]:
    """The run's tasks, in order; without a start row, those that occur."""
    for row in metrics:
        if row["kind"] == "start":
            return list(row["tasks"])
    return list(dict.fromkeys(row["task"] for row in metrics if "task" in row))


def evaluations(metrics: Rows, task: str, mode: str) -> dict[int, list[float]]:
    """Returns of each evaluation of `task` by its step; the last one, where a step has several."""
    found = {
        row["step"]: [r for r in row["returns"] if r is not None]
        for row in metrics
        if row["kind"] == "eval" and row["task"] == task and row["mode"] == mode
    }
    return {step: found[step] for step in sorted(found) if found[step]}


def learning_curve_figure(metrics: Rows, reference: Reference | None = None) -> Figure | None:
    """Return over environment steps, one panel per task.

    The evaluations with the search and their 95 % interval, those with the policy's mean, the
    training episodes smoothed, and the reference returns as horizontal lines.

    Args:
        metrics: the rows of metrics.jsonl.
        reference: task -> {"random": return of random actions, "sac": return of SAC after as many
            environment steps, "bar": the return from which the task counts as solved}; any may be
            missing. A bar far above all returns is left out, it would flatten the curves.

    Returns:
        The figure (``figure.savefig("curve.png", dpi=150)`` makes a picture), or None where no
        episode has been finished.
    """
    tasks = [t for t in tasks_of(metrics) if any(r.get("task") == t for r in metrics)]
    if not tasks:
        return None
    figure, panels = _panels(tasks)
    for task, axes in zip(tasks, panels, strict=True):
        episodes = [
            (row["step"], row["return"])
            for row in metrics
            if row["kind"] == "episode" and row["task"] == task == row.get("policy", task)
            if row["return"] is not None
        ]
        if episodes:
            bins = min(60, max(8, len(episodes) // 4))
            steps, returns = np.array(episodes, dtype=float).T
            x, y = binned(steps, returns, bins)
            axes.plot(x, y, color=EPISODE, linewidth=1, label="training episodes")
        for mode, colour, style in (("policy", POLICY, "--"), ("search", SEARCH, "-")):
            curve = evaluations(metrics, task, mode)
            if not curve:
                continue
            means = [mean_interval(returns) for returns in curve.values()]
            axes.plot(
                list(curve),
                [m.mean for m in means],
                style,
                color=colour,
                linewidth=1.8,
                marker="o",
                markersize=3.5,
                label=f"evaluation, {mode}",
            )
        known = (reference or {}).get(task, {})
        for name, label, colour, style in (
            ("bar", "success bar", BAR, "--"),
            ("sac", "SAC, same steps", SAC, "-."),
            ("random", "random policy", INK, ":"),
        ):
            value = known.get(name)
            if value is None or (name == "bar" and value > 2 * axes.dataLim.y1):
                continue
            axes.axhline(value, color=colour, linewidth=1.2, linestyle=style, label=label)
        bottom, top = axes.get_ylim()
        axes.set_ylim(0 if axes.dataLim.y0 >= 0 else bottom, top)
        # After the limits: a wide interval of few episodes must not flatten the curves.
        _interval_band(axes, evaluations(metrics, task, "search"))
    _legend(figure, panels)
    return figure


def training_figure(metrics: Rows, names: Sequence[str]) -> Figure | None:
    """Values of the training rows over environment steps, one panel each; None without any."""
    series = {name: _series(metrics, "train", name) for name in names}
    return _single_lines({name: curve for name, curve in series.items() if curve[0].size})


def throughput_figure(metrics: Rows) -> Figure | None:
    """Environment steps of all tasks and learner updates per second; None if unknown."""
    tasks = max(1, len(tasks_of(metrics)))
    rows = [r for r in metrics if r["kind"] == "train" and r.get("updates") is not None]
    table = np.array([(r["step"], r["updates"], r["seconds"]) for r in rows], dtype=float)
    if len(table) < 2:
        return None
    change = np.diff(table, axis=0)
    valid = change[:, 2] > 0
    steps, change = table[1:][valid, 0], change[valid]
    if not steps.size:
        return None
    return _single_lines(
        {
            "environment steps per second": (steps, tasks * change[:, 0] / change[:, 2]),
            "learner updates per second": (steps, change[:, 1] / change[:, 2]),
        }
    )


def diagnostics_figure(metrics: Rows) -> Figure | None:
    """The diagnostics over environment steps, one panel each, one line per task; None if none."""
    names = numeric_names(metrics, "diagnostic")
    if not names:
        return None
    figure, panels = _panels(names, columns=3, height=1.6)
    tasks = tasks_of(metrics)
    for name, axes in zip(names, panels, strict=True):
        for index, task in enumerate(tasks):
            x, y = _series(metrics, "diagnostic", name, task)
            colour = TASK_COLOURS[index % len(TASK_COLOURS)]
            if x.size:
                axes.plot(x, y, color=colour, linewidth=1.6, marker="o", ms=3, label=task)
        if name.startswith("spearman"):
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_ylim(min(-0.2, axes.get_ylim()[0]), 1.02)
    _legend(figure, panels)
    return figure


def numeric_names(metrics: Rows, kind: str) -> list[str]:
    """Names of the numbers in the rows of `kind`, in order of first occurrence."""
    names = {
        name: None
        for row in metrics
        if row["kind"] == kind
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return [name for name in names if name not in ("step", "seconds", "updates")]


def binned(x: np.ndarray, y: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and of y in `bins` equal ranges of x, without the empty ones.

    Smooths noisy points and keeps figures of long runs small. Fewer distinct x than bins are
    returned as they are, points of equal x averaged.
    """
    places, index = np.unique(x, return_inverse=True)
    if len(places) > bins:
        index = np.minimum((x - x.min()) / np.ptp(x) * bins, bins - 1).astype(int)
    counts = np.bincount(index)
    filled = counts > 0
    means = [np.bincount(index, weights=v)[filled] / counts[filled] for v in (x, y)]
    return means[0], means[1]


def shares_figure(title: str, groups: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """Shares as horizontal bars, each with its percentage.

    Args:
        title: of the figure.
        groups: group -> name -> share (1 is all); from top to bottom, a colour for each group.
        label: what the shares are of.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    bars = [
        (name, share, group, colour)
        for (group, shares), colour in zip(groups.items(), TASK_COLOURS, strict=False)
        for name, share in shares.items()
    ]
    figure, (axes,) = _panels([title], columns=1, height=0.26 * len(bars), head=0.7)
    figure.subplots_adjust(left=0.2)
    longest = max(share for _, share, *_ in bars)
    for place, (_, share, group, colour) in enumerate(bars):
        axes.barh(place, share, color=colour, height=0.7, label=group)
        axes.text(share + longest / 100, place, f"{share:.1%}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False)
    axes.set_xlabel(label, fontsize=8, color=INK)
    _legend(figure, [axes])
    return figure


def _interval_band(axes: Axes, curve: Mapping[int, Sequence[float]]) -> None:
    means = [mean_interval(returns) for returns in curve.values()]
    middle = np.array([m.mean for m in means])
    spread = np.nan_to_num(np.array([m.half_width for m in means]))
    steps = np.array(list(curve))
    axes.fill_between(
        steps, middle - spread, middle + spread, color=SEARCH, alpha=0.18, linewidth=0
    )


def _series(
    metrics: Rows, kind: str, name: str, task: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    points = [
        (row["step"], row[name])
        for row in metrics
        if row["kind"] == kind and row.get("task") == task and row.get(name) is not None
    ]
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    return x, y


def _single_lines(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure | None:
    if not curves:
        return None
    figure, panels = _panels(list(curves), columns=3, height=1.5, head=0.3)
    for (x, y), axes in zip(curves.values(), panels, strict=True):
        axes.plot(*binned(x, y, bins=200), color=SEARCH, linewidth=1.4)
    return figure


def _panels(
    titles: Sequence[str], columns: int = 2, height: float = 2.1, head: float = 0.6
) -> tuple[Figure, list[Axes]]:
    """A grid of titled axes over environment steps, in the style of all figures.

    Args:
        titles: one for each panel.
        columns: panels beside each other.
        height: of a panel, in inches.
        head: room for the legend and the titles of the first row, in inches.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    rows = math.ceil(len(titles) / columns)
    # In inches, laid out by hand: matplotlib's own layout takes as long again as the drawing.
    width, left, across, down, foot = 9.6, 0.45, 0.5, 0.6, 0.45
    total = rows * height + (rows - 1) * down + head + foot
    figure = Figure(figsize=(width, total), facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False)
    panel_width = (width - left - 0.1 - (columns - 1) * across) / columns
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.1 / width,
        bottom=foot / total,
        top=1 - head / total,
        wspace=across / panel_width,
        hspace=down / height,
    )
    for axes in grid.flat[len(titles) :]:
        axes.remove()
    panels = list(grid.flat[: len(titles)])
    for title, axes in zip(titles, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
        axes.set_facecolor("none")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=8, length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[-columns:]:
        axes.set_xlabel("environment steps per task", fontsize=8, color=INK)
    return figure, panels


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, above them."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=5,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
