"""Reference values for a run: random actions, SAC after as many environment steps, success bars, and published
curves."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ezm.report.panels import Look
from ezm.report.record import Record
from ezm.statistics.intervals import mean_interval
from ezm.statistics.scores import sources_of, success_bar

RECORDED = Path(__file__).with_name("recorded.json")
"""SAC's returns: suite -> task -> {"sac": mean return, "steps": environment steps per task}."""
PUBLISHED = Path(__file__).with_name("published.json")
"""Curves on HumanoidBench's tasks: method -> its "source", its "protocol", and "curves" by task."""
PUBLISHED_LOOKS = {"EZ-M, paper": Look("#8b5cf6", "-", 1.4), "FastTD3": Look("#db2777", "-", 1.4)}

Reference = Mapping[str, Mapping[str, float]]


class Curve(NamedTuple):
    """A published learning curve."""

    steps: np.ndarray
    seconds: np.ndarray | None
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


Published = Mapping[str, Mapping[str, Curve]]
"""Task -> method -> curve."""


def reference(record: Record) -> dict[str, dict[str, float]]:
    """Returns the reference values of a run's tasks.

    SAC's return is left out if it was recorded at another number of steps than the run's: the comparison would be
    unfair.

    Returns:
        task -> {"random": mean return, "sac": mean return, "bar": success bar}. Any of them may be missing.
    """
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    sources = sources_of(record.suite)
    found: dict[str, dict[str, float]] = {}
    for task in record.tasks:
        found[task] = {}
        if random := record.returns(task, "random"):
            found[task]["random"] = mean_interval(random[-1].returns).mean
        sac = recorded.get(str(record.config.get("suite")), {}).get(task)
        if sac is not None and sac["steps"] == record.config.get("steps"):
            found[task]["sac"] = sac["sac"]
        bar = success_bar(sources[task]) if task in sources else None
        if bar is not None:
            found[task]["bar"] = bar
    return found


def published(tasks: list[str]) -> tuple[Published, dict[str, str]]:
    """Returns the published curves for the given tasks, and the origin of each method's numbers.

    Returns:
        task -> method -> curve, and method -> source and protocol, for the methods that occur.
    """
    found: dict[str, dict[str, Curve]] = {task: {} for task in tasks}
    notes = {}
    for method, document in _published().items():
        if not isinstance(document, Mapping):
            continue
        for task in tasks:
            curve = document["curves"].get(task)
            if curve is not None:
                numbers = {name: np.array(values, float) for name, values in curve.items()}
                found[task][method] = Curve(
                    numbers.pop("steps"), numbers.pop("seconds", None), **numbers
                )
                notes[method] = f"{document['source']}: {document['protocol']}"
    return found, notes


@functools.cache
def _published() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(PUBLISHED.read_text())
    return document
