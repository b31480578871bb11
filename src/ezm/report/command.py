"""The command that starts a run again, from its configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ezm.config import to_dict
from ezm.config.presets import PRESETS, defaults
from ezm.report.variants import flat


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
