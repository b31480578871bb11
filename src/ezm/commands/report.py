"""``ezm report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ezm.options import parse
from ezm.terminal import write_report


@dataclass(frozen=True)
class Report:
    """Write a run's report, one HTML page that needs nothing else, and print its path.

    Examples:
      ezm report runs/RUN
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""


def report(arguments: Sequence[str]) -> int:
    """``ezm report``. Returns the exit code."""
    print(write_report(parse(Report, "report", arguments).run))
    return 0
