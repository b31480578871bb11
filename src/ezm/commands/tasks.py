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
    """List tasks: those of the named suites, or of the suites and tasks given.

    Columns: sizes of observation and action, simulator steps for each action, and agent steps of an episode.

    Examples:
      ezm tasks                          the suites that have a name
      ezm tasks dmc                      all of dm_control
      ezm tasks h1-walk gym:Pendulum-v1
      ezm tasks my_tasks:make            is it found, and what are its sizes
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: the named suites)"),
    ] = ()
    """Suites or tasks as for `ezm train`. dmc: everything in dm_control."""


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
