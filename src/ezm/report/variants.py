"""Variants of compared runs. Runs that differ only in their seed form a variant, named by the options in which it
differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ezm.report.record import Axis, Record

_NAMED_OPTIONS = 3


@dataclass(frozen=True)
class Variant:
    """Runs of one configuration with several seeds."""

    name: str
    records: tuple[Record, ...]


def options_of(record: Record) -> dict[str, Any]:
    """Returns a run's options except the seed, by their dotted names."""
    return {name: value for name, value in flat(record.config) if name != "seed"}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields nested options by their names on the command line: ``loss.n-step``."""
    for name, value in config.items():
        dashed = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from flat(value, f"{dashed}.")
        else:
            yield dashed, value


def group(records: Sequence[Record]) -> list[Variant]:
    """Returns the variants in order of their first run, each with a different name."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(options_of(record), sort_keys=True), []).append(record)
    found = [tuple(sorted(each, key=_seed)) for each in groups.values()]
    if len(found) == 1:
        return [Variant(found[0][0].suite, found[0])]
    options = [options_of(each[0]) for each in found]
    different = differences(options)
    last = [option.rpartition(".")[2] for option in different]
    short = {
        option: name if last.count(name) == 1 else option
        for option, name in zip(different, last, strict=True)
    }
    named: list[Variant] = []
    for own, each in zip(options, found, strict=True):
        parts = [
            # Another version of ezm may lack the option.
            f"{name}={show(own[option])}" if option in own else f"no {name}"
            for option, name in short.items()
        ]
        name = ", ".join(parts[:_NAMED_OPTIONS])
        taken = sum(variant.name.partition(" #")[0] == name for variant in named)
        named.append(Variant(f"{name} #{taken + 1}" if taken else name, each))
    return named


def differences(options: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the options in which any two configurations differ -> their values, None where one is missing."""
    found = {}
    for name in dict.fromkeys(name for each in options for name in each):
        values = [(name in each, each.get(name)) for each in options]
        if any(value != values[0] for value in values):
            found[name] = [value for _, value in values]
    return found


def show(value: Any) -> str:
    """Returns an option's value as a short text."""
    if isinstance(value, list | tuple):
        return " ".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def shared_tasks(records: Sequence[Record]) -> list[str]:
    """Returns the tasks that all runs have, in the order of the first run."""
    return [task for task in records[0].tasks if all(task in each.tasks for each in records)]


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


def evaluation_curve(
    record: Record, task: str, axis: Axis, mode: str = "search"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places and mean returns of a run's evaluations."""
    found = record.evaluations.get((task, mode), [])
    x = np.array([getattr(each, axis) for each in found], dtype=float)
    return x, np.array([np.mean(each.returns) for each in found], dtype=float)


def _seed(record: Record) -> tuple[int, str]:
    seed = record.config.get("seed")
    return (seed if isinstance(seed, int) else -1, record.name)
