"""``ezm doctor``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ezm.options import parse
from ezm.terminal import print_findings


@dataclass(frozen=True)
class Doctor:
    """Say whether this machine can train and draw, and for everything that is wrong how to mend it.

    Exit code 0: it can train. 1: it cannot; the lines that say `problem` tell why.
    """

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of lines."""


def doctor(arguments: Sequence[str]) -> int:
    """``ezm doctor``. Returns the exit code."""
    options = parse(Doctor, "doctor", arguments)
    from ezm.doctor import can_train, examine

    findings = examine()
    able = can_train(findings)
    if options.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"can_train": able, "findings": rows}, indent=2))
    else:
        print_findings(findings, able)
    return 0 if able else 1
