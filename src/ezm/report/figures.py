"""Figures of runs: learning curves, scores, losses, diagnostics, throughput, task embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ezm.acting.evaluate import Mode
from ezm.report import panels
from ezm.report.panels import curve, drawn, fit, look, panel, shade
from ezm.report.record import Axis, Record, Series
from ezm.report.reference import PUBLISHED_COLOURS, Published, Reference
from ezm.report.variants import Variant
from ezm.statistics.aggregates import Estimate, performance_profile, profile_band
from ezm.statistics.intervals import mean_interval

_LEVELS = (
    ("bar", "success bar", panels.BAR, "--"),
    ("sac", "SAC, same steps", panels.SAC, "-."),
    ("random", "random policy", panels.INK, ":"),
)
_POINTS = 100
"""The most points of a curve of evaluations."""
HEALTH = {
    "value_error": "value error",
    "loss/consistency": "latent consistency",
    "loss/entropy": "policy entropy",
}
"""Training values that show whether learning is sound, and their titles."""
PRIORITY = "priority/"
_BINS = 200
_FEW_BINS = 40  # where lines of many tasks overlap


def learning_curves(
    variants: Sequence[Variant],
    tasks: Sequence[str],
    axis: Axis,
    reference: Reference,
    published: Published | None = None,
    *,
    alone: bool = False,
) -> list[Axes]:
    """Returns the learning curves, a panel for each task with an evaluation or a finished training episode.

    A panel has the mean return of each variant's seeds, with their range as a band. Reference returns are horizontal
    lines. Published curves are added.

    Args:
        variants: of the runs.
        tasks: of the panels.
        axis: the x axis.
        reference: task -> {"random": return of random actions, "sac": return of SAC after as many environment steps,
            "bar": the return from which the task counts as solved}. Any may be missing. A bar above twice the highest
            return is left out, because it would flatten the curves.
        published: see :func:`ezm.report.reference.published`. Over the wall clock, curves without times are left out.
        alone: whether to show the only run in detail. Its panels have the evaluations with the search and their 95 %
            interval, the evaluations with the policy's mean, and the smoothed training episodes.
    """
    records = [record for variant in variants for record in variant.records]
    x_label, scale = panels.STEPS, 1.0
    if axis == "seconds":
        unit, scale = _clock(max(record.seconds for record in records))
        x_label = f"wall clock, {unit}"
    made = []
    for task in tasks:
        evaluated = any(each.returns(task, m) for each in records for m in ("random", "search"))
        if not evaluated and not (alone and task in records[0].episodes):
            continue
        others = {
            name: (places / scale, other)
            for name, other in (published or {}).get(task, {}).items()
            if (places := other.seconds if axis == "seconds" else other.steps) is not None
        }
        axes = panel(task, x_label, log=bool(others))
        for name, (x, other) in others.items():
            band = other.low, other.high
            curve(axes, x, other.mean, name, band=band, width=1.4, color=PUBLISHED_COLOURS[name])
        if alone:
            x, y, half = _details(axes, records[0], task, axis, scale)
        else:
            for index, variant in enumerate(variants):
                found = [evaluations(each, task, axis, scale)[:2] for each in variant.records]
                draw_seeds(axes, found, variant.name, marked=True, **look(index))
        _levels(axes, reference.get(task, {}))
        fit(axes)
        if alone:  # only now: a wide interval of few episodes must not flatten the curves
            shade(axes, x, y - half, y + half, panels.SEARCH)
        made.append(axes)
    return made


def _clock(longest: float) -> tuple[str, float]:
    """Returns the unit of wall-clock times and its seconds, chosen by the longest time."""
    if longest < 120:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest < 7200 else ("hours", 3600.0)


def _details(
    axes: Axes, record: Record, task: str, axis: Axis, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the smoothed training episodes and the evaluations of one run. Returns :func:`evaluations`."""
    if task in record.episodes:
        series = record.episodes[task]
        bins = min(60, max(8, len(series.value) // 4))
        x, y = binned(getattr(series, axis), series.value, bins)
        curve(axes, x / scale, y, "training episodes", color=panels.EPISODE, width=1.0)
    x, y, _ = evaluations(record, task, axis, scale, "policy")
    curve(axes, x, y, "evaluation, policy", marked=True, color=panels.POLICY, linestyle="--")
    x, y, half = evaluations(record, task, axis, scale)
    curve(axes, x, y, "evaluation, search", marked=True, color=panels.SEARCH)
    return x, y, half


def evaluations(
    record: Record, task: str, axis: Axis, scale: float = 1.0, mode: Mode = "search"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a run's evaluations: their places in units of ``scale``, means, and half-widths of 95 % intervals, 0 for
    a single episode. Neighbours are averaged if there are more than a panel can show.
    """
    found = record.returns(task, mode)
    means = [mean_interval(each.returns) for each in found]
    x = np.array([getattr(each, axis) for each in found])
    y = np.array([each.mean for each in means])
    half = np.nan_to_num(np.array([each.half_width for each in means]))
    if len(x) > _POINTS:
        (x, y), (_, half) = binned(x, y, _POINTS), binned(x, half, _POINTS)
    return x / scale, y, half


def _levels(axes: Axes, known: Mapping[str, float]) -> None:
    """Draws the reference returns of a task."""
    highest = max((np.max(line.get_ydata()) for line in axes.lines), default=0.0)
    for name, label, colour, style in _LEVELS:
        if name in known and not (name == "bar" and known[name] > 2 * highest):
            axes.axhline(known[name], label=label, color=colour, linestyle=style, linewidth=1.2)


def draw_seeds(
    axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], label: str, **options: Any
) -> None:
    """Draws the mean of several seeds' (x, y) and their range as a band, or nothing if the seeds share no place."""
    found = seed_curve(curves)
    if found is not None:
        x, mean, low, high = found
        band = (low, high) if len(curves) > 1 else None
        curve(axes, x, mean, label, band=band, **options)


def seed_curve(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns mean, lowest and highest of several seeds' curves where all of them are known.

    Args:
        curves: (x, y) of each seed, x increasing. Values between two points lie on a straight line.

    Returns:
        x, mean, low, high, at all places of any seed that every seed covers, or None without such places.
    """
    if not curves or any(not len(x) for x, _ in curves):
        return None
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    places = np.unique(np.concatenate([x for x, _ in curves]))
    places = places[(first <= places) & (places <= last)]
    if not len(places):
        return None
    values = np.array([np.interp(places, x, y) for x, y in curves])
    return places, values.mean(0), values.min(0), values.max(0)


def binned(x: np.ndarray, y: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns means of x and of y in `bins` equal ranges of x, without the empty ranges.

    This smooths noisy points and keeps figures of long runs small. Fewer distinct x than bins are returned as they
    are, with points of equal x averaged.
    """
    places, index = np.unique(x, return_inverse=True)
    if len(places) > bins:
        index = np.minimum((x - x.min()) / np.ptp(x) * bins, bins - 1).astype(int)
    counts = np.bincount(index)
    filled = counts > 0
    means = [np.bincount(index, weights=v)[filled] / counts[filled] for v in (x, y)]
    return means[0], means[1]


def training_panels(variants: Sequence[Variant]) -> dict[str, list[Axes]]:
    """Returns panels of the training values in three groups: "health", "losses" and "others".

    A panel has the mean and range of each variant's seeds, for a value that any run has. A legend names several
    variants. Priorities and times are in no group.
    """
    groups: dict[str, list[Axes]] = {"health": [], "losses": [], "others": []}
    names = (name for each in variants for record in each.records for name in record.training)
    for name in dict.fromkeys([*HEALTH, *names]):
        if name == "updates" or name.startswith((PRIORITY, "time/")):
            continue
        axes = panel(HEALTH.get(name, name))
        for index, variant in enumerate(variants):
            found = [_thin(r.training[name]) for r in variant.records if name in r.training]
            label = variant.name if len(variants) > 1 else ""
            draw_seeds(axes, found, label, width=1.4, **look(index))
        rest = "losses" if name.startswith("loss/") else "others"
        groups["health" if name in HEALTH else rest].append(axes)
    return {group: drawn(made) for group, made in groups.items()}


def priority_panel(record: Record) -> list[Axes]:
    """Returns a panel of |value - target|, from which the replay's priorities are made, with a line for each task."""
    axes = panel("priority of each task")
    for index, task in enumerate(record.tasks):
        if PRIORITY + task in record.training:
            x, y = _thin(record.training[PRIORITY + task], _FEW_BINS)
            curve(axes, x, y, task, width=1.4, **look(index))
    return drawn([axes])


def throughput_panels(record: Record) -> list[Axes]:
    """Returns panels of all tasks' environment steps and of learner updates per second, none where they are unknown."""
    updates = record.training.get("updates")
    if updates is None:
        return []
    seconds = np.diff(updates.seconds)
    valid = seconds > 0
    steps, seconds = updates.step[1:][valid], seconds[valid]
    rates = {
        "environment steps per second": len(record.tasks) * np.diff(updates.step)[valid] / seconds,
        "learner updates per second": np.diff(updates.value)[valid] / seconds,
    }
    made = [panel(title) for title in rates]
    for axes, rate in zip(made, rates.values(), strict=True):
        curve(axes, *binned(steps, rate, _BINS), color=panels.SEARCH, width=1.4)
    return drawn(made)


def diagnostic_panels(record: Record) -> list[Axes]:
    """Returns a panel for each diagnostic, with a line for each task."""
    made = []
    for name, by_task in record.diagnostics.items():
        axes = panel(name)
        for index, task in enumerate(record.tasks):
            if task in by_task:
                series = by_task[task]
                curve(axes, series.step, series.value, task, width=1.6, marked=True, **look(index))
        fit(axes)
        if name.startswith("spearman"):
            axes.set_ylim(min(-0.2, axes.dataLim.y0), 1.02)
            axes.axhline(0.0, color=panels.INK, linewidth=0.8)
        made.append(axes)
    return made


def profile_panel(scores: Mapping[str, np.ndarray]) -> Axes:
    """Shows the share of scores above each threshold, with its 95 % bootstrap interval if there are several runs.

    Args:
        scores: name -> (R, K) normalised scores.
    """
    highest = max(1.0, *(float(each.max()) for each in scores.values()))
    thresholds = np.linspace(0.0, highest, 101)
    axes = panel("share of scores above τ", "normalised score τ")
    for index, (name, each) in enumerate(scores.items()):
        band = profile_band(each, thresholds) if len(each) > 1 else None
        shares = performance_profile(each, thresholds)
        curve(axes, thresholds, shares, name, band=band, **look(index))
    fit(axes)
    axes.set_ylim(0.0, 1.02)
    return axes


def interval_panel(title: str, estimates: Mapping[str, Estimate]) -> Axes:
    """Shows an estimate and its interval for each name, one below the other."""
    axes = panel(title, "normalised score")
    for index, (name, each) in enumerate(estimates.items()):
        colour = look(index)["color"]
        axes.plot(each.value, -index, "o", label=name, color=colour, markersize=6.6)
        axes.plot([each.low, each.high], [-index, -index], color=colour, linewidth=3.0)
    axes.set_ylim(0.5 - len(estimates), 0.5)
    axes.yaxis.set_major_locator(NullLocator())
    axes.margins(x=0.15)
    return axes


def embedding_panel(tasks: Sequence[str], embedding: np.ndarray) -> Axes:
    """Shows the first two principal components of the tasks' embeddings.

    Args:
        tasks: K names, three or more.
        embedding: (K, E).
    """
    centred = embedding - embedding.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    x, y = (left * sizes)[:, :2].T
    shares = sizes**2 / np.sum(sizes**2)
    axes = panel(
        "task embeddings",
        f"components 1 ({shares[0]:.0%} of the variance) and, upwards, 2 ({shares[1]:.0%})",
    )
    # Labels stand in a column next to the points, equally far apart, so that none covers another.
    span, longest = np.ptp(x), max(map(len, tasks))
    column = x.max() + 0.12 * span
    room = min(0.5, 0.019 * longest)  # relative to the panel's width
    heights = np.linspace(y.min(), y.max(), len(y))[np.argsort(np.argsort(y, kind="stable"))]
    for index, (a, b, height) in enumerate(zip(x, y, heights, strict=True)):
        axes.plot([a, column], [b, height], color=panels.GRID, linewidth=0.8)
        axes.plot(a, b, "o", color=look(index)["color"], markersize=4.4)
        text = tasks[index]
        axes.text(column + 0.02 * span, height, text, va="center", size=8.5, color=panels.INK)
    start, margin = x.min() - 0.05 * span, 0.07 * np.ptp(y)
    axes.set_xlim(start, start + (column - start) / (1 - room))
    axes.set_ylim(y.min() - margin, y.max() + margin)
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.set_major_locator(NullLocator())
    return axes


def _thin(series: Series, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray]:
    return binned(series.step, series.value, bins)
