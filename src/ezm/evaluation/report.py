"""The report of a run: one self-contained HTML page, made from the run folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ezm.errors import UserError
from ezm.evaluation import figures, page
from ezm.evaluation.command import train_command
from ezm.evaluation.curves import run_curves
from ezm.evaluation.page import Pictures, section
from ezm.evaluation.record import Mode, Record
from ezm.evaluation.reference import Reference, published, reference
from ezm.evaluation.results import Evaluation, read_evaluations
from ezm.evaluation.scoring import NOTE, score_matrix, scores
from ezm.evaluation.statistics import Mean, format_return, mean_interval
from ezm.evaluation.variants import Variant, flat
from ezm.tasks.humanoid_bench import NAMES
from ezm.training.run_folder import RunFolder, write_atomically

COLUMNS = {
    "random": "random policy",
    "search": "EZ-M, search",
    "policy": "EZ-M, policy mean",
    "sac": "SAC, same steps",
    "bar": "success bar",
}
"""Columns of the table of results: key -> heading."""


def write_report(run_path: Path, out: Path | None = None) -> Path:
    """Writes the report of a run.

    Args:
        run_path: the run folder. The run may still be going on.
        out: the page's path. None: report.html in the folder.

    Returns:
        The page's path.

    Raises:
        UserError: not a run folder, damaged metrics, or the page cannot be written.
    """
    run = RunFolder.open(run_path)
    written = out or run.report_path
    write_atomically(written, report_page(run, Record.read(run_path)))
    return written


def result_table(record: Record, known: Reference | None = None) -> list[dict[str, Any]]:
    """Returns the last evaluation of each task next to the reference values, in the suite's order.

    Args:
        record: of the run.
        known: the reference values. None: from :func:`ezm.evaluation.reference.reference`.

    Returns:
        One row per task. Key "task" is its name, and "step" the environment steps per task at the evaluation, None
        before the first. Keys "search" and "policy" are :class:`Mean` or None. Keys "random", "sac" and "bar" are
        returns or None.
    """
    known = reference(record) if known is None else known
    rows = []
    for task in record.tasks:
        row: dict[str, Any] = {"task": task, "step": None}
        modes: tuple[Mode, ...] = ("policy", "search")
        for mode in modes:
            found = record.returns(task, mode)
            row[mode] = mean_interval(found[-1].returns) if found else None
            if found:
                row["step"] = found[-1].step
        beside = known.get(task, {})
        rows.append({**row, **{name: beside.get(name) for name in ("random", "sac", "bar")}})
    return rows


def report_page(run: RunFolder, record: Record, known: Reference | None = None) -> str:
    """Returns the page as text. For ``known`` see :func:`result_table`."""
    known = reference(record) if known is None else known
    others, notes = published(record.tasks)
    pictures, alone = Pictures(), [Variant("", (record,))]
    curves = {
        "environment steps": pictures.panels(run_curves(record, "step", known, others)),
        "wall clock": pictures.panels(run_curves(record, "seconds", known, others)),
    }

    def training(names: Mapping[str, str]) -> str:
        return pictures.panels(figures.training_panels(alone, names), "small")

    def other_training(*, losses: bool) -> str:
        names = figures.training_names(record, losses=losses)
        return training({name: name for name in names})

    start = record.start
    parts = [
        page.tiles(
            {
                "tasks": f"{len(record.tasks)}",
                "environment steps per task": f"{record.step:,}",
                "learner updates": "" if record.updates is None else f"{record.updates:,}",
                "wall clock": page.duration(record.seconds),
                "parameters": f"{start['parameters']:,}" if start.get("parameters") else "",
            }
        ),
        section("Results", _results(result_table(record, known))),
        section(
            "Learning curves",
            page.switch("curves", curves) + publication_notes(notes),
            "Return per episode. The band is the 95 % interval of each evaluation's mean."
            + _protocol(record),
        ),
        section("All tasks together", _scores(pictures, record), NOTE),
        section("Evaluation", _evaluation(run), "What ezm eval measured last."),
        section("Films", page.films(run.films_path, record.tasks)),
        section(
            "Is learning sound?",
            training(figures.HEALTH) + pictures.panels(figures.priority_panel(record), "one"),
            "Value error: mean |value - target| of a batch, whose mean for each task is what its replay's priorities "
            "are made of. Latent consistency: distance between the imagined latent state and that of the "
            "observation. Entropy falls as the policy makes up its mind.",
        ),
        section(
            "Does the model rank actions?",
            pictures.panels(figures.diagnostic_panels(record), "small"),
            "Spearman correlation between what the model predicts for actions from one state and "
            "what the simulator then gives: 1 is a perfect order, 0 is chance.",
        ),
        section("Map of the tasks", _map(pictures, run, record)),
        section("Losses", other_training(losses=True)),
        section("Training", other_training(losses=False)),
        section("Throughput", pictures.panels(figures.throughput_panels(record), "small")),
        section("Machine", page.facts(machine_facts(start))),
        section(
            "Run it again",
            f"<pre>{page.text(train_command(record.config))}</pre>",
            "The command that starts this run; on the same kind of machine and with the same versions it gives the "
            "same numbers.",
        ),
        section(
            "Configuration", page.folded("All options of the run", page.facts(flat(record.config)))
        ),
    ]
    version = f"ezm {start['version']}" if "version" in start else ""
    facts = " · ".join(part for part in (record.name, version) if part)
    heading = f"EfficientZero-Multitask on {record.suite}"
    return page.page(f"{record.suite} · {record.name}", heading, facts, parts)


def machine_facts(start: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the machine's properties by name, as a start row has them."""
    machine = start.get("machine")
    if isinstance(machine, Mapping):
        return list(machine.items())
    return [("machine", machine)] if machine else []


