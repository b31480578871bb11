"""The sections that the report has for one run only."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from ezm.errors import UserError
from ezm.evaluation import figures
from ezm.evaluation.page import Part, Section
from ezm.evaluation.record import Record
from ezm.evaluation.results import Evaluation, read_evaluations
from ezm.evaluation.statistics import format_return, mean_interval
from ezm.training.run_folder import RunFolder


def measured(record: Record) -> list[Section]:
    """Returns the results of ``ezm eval``, and the films."""
    run = RunFolder.open(record.path)
    return [
        Section("Evaluation", _evaluations(run), "What ezm eval measured last."),
        Section("Films", [films(run.films_path, record.tasks)]),
    ]


def model(record: Record) -> list[Section]:
    """Returns how the model ranks actions, and the map of the tasks."""
    return [
        Section(
            "Does the model rank actions?",
            [Part(panels=figures.diagnostic_panels(record), size="small")],
            "Spearman correlation between what the model predicts for actions from one state and "
            "what the simulator then gives: 1 is a perfect order, 0 is chance.",
        ),
        Section("Map of the tasks", _map(RunFolder.open(record.path), record)),
    ]


def machine(record: Record) -> list[Section]:
    """Returns the run's throughput, and the machine's properties as its start row has them."""
    found = record.start.get("machine")
    facts = found.items() if isinstance(found, Mapping) else [("machine", found)] if found else []
    return [
        Section("Throughput", [Part(panels=figures.throughput_panels(record), size="small")]),
        Section("Machine", [Part(rows=list(facts))]),
    ]


def films(folder: Path, order: Sequence[str] = ()) -> Part:
    """Returns every film in a folder.

    Args:
        folder: of .mp4 files. Their names are tasks as :func:`ezm.watching.films.film_path` quotes them.
        order: names that come first.

    Raises:
        UserError: a film cannot be read.
    """
    known = {name: place for place, name in enumerate(order)}
    named = {unquote(path.stem): path for path in sorted(folder.glob("*.mp4"))}
    shown = sorted(named, key=lambda name: known.get(name, len(known)))
    return Part(films={name: _base64(named[name]) for name in shown})


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error


def _evaluations(run: RunFolder) -> Sequence[Part | str]:
    """Returns tables of eval.json, the last evaluation first."""
    try:
        found = read_evaluations(run.path)
    except UserError as error:
        return [f"{error}"]
    parts = [part for each in reversed(found) for part in _evaluation(each)]
    return [*parts[:2], Part(folded=parts[2:], title="Earlier evaluations")]


def _evaluation(found: Evaluation) -> tuple[Part, str]:
    """Returns a table with a row for each task, as ``ezm eval`` prints it, and the evaluation's settings."""

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
    return Part(rows=rows, head=head), (
        f"{found.episodes} episodes of each task after {found.step:,} steps, acting with the {found.planner}, "
        f"protocol {found.protocol}, seed {found.seed}, {found.date}"
    )


def _map(run: RunFolder, record: Record) -> Sequence[Part | str]:
    if len(record.tasks) < 3:
        return []  # two points lie on a line, whatever was learned
    if not run.checkpoint_steps():
        return ["The run has no checkpoint yet, so there are no task embeddings to show."]
    # Orbax and JAX take seconds to import.
    from ezm.evaluation.embedding import task_embeddings

    try:
        found = task_embeddings(run)
    except UserError as error:
        return [f"No task embeddings: {error}."]
    if found is None:
        return ["The networks of this run are not told the task, so there are no embeddings."]
    step, embedding = found
    if len(embedding) != len(record.tasks):
        return ["The checkpoint's tasks are not those of the metrics."]
    return [
        f"The learned embedding of each task at {step:,} environment steps per task, along the two directions in "
        "which they differ most. Embeddings begin at random, so nearness means something only where learning moved them.",
        Part(panels=[figures.embedding_panel(record.tasks, embedding)], size="one"),
    ]
