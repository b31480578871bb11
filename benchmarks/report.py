"""Duration and size of the pages of ``ezm report``.

``python -m benchmarks.report`` invents runs on the nine tasks of ``h1``, with rows as a real run writes them. It makes
the report of one long run, and the page that compares many shorter runs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.config import to_dict
from ezm.config.presets import defaults
from ezm.report.report import write_report
from ezm.runs.folder import RunFolder
from ezm.tasks.humanoid_bench.catalog import SUITES

_TASKS = SUITES["h1"]
_LOG_EVERY, _EVALUATE_EVERY, _EPISODE = 50, 5_000, 100


@dataclass(frozen=True)
class Options:
    """Time the report's pages."""

    rows: int = 500_000
    """Rows of the long run."""
    runs: int = 20
    """Runs to compare, in four variants."""
    compared_rows: int = 50_000
    """Rows of each compared run."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


class Row(TypedDict):
    """Measurements of one page."""

    page: str
    read_mib: float
    """Size of all metrics.jsonl files."""
    seconds: float
    page_kib: float


def invent(path: Path, seed: int, rows: int, **changes: Any) -> Path:
    """Makes a run folder whose metrics.jsonl has about ``rows`` rows: losses, evaluations, episodes ended by falls."""
    config = replace(defaults("cpu", "h1"), suite="h1", seed=seed, **changes)
    run = RunFolder.create(path, to_dict(config))
    rng = np.random.default_rng(seed)
    with open(run.metrics_path, "w") as file:
        start = {"suite": "h1", "tasks": _TASKS, "version": "0", "parameters": 1}
        file.write(json.dumps({"kind": "start", "step": 0, "seconds": 0.0, **start}) + "\n")
        for number, row in enumerate(_rows(rng, rows)):
            if number >= rows:
                break
            file.write(json.dumps(row) + "\n")
    return path


def _rows(rng: np.random.Generator, rows: int) -> Iterator[dict[str, Any]]:
    step = 0
    while True:
        step += _LOG_EVERY
        at = {"step": step, "seconds": step / 40}
        level = 800 * (1 - np.exp(-step / rows))
        names = ["gradient_norm", "value_error", *(f"priority/{task}" for task in _TASKS)]
        names += [f"loss/{name}" for name in ("total", "value", "reward", "policy", "entropy")]
        yield {"kind": "train", **at, "updates": step} | {name: rng.random() for name in names}
        for task in _TASKS:
            if step % _EPISODE == 0:
                value = {"return": level * rng.random(), "length": 80, "terminated": True}
                yield {"kind": "episode", **at, "task": task, "policy": task, **value}
            if step % _EVALUATE_EVERY == 0:
                returns = (level * rng.random(4)).tolist()
                yield {"kind": "eval", **at, "task": task, "mode": "search", "returns": returns}


def _timed(name: str, runs: Sequence[Path], write: Callable[[], Path]) -> Row:
    started = time.perf_counter()
    page = write()
    seconds = time.perf_counter() - started
    size = sum((run / "metrics.jsonl").stat().st_size for run in runs)
    return Row(
        page=name,
        read_mib=round(size / 2**20, 1),
        seconds=round(seconds, 2),
        page_kib=round(page.stat().st_size / 2**10, 1),
    )


def measure(options: Options) -> Iterator[Row]:
    """Yields a row for each page. The first page includes matplotlib's import."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = invent(folder / "long", 0, options.rows)
        yield _timed(f"one run, {options.rows:,} rows", [one], lambda: write_report([one]))
        base = defaults("cpu", "h1").loss
        many = [
            invent(
                folder / f"{n}",
                n // 4,
                options.compared_rows,
                loss=replace(base, unroll=2 + n % 4),
            )
            for n in range(options.runs)
        ]
        yield _timed(
            f"{options.runs} runs, {options.compared_rows:,} rows each",
            many,
            lambda: write_report(many, folder / "page.html"),
        )


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of the rows."""
    shown = Table(title="pages of ezm report", title_justify="left")
    for head in ("page", "metrics, MiB", "seconds", "page, KiB"):
        shown.add_column(head, justify="left" if head == "page" else "right")
    for row in rows:
        numbers = (row["read_mib"], row["seconds"], row["page_kib"])
        shown.add_row(row["page"], *(f"{number:,.1f}" for number in numbers))
    return shown


def main(options: Options) -> None:
    """Prints the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
