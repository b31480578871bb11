"""Success bars, and normalised returns on a scale that tasks share.

A task's source declares them (:class:`ezm.tasks.sources.Score`):

- **HumanoidBench**: its success bar. The normalised return is 0 for random actions and 1 at the bar.
- **dm_control**: rewards lie in [0, 1] and an episode has 1,000 control steps, so 1,000 is the largest possible
  return (Tassa et al. 2018, arXiv 1801.00690). The normalised return is the share of it. There is no standard bar.
- **Gymnasium and own tasks** have neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ezm.errors import UserError
from ezm.tasks import sources
from ezm.tasks.suites import parse


def success_bar(source: str) -> float | None:
    """Returns the return from which an episode of a task counts as solved, or None without such a bar.

    Args:
        source: of the task, as in :class:`ezm.tasks.TaskSpec`.
    """
    score = sources.score(source)
    return None if score is None else score.bar


def normalised(source: str, returns: Sequence[float] | np.ndarray) -> np.ndarray | None:
    """Returns normalised returns, or None for a task without such a scale.

    Args:
        source: of the task, as in :class:`ezm.tasks.TaskSpec`.
        returns: undiscounted, any shape.
    """
    score = sources.score(source)
    if score is None:
        return None
    return (np.asarray(returns, dtype=float) - score.zero) / (score.one - score.zero)


def sources_of(suite: str) -> dict[str, str]:
    """Returns task -> source of a suite's tasks, empty if this version of ezm does not know the suite."""
    try:
        return {sources.task_name(source): source for source in parse(suite)}
    except UserError:
        return {}


def score_matrix(suite: str, returns: Mapping[str, Sequence[float]]) -> np.ndarray | None:
    """Returns normalised scores (R, K), or None if no task has a scale. K counts the tasks with a scale, and R is the
    least number of returns among them.

    Args:
        suite: name of the suite, which gives the tasks' sources.
        returns: task -> (R,) returns.
    """
    source = sources_of(suite)
    columns = [
        normalised(source[task], values) for task, values in returns.items() if task in source
    ]
    known = [column for column in columns if column is not None and len(column)]
    if not known:
        return None
    rows = min(map(len, known))
    return np.stack([column[:rows] for column in known], axis=1)
