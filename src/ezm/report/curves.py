"""Learning curves: a panel for each task, over environment steps or over the wall clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ezm.report.panels import BAR, EPISODE, INK, POLICY, SAC, SEARCH, Level, Line, Look, Panel, look
from ezm.report.record import NOTHING, Axis, Mode, Record
from ezm.report.reference import PUBLISHED_LOOKS, Published, Reference
from ezm.report.variants import Variant, evaluation_curve, seed_curve
from ezm.statistics.intervals import mean_interval

_LEVELS = (
    ("bar", "success bar", Look(BAR, "--", 1.2)),
    ("sac", "SAC, same steps", Look(SAC, "-.", 1.2)),
    ("random", "random policy", Look(INK, ":", 1.2)),
)

_POINTS = 100
"""The most points of a curve of evaluations."""


def learning_curves(
    variants: Sequence[Variant],
    tasks: Sequence[str],
    axis: Axis,
    reference: Reference,
    published: Published | None = None,
    *,
    alone: bool = False,
) -> list[Panel]:
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
        published: see :func:`ezm.report.reference.published`.
        alone: whether to show the only run in detail. Its panels have the evaluations with the search and their 95 %
            interval, the evaluations with the policy's mean, and the smoothed training episodes.
    """
    records = [record for variant in variants for record in variant.records]
    clock = _clock(max(record.seconds for record in records))
    panels = []
    for task in tasks:
        lines = _details(records[0], task, axis) if alone else _seeds(variants, task, axis)
        others = _published(task, axis, published)
        if lines or any(each.returns(task, m) for each in records for m in ("random", "search")):
            panels.append(_panel(task, lines, others, reference.get(task, {}), axis, clock))
    return panels


def _clock(longest: float) -> tuple[str, float]:
    """Returns the unit of wall-clock times and its seconds, chosen by the longest time."""
    if longest < 120:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest < 7200 else ("hours", 3600.0)


def _details(record: Record, task: str, axis: Axis) -> list[Line]:
    return [
        *_episodes(record, task, axis),
        *_evaluations(record, task, axis, "policy", Look(POLICY, "--", marker=True)),
        *_evaluations(record, task, axis, "search", Look(SEARCH, "-", marker=True)),
    ]


def _seeds(variants: Sequence[Variant], task: str, axis: Axis) -> list[Line]:
    lines = []
    for index, variant in enumerate(variants):
        curves = [thin(*evaluation_curve(record, task, axis)) for record in variant.records]
        lines += seed_line(variant.name, curves, look(index, marker=True))
    return lines


def seed_line(
    name: str, curves: Sequence[tuple[np.ndarray, np.ndarray]], style: Look
) -> list[Line]:
    """Returns the mean and range of several seeds as a line, or nothing if the seeds share no place."""
    found = seed_curve(curves)
    if found is None:
        return []
    x, mean, low, high = found
    return [Line(name, x, mean, style, (low, high) if len(curves) > 1 else None)]


def _panel(
    task: str,
    lines: Sequence[Line],
    others: Sequence[Line],
    known: Mapping[str, float],
    axis: Axis,
    clock: tuple[str, float],
) -> Panel:
    highest = max((line.y.max() for line in (*lines, *others) if line.y.size), default=0.0)
    levels = [
        Level(label, known[name], style)
        for name, label, style in _LEVELS
        if known.get(name) is not None and not (name == "bar" and known[name] > 2 * highest)
    ]
    unit, scale = clock if axis == "seconds" else ("", 1.0)
    drawn = [
        Line(line.label, line.x / scale, line.y, line.look, line.band, line.shallow)
        for line in (*others, *lines)
    ]
    label = f"wall clock, {unit}" if unit else "environment steps per task"
    return Panel(task, drawn, label, levels, log=bool(others))


def _episodes(record: Record, task: str, axis: Axis) -> list[Line]:
    series = record.episodes.get(task, NOTHING)
    if not len(series.value):
        return []
    bins = min(60, max(8, len(series.value) // 4))
    x, y = binned(getattr(series, axis), series.value, bins)
    return [Line("training episodes", x, y, Look(EPISODE, width=1.0))]


def _evaluations(record: Record, task: str, axis: Axis, mode: Mode, style: Look) -> list[Line]:
    x, y = evaluation_curve(record, task, axis, mode)
    if not len(x):
        return []
    means = [mean_interval(each.returns) for each in record.returns(task, mode)]
    spread = np.nan_to_num(np.array([mean.half_width for mean in means]))
    (places, y), (_, spread) = thin(x, y), thin(x, spread)
    band = (y - spread, y + spread) if mode == "search" else None
    return [Line(f"evaluation, {mode}", places, y, style, band, shallow=True)]


def _published(task: str, axis: Axis, published: Published | None) -> list[Line]:
    """Returns the published curves for a task. Over the wall clock, curves without times are left out."""
    found = []
    for name, curve in (published or {}).get(task, {}).items():
        x = curve.seconds if axis == "seconds" else curve.steps
        if x is not None:
            found.append(Line(name, x, curve.mean, PUBLISHED_LOOKS[name], (curve.low, curve.high)))
    return found


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a curve as it is, or means of neighbours if it has more points than a panel can show."""
    return binned(x, y, _POINTS) if len(x) > _POINTS else (x, y)


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
