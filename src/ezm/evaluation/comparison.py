"""Comparison of runs: one HTML page, made from their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ezm.errors import UserError
from ezm.evaluation import figures, page
from ezm.evaluation.command import train_command
from ezm.evaluation.curves import variant_curves
from ezm.evaluation.page import Pictures, section
from ezm.evaluation.record import Record
from ezm.evaluation.reference import published, reference
from ezm.evaluation.report import publication_notes
from ezm.evaluation.scoring import NOTE, score_matrix, scores
from ezm.evaluation.statistics import format_return, mean_interval
from ezm.evaluation.variants import (
    Variant,
    differences,
    group,
    shared_tasks,
    show,
)
from ezm.training.run_folder import write_atomically

DEFAULT_OUT = Path("comparison.html")


def write_comparison(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes a page that compares runs. Runs that differ only in their seed form one variant.

    Args:
        runs: run folders, each counted once.
        out: the page's path. None: comparison.html in the working directory.

    Returns:
        The page's path.

    Raises:
        UserError: not a run folder, damaged metrics, fewer than two runs, no evaluation, no common task, or a page
            that cannot be written.
    """
    paths = list(dict.fromkeys(Path(run).resolve() for run in runs))
    if len(paths) < 2:
        raise UserError(f"{runs[0]} is one run, a comparison needs two or more: name others too")
    records = [Record.read(path) for path in paths]
    write_atomically(out or DEFAULT_OUT, comparison_page(records))
    return out or DEFAULT_OUT


def comparison_page(records: Sequence[Record]) -> str:
    """Returns the page as text.

    Raises:
        UserError: no run has an evaluation, or they have no task in common.
    """
    pending = [record for record in records if not _evaluated(record)]
    records = [record for record in records if _evaluated(record)]
    if not records:
        raise UserError(
            f"{pending[0].name} has no evaluation yet, nor has any other: train them further first"
        )
    tasks = shared_tasks(records)
    if not tasks:
        one = next(each for each in records if not shared_tasks([records[0], each]))
        raise UserError(
            f"{records[0].name} ({records[0].suite}) and {one.name} ({one.suite}) have no task in common: "
            "compare runs that do"
        )
    variants, pictures = group(records), Pictures()
    known = {
        task: {name: value for name, value in each.items() if name in ("random", "bar")}
        for task, each in reference(records[0]).items()
    }
    others, notes = published(tasks)
    curves = {
        "environment steps": pictures.panels(
            variant_curves(variants, tasks, "step", known, others)
        ),
        "wall clock": pictures.panels(variant_curves(variants, tasks, "seconds", known, others)),
    }

    def training(names: Sequence[str]) -> str:
        titles = {name: figures.HEALTH.get(name, name) for name in names}
        return pictures.panels(figures.training_panels(variants, titles), "small")

    losses = dict.fromkeys(n for r in records for n in figures.training_names(r, losses=True))
    rest = dict.fromkeys(n for r in records for n in figures.training_names(r, losses=False))
    parts = [
        page.tiles(
            {
                "variants": f"{len(variants)}",
                "runs": f"{len(records)}",
                "tasks": f"{len(tasks)}",
                "wall clock of all runs": page.duration(sum(record.seconds for record in records)),
            }
        ),
        page.dim(_left_out(records, pending, tasks)),
        section("What differs", _differences(variants)),
        section(
            "Results",
            _results(variants, tasks, known),
            "Mean return of the last evaluation with the search, and where there are several seeds the 95 % interval "
            "of their mean (Student's t).",
        ),
        section("All tasks together", _scores(pictures, variants, tasks), NOTE),
        section(
            "Learning curves",
            page.switch("curves", curves) + publication_notes(notes),
            "Mean return of the evaluations with the search over the seeds, as far as all seeds of a variant went; "
            "the band is from the lowest seed to the highest.",
        ),
        section(
            "Is learning sound?",
            training(list(figures.HEALTH)),
            "Means over the seeds, bands from the lowest to the highest.",
        ),
        section("Losses", training(list(losses))),
        section("Training", training(list(rest))),
        section("Runs", _runs(variants)),
        section("Run them again", _commands(variants)),
    ]
    return page.page("Comparison of runs", "Runs compared", _about(variants), parts)


def _evaluated(record: Record) -> bool:
    return any(record.returns(task) for task in record.tasks)


def _about(variants: Sequence[Variant]) -> str:
    suites = dict.fromkeys(record.suite for variant in variants for record in variant.records)
    return f"EfficientZero-Multitask on {', '.join(suites)}"


def _left_out(records: Sequence[Record], pending: Sequence[Record], tasks: Sequence[str]) -> str:
    said = []
    if pending:
        said.append(
            f"Without an evaluation yet, and left out: {', '.join(r.name for r in pending)}."
        )
    if dropped := dict.fromkeys(t for r in records for t in r.tasks if t not in tasks):
        said.append(
            f"Compared in what all runs share, {', '.join(tasks)}; left out: {', '.join(dropped)}."
        )
    return " ".join(said)


def _differences(variants: Sequence[Variant]) -> str:
    if len(variants) < 2:
        return page.dim("Nothing but the seed.")
    different = differences([variant.options for variant in variants])
    head = ["option", *(variant.name for variant in variants)]
    rows = [
        [option, *("–" if value is None else show(value) for value in values)]
        for option, values in different.items()
    ]
    return page.table(head, rows)


def _finals(variant: Variant, task: str) -> list[float]:
    """Returns each seed's mean return in its last evaluation."""
    found = [record.returns(task) for record in variant.records]
    return [float(np.mean(each[-1].returns)) for each in found if each]


def _results(
    variants: Sequence[Variant], tasks: Sequence[str], known: dict[str, dict[str, float]]
) -> str:
    random = any("random" in known.get(task, {}) for task in tasks)
    head = ["task", *(["random policy"] if random else []), *(variant.name for variant in variants)]
    rows = []
    for task in tasks:
        row = [task]
        if random:
            value = known.get(task, {}).get("random")
            row.append("–" if value is None else format_return(value))
        for variant in variants:
            values = _finals(variant, task)
            row.append(str(mean_interval(values)) if values else "–")
        rows.append(row)
    counted = [f"{len(variant.records)}" for variant in variants]
    rows.append(["seeds", *([""] if random else []), *counted])
    return page.table(head, rows, mean=True)


def _scores(pictures: Pictures, variants: Sequence[Variant], tasks: Sequence[str]) -> str:
    matrices = {}
    for variant in variants:
        finals = {task: _finals(variant, task) for task in tasks}
        if all(finals.values()):
            matrix = score_matrix(variant.records[0].suite, finals)
            if matrix is not None:
                matrices[variant.name] = matrix
    return scores(pictures, matrices, "runs")


def _runs(variants: Sequence[Variant]) -> str:
    head = ["run", "variant", "seed", "steps per task", "updates", "wall clock", "ezm", "machine"]
    rows = []
    for variant in variants:
        for record in variant.records:
            machine = record.start.get("machine")
            machine = machine if isinstance(machine, dict) else {}
            rows.append(
                [
                    record.name,
                    variant.name,
                    str(record.config.get("seed", "–")),
                    f"{record.step:,}",
                    "–" if record.updates is None else f"{record.updates:,}",
                    page.duration(record.seconds),
                    str(record.start.get("version", "–")),
                    str(machine.get("processor", "–")),
                ]
            )
    return page.table(head, rows)


def _commands(variants: Sequence[Variant]) -> str:
    commands = [train_command(record.config) for v in variants for record in v.records]
    return page.folded(
        "One command for each run", f"<pre>{page.text(chr(10).join(commands))}</pre>"
    )
