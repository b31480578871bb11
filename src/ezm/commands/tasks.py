"""``ezm tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ezm.options import parse
from ezm.terminal import print_table


@dataclass(frozen=True)
class Tasks:
    """List tasks: those of the named suites, or of the suites and tasks given."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")] = ()
    """Suites or tasks as for `ezm train`; `dmc` lists everything in dm_control."""


def tasks(arguments: Sequence[str]) -> int:
    """``ezm tasks``. Returns the exit code."""
    options = parse(Tasks, "tasks", arguments)
    from ezm.tasks import listing

    rows = listing(*options.names)
    headings = ("suite", "task", "obs", "act", "repeat", "steps", "source")
    print_table(
        headings,
        [tuple("-" if value is None else str(value) for value in row) for row in rows],
        ""
        if options.names
        else "also: dmc:domain-task (`ezm tasks dmc` lists them), "
        "gym:Id, module:function, and lists of them",
    )
    return 0
