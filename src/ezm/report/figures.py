"""Figures of runs besides their learning curves: scores, losses, diagnostics, throughput, task embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ezm.report.curves import binned, seed_line
from ezm.report.panels import GRID, INK, SEARCH, Level, Line, Look, Panel, Text, look
from ezm.report.record import Record, Series
from ezm.report.variants import Variant
from ezm.statistics.aggregates import Estimate, performance_profile, profile_band

STEPS = "environment steps per task"
HEALTH = {
    "value_error": "value error",
    "loss/consistency": "latent consistency",
    "loss/entropy": "policy entropy",
}
"""Training values that show whether learning is sound, and their titles."""
PRIORITY = "priority/"
_BINS = 200
_FEW_BINS = 40  # where lines of many tasks overlap


def training_panels(
    variants: Sequence[Variant], group: Literal["health", "losses", "others"]
) -> list[Panel]:
    """Returns a panel for each training value of a group that any run has: mean and range of each variant's seeds.

    A legend names several variants. Priorities and times are in no group.
    """
    names = dict.fromkeys(n for v in variants for record in v.records for n in record.training)
    own = [
        n for n in names if n not in {"updates", *HEALTH} and not n.startswith((PRIORITY, "time/"))
    ]
    chosen = [n for n in own if n.startswith("loss/") == (group == "losses")]
    panels = []
    for name in HEALTH if group == "health" else chosen:
        lines = []
        for index, variant in enumerate(variants):
            found = [r.training[name] for r in variant.records if name in r.training]
            label = variant.name if len(variants) > 1 else ""
            lines += seed_line(label, [_thin(series) for series in found], look(index, width=1.4))
        if lines:
            panels.append(Panel(HEALTH.get(name, name), lines, STEPS))
    return panels


def priority_panel(record: Record) -> list[Panel]:
    """Returns a panel of |value - target|, from which the replay's priorities are made, with a line for each task."""
    lines = [
        Line(task, *_thin(record.training[PRIORITY + task], _FEW_BINS), look(index, width=1.4))
        for index, task in enumerate(record.tasks)
        if PRIORITY + task in record.training
    ]
    return [Panel("priority of each task", lines, STEPS)] if lines else []


def throughput_panels(record: Record) -> list[Panel]:
    """Returns panels of all tasks' environment steps and of learner updates per second, none where they are unknown."""
    updates = record.training.get("updates")
    if updates is None:
        return []
    seconds = np.diff(updates.seconds)
    valid = seconds > 0
    if not valid.any():
        return []
    steps, seconds = updates.step[1:][valid], seconds[valid]
    rates = {
        "environment steps per second": len(record.tasks) * np.diff(updates.step)[valid] / seconds,
        "learner updates per second": np.diff(updates.value)[valid] / seconds,
    }
    return [
        Panel(title, [Line("", *binned(steps, rate, _BINS), Look(SEARCH, width=1.4))], STEPS)
        for title, rate in rates.items()
    ]


def diagnostic_panels(record: Record) -> list[Panel]:
    """Returns a panel for each diagnostic, with a line for each task."""
    panels = []
    for name, by_task in record.diagnostics.items():
        lines = [
            Line(task, by_task[task].step, by_task[task].value, look(index, width=1.6, marker=True))
            for index, task in enumerate(record.tasks)
            if task in by_task
        ]
        ranks = name.startswith("spearman")
        low = min([-0.2, *(line.y.min() for line in lines)])
        levels = [Level("", 0.0, Look(INK, width=0.8))] if ranks else ()
        y_range = (low, 1.02) if ranks else None
        panels.append(Panel(name, lines, STEPS, levels, y_range=y_range))
    return panels


def profile_panel(scores: Mapping[str, np.ndarray]) -> Panel:
    """Shows the share of scores above each threshold, with its 95 % bootstrap interval if there are several runs.

    Args:
        scores: name -> (R, K) normalised scores.
    """
    highest = max(1.0, *(float(each.max()) for each in scores.values()))
    thresholds = np.linspace(0.0, highest, 101)
    lines = []
    for index, (name, each) in enumerate(scores.items()):
        shares = performance_profile(each, thresholds)
        band = profile_band(each, thresholds) if len(each) > 1 else None
        lines.append(Line(name, thresholds, shares, look(index), band))
    return Panel("share of scores above τ", lines, "normalised score τ", y_range=(0.0, 1.02))


def interval_panel(title: str, estimates: Mapping[str, Estimate]) -> Panel:
    """Shows an estimate and its interval for each name, one below the other."""
    lines = []
    for index, (name, each) in enumerate(estimates.items()):
        height = np.array([-float(index)])
        style = look(index)
        lines.append(Line(name, np.array([each.value]), height, Look(style.colour, "", 3.0, True)))
        if np.isfinite(each.low):
            ends = np.array([each.low, each.high])
            lines.append(Line("", ends, height.repeat(2), Look(style.colour, "-", 3.0)))
    return Panel(
        title,
        lines,
        "normalised score",
        y_range=(0.5 - len(estimates), 0.5),
        numbers="x",
        from_zero=False,
    )


def embedding_panel(tasks: Sequence[str], embedding: np.ndarray) -> Panel:
    """Shows the first two principal components of the tasks' embeddings.

    Args:
        tasks: K names, three or more.
        embedding: (K, E).
    """
    centred = embedding - embedding.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    x, y = (left * sizes)[:, :2].T
    shares = sizes**2 / np.sum(sizes**2)
    # Labels stand in a column next to the points, so that none covers another.
    span, longest = np.ptp(x), max(map(len, tasks))
    column = x.max() + 0.12 * span
    room = min(0.5, 0.019 * longest)  # relative to the panel's width
    gap = np.ptp(y) / max(13, len(tasks) - 1)
    heights = _apart(y, gap)
    lines = []
    for index, (a, b, height) in enumerate(zip(x, y, heights, strict=True)):
        lines.append(Line("", np.array([a, column]), np.array([b, height]), Look(GRID, width=0.8)))
        lines.append(
            Line("", np.array([a]), np.array([b]), Look(look(index).colour, "", 2.0, True))
        )
    left, margin = x.min() - 0.05 * span, 0.07 * np.ptp(y)
    return Panel(
        "task embeddings",
        lines,
        f"components 1 ({shares[0]:.0%} of the variance) and, upwards, 2 ({shares[1]:.0%})",
        x_range=(left, left + (column - left) / (1 - room)),
        y_range=(y.min() - margin, y.max() + margin),
        numbers="none",
        texts=[Text(column, *each) for each in zip(heights, tasks, strict=True)],
    )


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Moves places until any two are at least ``gap`` apart, within their range if there is room."""
    order = np.argsort(places, kind="stable")
    moved = places[order]
    steps = gap * np.arange(len(places))
    moved = np.maximum.accumulate(moved - steps) + steps  # up from below, then down from above
    highest = places.max() - steps[::-1]
    moved = np.minimum.accumulate((np.minimum(moved, highest) - steps)[::-1])[::-1] + steps
    found = np.empty_like(moved)
    found[order] = moved
    return found


def _thin(series: Series, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray]:
    return binned(series.step, series.value, bins)
