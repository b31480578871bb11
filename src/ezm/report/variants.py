"""The options of runs by name: the command that repeats a run, and variants of compared runs.

Runs that differ only in their seed form a variant, named by the options in which it differs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ezm.config import to_dict
from ezm.config.presets import PRESETS, defaults
from ezm.report.record import Record

_NAMED_OPTIONS = 3


class Variant(NamedTuple):
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


def train_command(config: Mapping[str, Any]) -> str:
    """Returns ``ezm train ...`` with the seed and every option that differs from the preset's and suite's defaults."""
    suite, preset = str(config.get("suite", "")), str(config.get("preset", "cpu"))
    parts = ["ezm", "train", suite, "--preset", preset]
    known = to_dict(defaults(preset, suite)) if preset in PRESETS else {}
    usual = {name: _words(value) for name, value in flat(known)}
    for name, value in flat(config):
        words = _words(value)
        if name in ("suite", "preset") or (words == usual.get(name) and name != "seed"):
            continue
        if isinstance(value, bool):
            group, _, last = name.rpartition(".")
            flag = f"{group}.{'' if value else 'no-'}{last}".lstrip(".")
            parts.append(f"--{flag}")
        else:
            parts += [f"--{name}", *words]
    return shlex.join(parts)


def _words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]


def group(records: Sequence[Record]) -> list[Variant]:
    """Returns the variants in order of their first run, each with a different name."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(options_of(record), sort_keys=True), []).append(record)
    found = [
        tuple(sorted(each, key=lambda record: (record.config.get("seed", -1), record.name)))
        for each in groups.values()
    ]
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
