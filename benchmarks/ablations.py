"""Ablations: the effect of each part of the method on the same short training.

``python -m benchmarks.ablations --record`` trains every variant with several seeds on the cartpole
suite and prints the returns. Recorded runs are not repeated. The option ``--report`` prints the
recorded returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.command import Flag, command, show
from benchmarks.learning import Budget, Run, header, run_ezm
from benchmarks.results import (
    CurveKey,
    Curves,
    Row,
    append,
    column_head,
    read,
    recorded_steps,
    short_names,
)
from ezm.errors import UserError
from ezm.tasks import load_suite

BASE = "cpu preset"
VARIANTS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "no task embedding": ("--model.no-task-embedding",),
    "task embedding, full scale": ("--model.task-embedding-scale", "1"),
    "shared replay": ("--replay.no-per-task",),
    "no temporal consistency": ("--loss.consistency-weight", "0"),
    "cosine consistency": (
        *("--loss.consistency", "cosine", "--loss.consistency-weight", "5"),
        *("--model.projector-size", "128"),
    ),
    "no path consistency": ("--loss.path-weight", "0"),
    "value target: n-step only": ("--loss.mve.weight", "0"),
    "value target: search": ("--loss.mve.weight", "0", "--loss.value-target", "search"),
    "value target: mixed": (
        *("--loss.mve.weight", "0", "--loss.value-target", "mixed"),
        *("--loss.mixed.after-updates", "1000", "--loss.mixed.older-than", "500"),
    ),
    "policy target: best action": ("--loss.policy-target", "best_action"),
    "no leaf rollout": ("--planner.leaf-rollout", "0"),
    "no borrowed episodes": ("--cross-task-episodes", "0"),
    "101 bins": ("--model.bins", "101"),
}
"""Options of ``ezm train`` for each variant, by its name."""

SUITE = "cartpole"
RECORDED = Path(__file__).parent / "recorded" / f"ablations-{SUITE}.jsonl"


@dataclass(frozen=True)
class Options:
    """Measure ablations, one switch at a time."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 3
    """Seeds 0 to seeds - 1."""
    steps: int = 1_500
    """Agent steps per task."""
    every: int = 500
    """Steps between evaluations."""
    episodes: int = 10
    """Episodes per task and evaluation."""
    record: Flag = False
    """Append to benchmarks/recorded/ablations-cartpole.jsonl, and skip runs that are there."""
    report: Flag = False
    """Run nothing, and print the recorded rows."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table. Their key "method" is the variant."""
    note: str = ""
    """Text to keep with the recorded rows."""


def run(options: Options, console: Console) -> list[Row]:
    """Trains the missing runs, one seed of every variant after the other, and returns all rows.

    Raises:
        UserError: a variant is unknown, or a training failed. Earlier runs are recorded.
    """
    for name in options.variants:
        if name not in VARIANTS:
            raise UserError(f"variant {name!r} is unknown; there are {', '.join(VARIANTS)}")
    suite = load_suite(SUITE)
    budget = Budget(options.steps, options.every)
    rows = read(RECORDED) if options.record else []
    announced = False
    for seed in range(options.seeds):
        for name in options.variants:
            done = recorded_steps(rows).get(CurveKey(name, seed, suite.task_names[0]), 0)
            if done >= options.steps:
                continue
            one = Run(name, seed, suite, SUITE, 1.0)
            new = list(run_ezm(one, budget, options.episodes, VARIANTS[name]))
            if options.record:
                about = header(budget, options.episodes, options.note, options.variants)
                append(RECORDED, [*([] if announced else [about]), *new])
                announced = True
            rows += new
            last = ", ".join(f"{row['return']:.0f}" for row in new[-suite.num_tasks :])
            console.print(f"{name}, seed {seed}: {last}", highlight=False)
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of final returns, means over seeds. Its rows are variants, its columns tasks.

    The last columns are the mean over tasks and the area under the learning curve, with standard deviations over seeds.
    """
    curves = Curves(rows)
    title = f"return at {curves.high:,} steps per task"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("variant", overflow="fold")
    for head in ("seeds", *short_names(curves.tasks), "mean", "area"):
        shown.add_column(column_head(head), justify="right")
    for name in curves.methods:
        final = [curves.final(name, task) for task in curves.tasks]
        area = [curves.area(name, task) for task in curves.tasks]
        seeds = min(map(len, final))
        means = [np.mean([each[:seeds] for each in values], axis=0) for values in (final, area)]
        cells = [*(f"{each.mean():.0f}" for each in final), *map(_spread, means)]
        shown.add_row(name, str(seeds), *cells)
    return shown


def _spread(seeds: np.ndarray) -> str:
    """Formats mean and standard deviation without decimals, because the table is wide."""
    return f"{seeds.mean():.0f}" + (f" ± {seeds.std(ddof=1):.0f}" if seeds.size > 1 else "")


def main(options: Options) -> None:
    """Prints the table that ``options`` describe."""
    rows = read(RECORDED) if options.report else run(options, Console(stderr=True))
    rows = [row for row in rows if row["method"] in options.variants]
    if not rows:
        raise UserError("nothing is recorded: run with --record first")
    show(rows, table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
