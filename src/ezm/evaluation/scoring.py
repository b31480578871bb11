"""The part of the report that shows the scores over all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ezm.errors import UserError
from ezm.evaluation.aggregates import Estimate, interquartile_mean, interval, mean_score
from ezm.evaluation.figures import interval_panel, profile_panel
from ezm.evaluation.page import Part
from ezm.evaluation.scores import normalised
from ezm.tasks import sources
from ezm.tasks.suites import parse

_RESAMPLES = 2_000
_STATISTICS = {"interquartile mean": interquartile_mean, "mean": mean_score}
NOTE = (
    "Scores are normalised: HumanoidBench 0 for random actions and 1 for the success bar, dm_control the share of the "
    "largest possible return; tasks without such a scale are left out. The profile is the share of all scores above "
    "each threshold; the interquartile mean is that of their middle half. Bands and intervals are 95 % bootstrap "
    "intervals, drawn for each task apart (Agarwal et al. 2021, arXiv 2108.13264)."
)


def score_matrix(suite: str, returns: Mapping[str, Sequence[float]]) -> np.ndarray | None:
    """Returns normalised scores (R, K), or None if no task has a scale. K counts the tasks with a scale, and R is the
    least number of returns among them.

    Args:
        suite: name of the suite, which gives the tasks' sources.
        returns: task -> (R,) returns.
    """
    try:
        source = {sources.task_name(each): each for each in parse(suite)}
    except UserError:  # a suite of another version
        return None
    columns = [
        normalised(source[task], values) for task, values in returns.items() if task in source
    ]
    known = [column for column in columns if column is not None and len(column)]
    if not known:
        return None
    rows = min(map(len, known))
    return np.stack([column[:rows] for column in known], axis=1)


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
    panels = [interval_panel(title, each) for title, each in estimates.items()]
    rows = [
        [
            name,
            " × ".join(map(str, each.shape)),
            *(_show(found[name]) for found in estimates.values()),
        ]
        for name, each in matrices.items()
    ]
    head = ["", f"{what} × tasks", *_STATISTICS]
    pictures = Part(panels=[profile_panel(matrices), *panels], size="small")
    return [pictures, Part(rows=rows, head=head)]


def _show(estimate: Estimate) -> str:
    if not np.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
