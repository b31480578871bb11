"""``ezm doctor``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ezm.cli.options import parse
from ezm.cli.terminal import print_findings


@dataclass(frozen=True)
class Doctor:
    """Say whether this machine can train and draw, and how to fix what is wrong.

    Checks: Python, required packages, JAX and the GPU, settings of the environment, MuJoCo, libraries that draw
    pictures. Nothing is changed.

    ok: as it should be. note: something optional is missing or has no effect. warning: something works less well.
    problem: the machine cannot train. A problem gives exit code 1, otherwise the exit code is 0.

    Examples:
      ezm doctor
      ezm doctor --json    for a program to read
    """

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of lines."""


def doctor(arguments: Sequence[str]) -> int:
    """Runs ``ezm doctor`` and returns the exit code."""
    options = parse(Doctor, "doctor", arguments)
    from ezm.cli.examination import can_train, examine

    findings = examine()
    able = can_train(findings)
    if options.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"can_train": able, "findings": rows}, indent=2))
    else:
        print_findings(findings, able)
    return 0 if able else 1
