"""``ezm report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ezm.cli.options import parse


@dataclass(frozen=True)
class Report:
    """Write a run's report, one self-contained HTML page, and print its path.

    Several runs give one page that compares them. Runs that differ only in their seed are drawn as one curve with a
    band.

    Examples:
      ezm report runs/RUN
      ezm report runs/A-s0 runs/A-s1 runs/B-s0 runs/B-s1 --out page.html
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
    """The folders of one run or more."""
    out: Path | None = None
    """The page to write. None: report.html in the run's folder, or comparison.html in this folder."""


def report(arguments: Sequence[str]) -> int:
    """Runs ``ezm report`` and returns the exit code."""
    options = parse(Report, "report", arguments)
    from ezm.errors import UserError

    if not options.runs:
        raise UserError("Missing from ezm report: RUN; name the folder of a run, such as runs/NAME")
    from ezm.report.report import write_report

    print(write_report(options.runs, options.out))
    return 0
