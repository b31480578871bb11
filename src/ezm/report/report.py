"""The report: one self-contained HTML page of one run or of several, made from the run folders alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ezm.errors import UserError
from ezm.report import figures, parts
from ezm.report.command import train_command
from ezm.report.curves import learning_curves
from ezm.report.page import Part, Section, render
from ezm.report.record import Axis, Record
from ezm.report.reference import Reference, published, reference
from ezm.report.variants import Variant, differences, group, options_of, shared_tasks, show
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
    """Returns the page as HTML."""
    one, suites = found.one, dict.fromkeys(record.suite for record in found.records)
    about = f"EfficientZero-Multitask on {', '.join(suites)}"
    if one is None:
        return render("Comparison of runs", "Runs compared", about, _sections(found))
    version = f" · ezm {one.start['version']}" if "version" in one.start else ""
    return render(f"{one.suite} · {one.name}", about, one.name + version, _sections(found))


def _sections(found: Shown) -> list[Section]:
    one, tasks, variants = found.one, found.tasks, found.variants
    run = RunFolder.open(one.path) if one else None
    commands = Part(code="\n".join(train_command(record.config) for record in found.records))
    return [
        Section("", [_tiles(found), found.left_out]),
        Section("What differs", [] if one else [_differences(variants)]),
        Section("Results", [result_table(found)], _meaning(found)),
        _curves(found),
        Section("All tasks together", _scores(found), parts.SCORES),
        Section(
            "Evaluation", parts.evaluations(run) if run else [], "What ezm eval measured last."
        ),
        Section("Films", [parts.films(run.films_path, tasks)] if run else []),
        Section(
            "Is learning sound?",
            [
                _small(figures.training_panels(variants, "health")),
                Part(panels=figures.priority_panel(one) if one else (), size="one"),
            ],
            "Value error: mean |value - target| of a batch, whose mean for each task is what its replay's priorities "
            "are made of. Latent consistency: distance between the imagined latent state and that of the "
            "observation. Entropy falls as the policy makes up its mind."
            + ("" if one else " Means over the seeds, bands from the lowest to the highest."),
        ),
        Section(
            "Does the model rank actions?",
            [_small(figures.diagnostic_panels(one) if one else ())],
            "Spearman correlation between what the model predicts for actions from one state and "
            "what the simulator then gives: 1 is a perfect order, 0 is chance.",
        ),
        Section("Map of the tasks", parts.task_map(run, tasks) if run else []),
        Section("Losses", [_small(figures.training_panels(variants, "losses"))]),
        Section("Training", [_small(figures.training_panels(variants, "others"))]),
        Section("Throughput", [_small(figures.throughput_panels(one) if one else ())]),
        Section("Machine", [parts.machine(one.start)] if one else []),
        Section("Runs", [] if one else [_runs(variants)]),
        Section(
            "Run it again" if one else "Run them again",
            [commands if one else Part(folded=[commands], title="One command for each run")],
            "A command starts its run; on the same kind of machine and with the same versions it gives the same "
            "numbers.",
        ),
        Section("Configuration", [parts.options(one.config)] if one else []),
    ]


def _small(panels: Sequence[figures.Panel]) -> Part:
    return Part(panels=panels, size="small")


def _tiles(found: Shown) -> Part:
    one, runs = found.one, found.records
    tiles = {
        "variants": "" if one else f"{len(found.variants)}",
        "runs": "" if one else f"{len(runs)}",
        "tasks": f"{len(found.tasks)}",
        "environment steps per task": f"{one.step:,}" if one else "",
        "learner updates": f"{one.updates:,}" if one and one.updates is not None else "",
        "wall clock" if one else "wall clock of all runs": _duration(sum(r.seconds for r in runs)),
        "parameters": f"{one.start['parameters']:,}" if one and one.start.get("parameters") else "",
    }
    return Part(tiles=tiles)


def _differences(variants: Sequence[Variant]) -> Part | str:
    if len(variants) < 2:
        return "Nothing but the seed."
    options = [options_of(variant.records[0]) for variant in variants]
    rows = [
        [option, *("–" if value is None else show(value) for value in values)]
        for option, values in differences(options).items()
    ]
    return Part(rows=rows, head=["option", *(variant.name for variant in variants)])


def results(found: Shown) -> dict[str, list[Mean]]:
    """Returns the columns of the table of results: heading -> a mean for each task, nan where it is unknown.

    The columns are the reference values and the last evaluations. A column of reference values or of the policy's mean
    is left out if all of them are unknown.
    """

    def known(name: str) -> list[Mean]:
        values = [found.known.get(task, {}).get(name, math.nan) for task in found.tasks]
        return [Mean(value, math.nan, 1) for value in values]

    columns = {"random policy": known("random")}
    for name, (_, returns) in _measured(found).items():
        columns[name] = [_mean(each) for each in returns.values()]
    columns |= {"SAC, same steps": known("sac"), "success bar": known("bar")}
    kept = {SEARCH, *(variant.name for variant in found.variants)}
    return {
        name: column
        for name, column in columns.items()
        if name in kept or not all(math.isnan(each.mean) for each in column)
    }


def _measured(found: Shown) -> dict[str, tuple[str, dict[str, Sequence[float]]]]:
    """Returns the last evaluations: name -> suite, and task -> returns. They are the episodes of one run, or the mean
    of each seed of a variant."""
    one, tasks = found.one, found.tasks
    if one:
        return {
            SEARCH: (one.suite, {task: one.last(task) for task in tasks}),
            "EZ-M, policy mean": (one.suite, {task: one.last(task, "policy") for task in tasks}),
        }
    return {
        variant.name: (variant.records[0].suite, {task: _finals(variant, task) for task in tasks})
        for variant in found.variants
    }


def _mean(values: Sequence[float]) -> Mean:
    return mean_interval(values) if values else Mean(math.nan, math.nan, 0)


def _finals(variant: Variant, task: str) -> list[float]:
    """Returns each seed's mean return in its last evaluation."""
    found = [record.last(task) for record in variant.records]
    return [float(np.mean(each)) for each in found if each]


