"""Output of the commands: results as tables, and lines that may be lost when nobody can read them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ezm.acting.results import Evaluation
    from ezm.cli.doctor import Finding
    from ezm.training.profile import Occasion, Profile
    from ezm.training.timer import Taken


class Lenient:
    """A stream that ignores a full disk and a reader that is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text if possible, and returns its length."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream if possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Lines(logging.Handler):
    """Prints the library's log records, such as warnings, on standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=Lenient(sys.stderr), flush=True)


def print_results(path: Path) -> None:
    """Prints the run's last evaluations next to random actions, the success bar and, if recorded, SAC.

    Raises:
        UserError: not a run folder.
    """
    from ezm.report.record import Record
    from ezm.report.report import result_table, shown

    table = result_table(shown([Record.read(path)]))
    rows = [["-" if cell == "–" else cell for cell in row] for row in table.rows]
    print_table(
        table.head, rows, "return per episode; mean and 95 % interval of the last evaluation"
    )


def print_evaluation(found: Evaluation) -> None:
    """Prints a table of the tasks, how the evaluation was made, and a table of the aggregates."""
    from ezm.statistics.intervals import format_return

    tasks = found.tasks.values()
    columns: dict[str, list[str]] = {
        "task": list(found.tasks),
        "mean": [format_return(each.mean) for each in tasks],
        "IQM": [format_return(each.iqm) for each in tasks],
        "95 %": [_ends(each.iqm_low, each.iqm_high, format_return) for each in tasks],
        "bar": [_or_dash(each.success_bar, "g") for each in tasks],
        "solved": [_or_dash(each.solved, ".0%") for each in tasks],
        "score": [_or_dash(each.normalised, ".3f") for each in tasks],
        "steps": [f"{each.length:.4g}" for each in tasks],
    }
    shown = {name: cells for name, cells in columns.items() if {*cells} != {"-"}}
    protocols = {each.protocol for each in tasks if each.protocol}
    falls = f"; protocol {' and '.join(sorted(protocols))}" if protocols else ""
    print_table(
        list(shown),
        list(zip(*shown.values(), strict=True)),
        f"returns of {found.episodes} episodes a task after {found.step:,} steps per task{falls}\n"
        f"acting with the {found.planner}, seed {found.seed}; IQM: interquartile mean, 95 % by bootstrap",
    )
    if found.aggregate is None or len(found.scores()) < 2:
        return
    names = {"iqm": "IQM", "optimality_gap": "optimality gap"}
    rows = [
        [names.get(name, name), f"{each.value:.3f}", _ends(each.low, each.high, "{:.3f}".format)]
        for name, each in found.aggregate.items()
    ]
    print()
    print_table([f"score over {len(found.scores())} tasks", "value", "95 %"], rows)


def _ends(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    return "-" if low is None or high is None else f"{text(low)} to {text(high)}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_profile(found: Profile) -> None:
    """Prints the seconds of each section of a run's loop, what bounds it, its rates, and the costs on top of it."""

    def row(name: str, taken: Taken) -> list[str]:
        each = ["-", "-"]
        if taken.calls:
            each = [f"{1e3 * taken.seconds / taken.calls:.3g}", f"{taken.calls:,}"]
        return [name, f"{taken.seconds:.2f}", f"{taken.seconds / found.seconds:.1%}", *each]

    print_table(
        ["section", "seconds", "of the loop", "ms a call", "calls"],
        [
            *(row(name, taken) for name, taken in found.sections.items()),
            ["the loop", f"{found.seconds:.2f}", "100.0%", "-", "-"],
            *(row(f"{name}, beside it", taken) for name, taken in found.beside.items()),
        ],
    )
    print(f"bound by {found.bound}")
    print(f"{found.env_steps_per_s:.1f} env steps/s, {found.updates_per_s:.1f} updates/s")
    print(f"a checkpoint of {found.checkpoint_mib:.1f} MiB: {_occasion(found.checkpoint)}")
    print(f"an evaluation: {_occasion(found.evaluation)}")
    print(f"peak memory: {found.peak_memory_mib:,.0f} MiB")


def _occasion(occasion: Occasion) -> str:
    return (
        f"{occasion.seconds:.2f} s; every {occasion.every:,} steps per task, which adds "
        f"{occasion.share:.1%} to the loop"
    )


def print_findings(findings: Sequence[Finding], able: bool) -> None:
    """Prints a line for each finding, a line for its fix, and last whether the machine can train."""
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
    """Prints a table with numbers aligned to the right, and a dim note below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        numeric = number > 0 and all(row[number][:1] in "-0123456789" for row in rows)
        table.add_column(heading, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*row)
    console = _console()
    console.print(table)
    if note:
        console.print(note, style="dim", highlight=False)


def _console() -> Console:
    console = Console(markup=False, emoji=False)  # names of tasks stay as they are
    if not console.is_terminal:
        console.width = 200  # shortens nothing in a file or a pipe
    return console
