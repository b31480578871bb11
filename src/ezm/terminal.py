"""What the commands print when they are done: tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ezm.doctor import Finding
    from ezm.training.profile import Occasion, Part, Profile


def print_results(path: Path) -> None:
    """A table of the run's last evaluations beside random actions and, if recorded, SAC.

    Raises:
        UserError: not a run folder.
    """
    from ezm.evaluation.record import Record
    from ezm.evaluation.report import COLUMNS, result_table
    from ezm.evaluation.statistics import format_return

    rows = result_table(Record.read(path))
    headings = {"task": "task", **COLUMNS}
    shown = [key for key in headings if any(row[key] is not None for row in rows)]

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return format_return(value) if isinstance(value, float) else str(value)

    print_table(
        [headings[key] for key in shown],
        [[cell(row[key]) for key in shown] for row in rows],
        "return per episode; mean and 95 % interval of the last evaluation",
    )


def print_profile(found: Profile) -> None:
    """A table of the parts of a run's loop, what bounds it, its rates, and what comes on top of it."""
    from ezm.training.profile import Part

    wall = found.timed.seconds

    def row(name: str, part: Part) -> list[str]:
        each = [f"{1e3 * part.seconds / part.calls:.3g}", f"{part.calls:,}"] if part.calls else "--"
        return [name, f"{part.seconds:.2f}", f"{part.seconds / wall:.1%}", *each]

    print_table(
        ["part", "seconds", "of the loop", "ms a call", "calls"],
        [
            *(row(name, part) for name, part in found.parts.items()),
            row("unattributed", Part(found.unattributed)),
            row("the loop", Part(wall)),
            *(row(f"{name}, beside it", part) for name, part in found.beside.items()),
        ],
    )
    print(f"bound by {found.bound}")
    for title, pace in (("as in training", found.pace), ("part by part", found.timed)):
        print(
            f"{title}: {pace.env_steps_per_s:.1f} env steps/s, {pace.updates_per_s:.1f} updates/s"
        )
    print(f"a checkpoint: {_occasion(found.checkpoint)}")
    print(f"an evaluation: {_occasion(found.evaluation)}")
    print(f"peak memory: {found.peak_memory_mib:,.0f} MiB")


def _occasion(occasion: Occasion) -> str:
    written = "" if occasion.mib is None else f", {occasion.mib:.1f} MiB"
    return (
        f"{occasion.seconds:.2f} s{written}; every {occasion.every:,} steps per task, which adds "
        f"{occasion.share:.1%} to the loop"
    )


def print_findings(findings: Sequence[Finding], able: bool) -> None:
    """A line for each finding and one for its fix, and at last whether the machine can train."""
    colors = {"ok": "green", "note": "dim", "warning": "yellow", "problem": "red"}
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        status = Text(finding.status, style=colors[finding.status])
        table.add_row(status, finding.subject, Text(finding.said, overflow="fold"))
        if finding.fix:
            table.add_row("", "", Text(f"fix: {finding.fix}", overflow="fold"))
    console = _console()
    console.print(table)
    console.print("this machine can train" if able else "this machine cannot train", style="bold")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """A table, columns of numbers to the right, and a dim line below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        numeric = number > 0 and all(row[number][:1] in "-0123456789" for row in rows)
        table.add_column(heading, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*row)
    console = _console()
    console.print(table)
    if note:
        console.print(note, style="dim", highlight=False, markup=False)


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # cut nothing short in a file or a pipe
    return console
