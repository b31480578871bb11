"""``ezm tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ezm.cli.options import parse
from ezm.cli.terminal import print_table


@dataclass(frozen=True)
class Tasks:
    """List the tasks of the named suites, or of the given suites and tasks.

    Columns: sizes of observation and action, simulator steps for each action, and agent steps of an episode.

    Examples:
      ezm tasks                          the named suites
      ezm tasks dmc                      all of dm_control
      ezm tasks h1-walk gym:Pendulum-v1
      ezm tasks my_tasks:make            your own task
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: the named suites)"),
    ] = ()
    """Suites or tasks as for `ezm train`. dmc: everything in dm_control."""


def tasks(arguments: Sequence[str]) -> int:
    """Runs ``ezm tasks`` and returns the exit code."""
    options = parse(Tasks, "tasks", arguments)
    from ezm.tasks import SUITES, listing, sources
    from ezm.tasks.suites import usable_suites

    rows = listing(*options.names)
    headings = ("suite", "task", "obs", "act", "repeat", "steps", "source")
    note = ""
    if not options.names:
        note = "also: dmc:domain-task (`ezm tasks dmc` lists them), gym:Id, module:function, and lists of them"
        if lack := sources.lacks_dm_control():
            left_out = [name for name in SUITES if name not in usable_suites()]
            note += f"\nwithout {', '.join(left_out)}: {lack}; run: {sources.INSTALL_DM_CONTROL}"
    print_table(
        headings,
        [tuple("-" if value is None else str(value) for value in row) for row in rows],
        note,
    )
    return 0
