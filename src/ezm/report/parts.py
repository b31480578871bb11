"""The parts of the report that need more than a figure: scores, films, evaluations, and the map of the tasks."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from matplotlib.axes import Axes

from ezm.acting.results import Evaluation, read_evaluations
from ezm.errors import UserError
from ezm.report import figures
from ezm.runs.checkpoints import unreadable
from ezm.runs.folder import RunFolder
from ezm.statistics.aggregates import Estimate, interquartile_mean, interval, mean_score
from ezm.statistics.intervals import format_return, mean_interval
from ezm.statistics.scores import score_matrix

_RESAMPLES = 2_000
_STATISTICS = {"interquartile mean": interquartile_mean, "mean": mean_score}
_EMBEDDING = "model.task_embedding"


class Table(NamedTuple):
    """A table below its head, or of names and values without a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    ours: int | None = None
    """The number of the column that stands out."""


def scores(
    groups: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]], what: str
) -> tuple[list[Axes], Table] | None:
    """Returns the performance profile and the estimates with their intervals, and a table of the estimates. Returns
    None if there are no scores.

    Args:
        groups: name -> its suite, and task -> (R,) returns. A group without returns in some task is left out.
        what: plural noun for what R counts.
    """
    matrices = {
        name: matrix
        for name, (suite, returns) in groups.items()
        if all(returns.values()) and (matrix := score_matrix(suite, returns)) is not None
    }
    if not matrices:
        return None
    estimates = {
        title: {
            name: interval(each, statistic, resamples=_RESAMPLES) for name, each in matrices.items()
        }
        for title, statistic in _STATISTICS.items()
    }
    panels = [figures.interval_panel(title, each) for title, each in estimates.items()]
    rows = [
        [name, " × ".join(map(str, each.shape)), *(_show(e[name]) for e in estimates.values())]
        for name, each in matrices.items()
    ]
    table = Table(["", f"{what} × tasks", *_STATISTICS], rows)
    return [figures.profile_panel(matrices), *panels], table


def _show(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def films(folder: Path, order: Sequence[str] = ()) -> dict[str, str]:
    """Returns every film in a folder: task -> mp4 file in base64.

    Args:
        folder: of .mp4 files. Their names are tasks as :func:`ezm.watching.films.film_path` quotes them.
        order: names that come first.

    Raises:
        UserError: a film cannot be read.
    """
    paths = {unquote(path.stem): path for path in sorted(folder.glob("*.mp4"))}
    found = {}
    for name in dict.fromkeys([*(name for name in order if name in paths), *paths]):
        try:
            found[name] = base64.b64encode(paths[name].read_bytes()).decode()
        except OSError as error:
            raise unreadable(paths[name], error) from error
    return found


def evaluations(run: RunFolder) -> list[tuple[Table, str]] | str:
    """Returns the evaluations of eval.json as tables with remarks, the last one first, or why it cannot be read."""
    try:
        return [_evaluation(each) for each in reversed(read_evaluations(run.path))]
    except UserError as error:
        return f"{error}"


def _evaluation(found: Evaluation) -> tuple[Table, str]:
    """Returns a table with a row for each task, and the evaluation's settings."""

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
    return Table(head, rows), (
        f"{found.episodes} episodes of each task after {found.step:,} steps, acting with the {found.planner}, "
        f"protocol {found.protocol}, seed {found.seed}, {found.date}"
    )


def task_map(run: RunFolder, tasks: Sequence[str]) -> tuple[str, list[Axes]]:
    """Returns a remark and the map of the tasks, or the remark alone, which says why there is no map."""
    if len(tasks) < 3:
        return "", []  # two points lie on a line, whatever was learned
    if not run.checkpoint_steps():
        return "The run has no checkpoint yet, so there are no task embeddings to show.", []
    try:
        found = task_embeddings(run)
    except UserError as error:
        return f"No task embeddings: {error}.", []
    if found is None:
        return "The networks of this run are not told the task, so there are no embeddings.", []
    step, embedding = found
    if len(embedding) != len(tasks):
        return "The checkpoint's tasks are not those of the metrics.", []
    return (
        f"The learned embedding of each task at {step:,} environment steps per task, along the two directions in "
        "which they differ most. Embeddings begin at random, so nearness means something only where learning moved them.",
        [figures.embedding_panel(tasks, embedding)],
    )


def task_embeddings(run: RunFolder) -> tuple[int, np.ndarray] | None:
    """Returns the last checkpoint's environment steps per task, and its task embeddings (K, E) as the networks see
    them.

    Returns None if there is no checkpoint, or if the networks do not know the task.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    model = run.config.get("model", {})
    found = run.latest_checkpoint((f"agent/learner/{_EMBEDDING}",))
    if found is None or not model.get("task_embedding", True):
        return None
    embedding = found.arrays["agent"]["learner"][_EMBEDDING].astype(float)
    # The same computation as in WorldModel.context.
    embedding = model.get("task_embedding_scale", 1.0) * embedding
    norm = np.linalg.norm(embedding, axis=-1, keepdims=True)
    return found.step, embedding / np.maximum(norm, 1.0)