def publication_notes(notes: Mapping[str, str]) -> str:
    """Returns the origin of published curves and how ours differ, empty without such curves."""
    if not notes:
        return ""
    listed = "".join(page.dim(f"{method}: {note}.") for method, note in notes.items())
    return listed + page.dim(
        "Ours: full evaluation episodes at each point; in the protocol “benchmark” a fall ends an episode, in “paper” "
        "it goes on; steps are environment steps per task. So the curves are no like for like."
    )


def _protocol(record: Record) -> str:
    if not any(task in NAMES for task in record.tasks):
        return ""
    return f" Protocol of this run: {record.config.get('protocol', 'unknown')}."


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = {
        key: heading
        for key, heading in COLUMNS.items()
        if key == "search" or any(row[key] is not None for row in rows)
    }
    body = [[row["task"], *(_number(row[key]) for key in columns)] for row in rows]
    if len(rows) > 1:
        means = [_number(_mean_of([row[key] for row in rows])) for key in columns]
        body.append(["mean over tasks", *means])
    evaluated = [row["search"].n for row in rows if row["search"] is not None]
    note = (
        f"Mean return and 95 % interval over {max(evaluated)} evaluation episodes at "
        f"{max(row['step'] for row in rows if row['step'] is not None):,} environment steps per task."
        if evaluated
        else "No evaluation has been finished yet."
    )
    place = 1 + list(columns).index("search")
    shown = page.table(["task", *columns.values()], body, ours=place, mean=len(rows) > 1)
    return shown + page.dim(note)


def _mean_of(values: Sequence[Mean | float | None]) -> float | None:
    known = [v.mean if isinstance(v, Mean) else v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _number(value: Mean | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, Mean) else format_return(value)


def _scores(pictures: Pictures, record: Record) -> str:
    modes: dict[Mode, str] = {
        "search": "search",
        "policy": "policy mean",
        "random": "random policy",
    }
    matrices = {}
    for mode, name in modes.items():
        returns = {
            t: record.returns(t, mode)[-1].returns for t in record.tasks if record.returns(t, mode)
        }
        matrix = score_matrix(record.suite, returns)
        if matrix is not None and len(returns) == len(record.tasks):
            matrices[name] = matrix
    return scores(pictures, matrices, "episodes") if "search" in matrices else ""


def _map(pictures: Pictures, run: RunFolder, record: Record) -> str:
    if len(record.tasks) < 3:
        return ""  # two points lie on a line, whatever was learned
    # Orbax and JAX take seconds to import.
    if not run.checkpoint_steps():
        return page.dim("The run has no checkpoint yet, so there are no task embeddings to show.")
    from ezm.evaluation.embedding import task_embeddings

    try:
        found = task_embeddings(run)
    except UserError as error:
        return page.dim(f"No task embeddings: {error}.")
    if found is None:
        return page.dim(
            "The networks of this run are not told the task, so there are no embeddings."
        )
    step, embedding = found
    if len(embedding) != len(record.tasks):
        return page.dim("The checkpoint's tasks are not those of the metrics.")
    return page.dim(
        f"The learned embedding of each task at {step:,} environment steps per task, along the two directions in "
        "which they differ most. Embeddings begin at random, so nearness means something only where learning moved them."
    ) + pictures.panels([figures.embedding_panel(record.tasks, embedding)], "one")


def _evaluation(run: RunFolder) -> str:
    """Returns tables of eval.json, the last evaluation first."""
    try:
        found = read_evaluations(run.path)
    except UserError as error:
        return page.dim(f"{error}")
    if not found:
        return ""
    first, *earlier = [_evaluation_table(each) for each in reversed(found)]
    return first + page.folded("Earlier evaluations", "".join(earlier))


def _evaluation_table(found: Evaluation) -> str:
    """Returns a table with a row for each task, as ``ezm eval`` prints it."""

    def number(value: float | None, form: str = "") -> str:
        return "–" if value is None else format(value, form) if form else format_return(value)

    rows = [
        [
            name,
            str(mean_interval(task.returns)),
            f"{number(task.iqm)} ({number(task.iqm_low)} to {number(task.iqm_high)})",
            number(task.success_bar, "g"),
            number(task.solved, ".0%"),
            number(task.normalised, ".3f"),
            number(task.length, ".0f"),
        ]
        for name, task in found.tasks.items()
    ]
    head = ["task", "return", "interquartile mean", "bar", "solved", "score", "length"]
    how = (
        f"{found.episodes} episodes of each task after {found.step:,} steps, acting with the {found.planner}, "
        f"protocol {found.protocol}, seed {found.seed}, {found.date}"
    )
    return page.table(head, rows) + page.dim(how)
