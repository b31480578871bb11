"""The parts of the report that need more than a table or a panel."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ezm.acting.results import Evaluation, read_evaluations
from ezm.errors import UserError
from ezm.report import figures
from ezm.report.embedding import task_embeddings
from ezm.report.page import Part
from ezm.report.variants import flat
from ezm.runs.folder import RunFolder
from ezm.statistics.aggregates import Estimate, interquartile_mean, interval, mean_score
from ezm.statistics.intervals import format_return, mean_interval
from ezm.statistics.scores import score_matrix

_RESAMPLES = 2_000
_STATISTICS = {"interquartile mean": interquartile_mean, "mean": mean_score}
SCORES = (
    "Scores are normalised: HumanoidBench 0 for random actions and 1 for the success bar, dm_control the share of the "
    "largest possible return; tasks without such a scale are left out. The profile is the share of all scores above "
    "each threshold; the interquartile mean is that of their middle half. Bands and intervals are 95 % bootstrap "
    "intervals, drawn for each task apart (Agarwal et al. 2021, arXiv 2108.13264)."
)


def scores(
    groups: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]], what: str
) -> list[Part]:
    """Returns the performance profile, the estimates with their intervals, and a table of the estimates.

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
        return []
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
    head = ["", f"{what} × tasks", *_STATISTICS]
    pictures = Part(panels=[figures.profile_panel(matrices), *panels], size="small")
    return [pictures, Part(rows=rows, head=head)]


def _show(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def machine(start: Mapping[str, Any]) -> Part:
    """Returns the machine's properties by name, as a start row has them."""
    found = start.get("machine")
    facts = found.items() if isinstance(found, Mapping) else [("machine", found)] if found else []
    return Part(rows=list(facts))


def options(config: Mapping[str, Any]) -> Part:
    """Returns all options of a run, folded."""
    return Part(folded=[Part(rows=list(flat(config)))], title="All options of the run")


def films(folder: Path, order: Sequence[str] = ()) -> Part:
    """Returns every film in a folder.

    Args:
        folder: of .mp4 files. Their names are tasks as :func:`ezm.watching.films.film_path` quotes them.
        order: names that come first.

    Raises:
        UserError: a film cannot be read.
    """
    paths = {unquote(path.stem): path for path in sorted(folder.glob("*.mp4"))}
    names = dict.fromkeys([*(name for name in order if name in paths), *paths])
    return Part(films={name: _base64(paths[name]) for name in names})


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its permissions"
        ) from error


def evaluations(run: RunFolder) -> Sequence[Part | str]:
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


def task_map(run: RunFolder, tasks: Sequence[str]) -> Sequence[Part | str]:
    """Returns the map of the tasks, or a remark that says why there is none."""
    if len(tasks) < 3:
        return []  # two points lie on a line, whatever was learned
    if not run.checkpoint_steps():
        return ["The run has no checkpoint yet, so there are no task embeddings to show."]
    try:
        found = task_embeddings(run)
    except UserError as error:
        return [f"No task embeddings: {error}."]
    if found is None:
        return ["The networks of this run are not told the task, so there are no embeddings."]
    step, embedding = found
    if len(embedding) != len(tasks):
        return ["The checkpoint's tasks are not those of the metrics."]
    return [
        f"The learned embedding of each task at {step:,} environment steps per task, along the two directions in "
        "which they differ most. Embeddings begin at random, so nearness means something only where learning moved them.",
        Part(panels=[figures.embedding_panel(tasks, embedding)], size="one"),
    ]
