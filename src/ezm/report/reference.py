"""Reference values for a run: random actions, SAC after as many environment steps, success bars, and published
curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ezm.report.record import Record
from ezm.statistics.intervals import mean_interval
from ezm.statistics.scores import sources_of, success_bar

RECORDED = Path(__file__).with_name("recorded.json")
"""SAC's returns: suite -> task -> {"sac": mean return, "steps": environment steps per task}."""
PUBLISHED = Path(__file__).with_name("published.json")
"""Curves on HumanoidBench's tasks: method -> its "source", its "protocol", and "curves" by task."""
PUBLISHED_COLOURS = {"EZ-M, paper": "#8b5cf6", "FastTD3": "#db2777"}

Reference = Mapping[str, Mapping[str, float]]


class Curve(NamedTuple):
    """A published learning curve."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seconds: np.ndarray | None = None


Published = Mapping[str, Mapping[str, Curve]]
"""Task -> method -> curve."""


def reference(record: Record) -> dict[str, dict[str, float]]:
    """Returns the reference values of a run's tasks.

    SAC's return is left out if it was recorded at another number of steps than the run's: the comparison would be
    unfair.

    Returns:
        task -> {"random": mean return, "sac": mean return, "bar": success bar}. Any of them may be missing.
    """
    recorded = json.loads(RECORDED.read_text()).get(str(record.config.get("suite")), {})
    sources = sources_of(record.suite)
    found: dict[str, dict[str, float]] = {}
    for task in record.tasks:
        found[task] = {}
        if random := record.last(task, "random"):
            found[task]["random"] = mean_interval(random).mean
        if task in recorded and recorded[task]["steps"] == record.config.get("steps"):
            found[task]["sac"] = recorded[task]["sac"]
        bar = success_bar(sources[task]) if task in sources else None
        if bar is not None:
            found[task]["bar"] = bar
    return found


def published(tasks: list[str]) -> tuple[Published, dict[str, str]]:
    """Returns the published curves for the given tasks, and the origin of each method's numbers.

    Returns:
        task -> method -> curve, and method -> source and protocol, for the methods that occur.
    """
    document = json.loads(PUBLISHED.read_text())
    found: dict[str, dict[str, Curve]] = {task: {} for task in tasks}
    notes = {}
    for method in PUBLISHED_COLOURS:
        for task in tasks:
            curve = document[method]["curves"].get(task)
            if curve is not None:
                numbers = {name: np.array(values, float) for name, values in curve.items()}
                found[task][method] = Curve(**numbers)
                notes[method] = f"{document[method]['source']}: {document[method]['protocol']}"
    return found, notes
