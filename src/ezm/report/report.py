"""The report: one self-contained HTML page of one run or of several, made from the run folders alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes

from ezm.errors import UserError
from ezm.report import figures, parts
from ezm.report.panels import INK, legend, svg
from ezm.report.parts import Table
from ezm.report.record import Axis, Record
from ezm.report.reference import Reference, published, reference
from ezm.report.variants import (
    Variant,
    differences,
    flat,
    group,
    options_of,
    shared_tasks,
    show,
    train_command,
)
from ezm.runs.folder import RunFolder, write_atomically
from ezm.statistics.intervals import Mean, format_return, mean_interval
from ezm.tasks.humanoid_bench import NAMES

DEFAULT_OUT = Path("comparison.html")
"""The page of several runs."""
AXES: dict[str, Axis] = {"environment steps": "step", "wall clock": "seconds"}
SEARCH = "EZ-M, search"
"""The heading of the evaluations of one run."""


class Shown(NamedTuple):
    """The runs of a page, and the tasks that all of them have."""

    variants: Sequence[Variant]
    tasks: list[str]
    known: Reference
    one: Record | None = None
    """The run of a page of one run."""
    left_out: str = ""
    """A remark on the runs and tasks that the page leaves out."""

    @property
    def records(self) -> list[Record]:
        return [record for variant in self.variants for record in variant.records]


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page of one run, or a page that compares several. A run may still be going on.

    Args:
        runs: run folders. A folder that is named twice counts once.
        out: the page's path. None: report.html in the folder of one run, comparison.html in the working directory.

    Returns:
        The page's path.

    Raises:
        UserError: see :func:`shown`. Also: not a run folder, damaged metrics, one run named twice, or a page that
            cannot be written.
    """
    records = list({each.path.resolve(): each for each in map(Record.read, runs)}.values())
    if len(records) == 1 < len(runs):
        raise UserError(f"{runs[0]} is one run, a comparison needs two or more: name others too")
    default = DEFAULT_OUT if len(records) > 1 else RunFolder.open(runs[0]).report_path
    write_atomically(out or default, report_page(shown(records)))
    return out or default


def shown(records: Sequence[Record], known: Reference | None = None) -> Shown:
    """Returns the runs as a page shows them. Several runs need evaluations, one run does not.

    Args:
        records: of one run or of several.
        known: the reference values. None: from :func:`ezm.report.reference.reference`.

    Raises:
        UserError: none of several runs has an evaluation, or they have no task in common.
    """
    if len(records) == 1:
        (one,) = records
        return Shown(group(records), one.tasks, reference(one) if known is None else known, one)
    left = [record for record in records if _evaluated(record)]
    if not left:
        raise UserError(
            f"{records[0].name} has no evaluation yet, nor has any other: train them further first"
        )
    first, tasks = left[0], shared_tasks(left)
    if not tasks:
        other = next(each for each in left if not shared_tasks([first, each]))
        raise UserError(
            f"{first.name} ({first.suite}) and {other.name} ({other.suite}) have no task in common: "
            "compare runs that do"
        )
    known = reference(first) if known is None else known
    # SAC's return holds for the steps of one run.
    fair = {t: {name: each[name] for name in each if name != "sac"} for t, each in known.items()}
    said = []
    if pending := ", ".join(record.name for record in records if not _evaluated(record)):
        said.append(f"Without an evaluation yet, and left out: {pending}.")
    if dropped := ", ".join(dict.fromkeys(t for r in left for t in r.tasks if t not in tasks)):
        shared = ", ".join(tasks)
        said.append(f"Compared in what all runs share, {shared}; left out: {dropped}.")
    return Shown(group(left), tasks, fair, left_out=" ".join(said))


def _evaluated(record: Record) -> bool:
    return any(map(record.returns, record.tasks))


def report_page(found: Shown) -> str:
    """Returns the page as HTML. It fetches nothing and has no script."""
    one, tasks, variants = found.one, found.tasks, found.variants
    suites = dict.fromkeys(record.suite for record in found.records)
    about = f"EfficientZero-Multitask on {', '.join(suites)}"
    peers, origins = published(tasks)
    own: dict[str, Any] = {
        "title": "Comparison of runs",
        "heading": "Runs compared",
        "facts": about,
        "differences": _differences(variants),
        "runs": _runs(variants),
    }
    if one:
        run = RunFolder.open(one.path)
        version = f" · ezm {one.start['version']}" if "version" in one.start else ""
        own = {
            "title": f"{one.suite} · {one.name}",
            "heading": about,
            "facts": one.name + version,
            "evaluations": parts.evaluations(run),
            "films": parts.films(run.films_path, tasks),
            "priority": figures.priority_panel(one),
            "diagnostics": figures.diagnostic_panels(one),
            "map": parts.task_map(run, tasks),
            "throughput": figures.throughput_panels(one),
            "machine": Table((), list(_machine(one).items())),
            "options": Table((), list(flat(one.config))),
        }
    numbers = itertools.count(1)  # no two pictures of a page may share an identifier
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: f"{value:g}" if isinstance(value, float) else value,
    )
    return environment.get_template("report.html").render(
        **own,
        svg=lambda axes, size: svg(axes, f"panel {next(numbers)}", size),
        legend=legend,
        ink=INK,
        one=one,
        tiles=_tiles(found),
        left_out=found.left_out,
        results=result_table(found),
        last=[one.returns(task)[-1] for task in tasks if one.returns(task)] if one else [],
        curves={
            label: figures.learning_curves(
                variants, tasks, axis, found.known, peers, alone=bool(one)
            )
            for label, axis in AXES.items()
        },
        origins=origins,
        humanoid=any(task in NAMES for task in tasks),
        scores=_scores(found),
        training=figures.training_panels(variants),
        commands=[train_command(record.config) for record in found.records],
    )


