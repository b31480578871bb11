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
    """Suites or tasks as for `ezm train`. dmc: everything in dm_control. hb: everything in HumanoidBench."""


def tasks(arguments: Sequence[str]) -> int:
    """Runs ``ezm tasks`` and returns the exit code."""
    options = parse(Tasks, "tasks", arguments)
    from ezm.tasks import SUITES, listing
    from ezm.tasks.sources import REGISTRY, forms, split

    rows = listing(*options.names)
    headings = ("suite", "task", "obs", "act", "repeat", "steps", "source")
    note = ""
    if not options.names:
        note = f"also: {forms()}, and lists of them; `ezm tasks dmc` lists all of dmc's"
        for source in REGISTRY.values():
            if lack := source.lack():
                own = [
                    name for name, tasks in SUITES.items() if source in {split(t)[0] for t in tasks}
                ]
                note += f"\nwithout {', '.join(own) or source.title}: {lack}; run: {source.install}"
    print_table(
        headings,
        [tuple("-" if value is None else str(value) for value in row) for row in rows],
        note,
    )
    return 0