def result_table(found: Shown) -> Part:
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
    return Part(rows=rows, head=head, ours=head.index(SEARCH) if found.one else None)


def _meaning(found: Shown) -> str:
    """Returns the remark on the table of results."""
    if found.one is None:
        return (
            "Mean return of the last evaluation with the search, and where there are several seeds the 95 % interval "
            "of their mean (Student's t)."
        )
    last = [found.one.returns(task)[-1] for task in found.tasks if found.one.returns(task)]
    if not last:
        return "No evaluation has been finished yet."
    return (
        f"Mean return and 95 % interval over {max(len(each.returns) for each in last)} evaluation episodes at "
        f"{max(each.step for each in last):,} environment steps per task."
    )


def _curves(found: Shown) -> Section:
    one, tasks = found.one, found.tasks
    others, notes = published(tasks)
    choices = {
        label: learning_curves(found.variants, tasks, axis, found.known, others, alone=bool(one))
        for label, axis in AXES.items()
    }
    ours = (
        "Ours: full evaluation episodes at each point; in the protocol “benchmark” a fall ends an episode, in “paper” "
        "it goes on; steps are environment steps per task. So the curves are no like for like."
    )
    origins = [*(f"{method}: {note}." for method, note in notes.items()), ours if notes else ""]
    note = (
        "Mean return of the evaluations with the search over the seeds, as far as all seeds of a variant went; "
        "the band is from the lowest seed to the highest."
    )
    if one:
        note = "Return per episode. The band is the 95 % interval of each evaluation's mean."
    if one and any(task in NAMES for task in tasks):
        note += f" Protocol of this run: {one.config.get('protocol', 'unknown')}."
    return Section("Learning curves", [Part(choices=choices), *origins], note)


def _scores(found: Shown) -> list[Part]:
    one, groups = found.one, _measured(found)
    if one is None:
        return parts.scores(groups, "runs")
    if not all(map(one.returns, one.tasks)):
        return []
    random = {task: one.last(task, "random") for task in one.tasks}
    return parts.scores({**groups, "random policy": (one.suite, random)}, "episodes")


def _runs(variants: Sequence[Variant]) -> Part:
    def row(variant: Variant, run: Record) -> list[str]:
        machine = run.start.get("machine")
        processor = machine.get("processor", "–") if isinstance(machine, dict) else "–"
        updates = "–" if run.updates is None else f"{run.updates:,}"
        made = [f"{run.step:,}", updates, _duration(run.seconds), run.start.get("version", "–")]
        return [run.name, variant.name, f"{run.config.get('seed', '–')}", *made, f"{processor}"]

    head = ["run", "variant", "seed", "steps per task", "updates", "wall clock", "ezm", "machine"]
    return Part(rows=[row(each, run) for each in variants for run in each.records], head=head)


def _duration(seconds: float) -> str:
    """Returns a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