def _tiles(found: Shown) -> dict[str, str]:
    one, runs = found.one, found.records
    return {
        "variants": "" if one else f"{len(found.variants)}",
        "runs": "" if one else f"{len(runs)}",
        "tasks": f"{len(found.tasks)}",
        "environment steps per task": f"{one.step:,}" if one else "",
        "learner updates": f"{one.updates:,}" if one and one.updates is not None else "",
        "wall clock" if one else "wall clock of all runs": _duration(sum(r.seconds for r in runs)),
        "parameters": f"{one.start['parameters']:,}" if one and one.start.get("parameters") else "",
    }


def _differences(variants: Sequence[Variant]) -> Table | None:
    """Returns the options in which the variants differ, or None if only seeds do."""
    if len(variants) < 2:
        return None
    options = [options_of(variant.records[0]) for variant in variants]
    rows = [
        [option, *("–" if value is None else show(value) for value in values)]
        for option, values in differences(options).items()
    ]
    return Table(["option", *(variant.name for variant in variants)], rows)


def results(found: Shown) -> dict[str, list[Mean]]:
    """Returns the columns of the table of results: heading -> a mean for each task, nan where it is unknown.

    The columns are the reference values and the last evaluations. A column of reference values or of the policy's mean
    is left out if all of them are unknown.
    """

    unknown = Mean(math.nan, math.nan, 0)

    def known(name: str) -> list[Mean]:
        values = [found.known.get(task, {}).get(name, math.nan) for task in found.tasks]
        return [Mean(value, math.nan, 1) for value in values]

    columns = {"random policy": known("random")}
    for name, (_, returns) in _measured(found).items():
        columns[name] = [mean_interval(each) if each else unknown for each in returns.values()]
    columns |= {"SAC, same steps": known("sac"), "success bar": known("bar")}
    kept = {SEARCH, *(variant.name for variant in found.variants)}
    return {
        name: column
        for name, column in columns.items()
        if name in kept or not all(math.isnan(each.mean) for each in column)
    }


def _measured(found: Shown) -> Mapping[str, tuple[str, Mapping[str, Sequence[float]]]]:
    """Returns the last evaluations: name -> suite, and task -> returns. They are the episodes of one run, or the mean
    of each seed of a variant."""
    one, tasks = found.one, found.tasks
    if one:
        return {
            SEARCH: (one.suite, {task: one.last(task) for task in tasks}),
            "EZ-M, policy mean": (one.suite, {task: one.last(task, "policy") for task in tasks}),
        }
    measured = {}
    for name, records in found.variants:
        last = {task: [record.last(task) for record in records] for task in tasks}
        means = {task: [float(np.mean(r)) for r in returns if r] for task, returns in last.items()}
        measured[name] = records[0].suite, means
    return measured


def result_table(found: Shown) -> Table:
    """Returns the table of results, and below it means over tasks and the number of seeds."""
    columns = results(found)
    rows = [[task, *map(str, row)] for task, *row in zip(found.tasks, *columns.values())]
    if len(rows) > 1:
        means = [float(np.mean([each.mean for each in column])) for column in columns.values()]
        rows.append(["mean over tasks", *map(format_return, means)])
    if not found.one:
        seeds = {variant.name: f"{len(variant.records)}" for variant in found.variants}
        rows.append(["seeds", *(seeds.get(heading, "") for heading in columns)])
    head = ["task", *columns]
    return Table(head, rows, head.index(SEARCH) if found.one else None)


def _scores(found: Shown) -> tuple[list[Axes], Table] | None:
    one, groups = found.one, _measured(found)
    if one is None:
        return parts.scores(groups, "runs")
    if not all(map(one.returns, one.tasks)):
        return None
    random = {task: one.last(task, "random") for task in one.tasks}
    return parts.scores({**groups, "random policy": (one.suite, random)}, "episodes")


def _machine(run: Record) -> Mapping[str, Any]:
    """Returns the properties of a run's machine by name, none where they are unknown."""
    found = run.start.get("machine") or {}
    return found if isinstance(found, Mapping) else {"machine": found}


def _runs(variants: Sequence[Variant]) -> Table:
    def row(variant: Variant, run: Record) -> list[str]:
        updates = "–" if run.updates is None else f"{run.updates:,}"
        made = [f"{run.step:,}", updates, _duration(run.seconds), run.start.get("version", "–")]
        processor = _machine(run).get("processor", "–")
        return [run.name, variant.name, f"{run.config.get('seed', '–')}", *made, f"{processor}"]

    head = ["run", "variant", "seed", "steps per task", "updates", "wall clock", "ezm", "machine"]
    return Table(head, [row(each, run) for each in variants for run in each.records])


def _duration(seconds: float) -> str:
    """Returns a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
