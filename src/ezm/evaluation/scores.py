"""HumanoidBench's measures of a return: its success bar, and the share of the way there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ezm.tasks import Suite
from ezm.tasks.humanoid_bench import NAMES, success_bar
from ezm.tasks.humanoid_bench.catalog import normalised_return


class Score(NamedTuple):
    """How the episodes of one task did."""

    success_bar: float
    normalised: float
    """Mean return, 0 for random actions and 1 at the success bar."""
    solved: float
    """Share of episodes that reached the bar."""


def scores(suite: Suite, returns: Sequence[Sequence[float]]) -> list[Score | None]:
    """A score for each task of a suite from its episodes' returns; None for those that have no bar."""
    found: list[Score | None] = []
    for name, values in zip(suite.task_names, returns, strict=True):
        if name not in NAMES:
            found.append(None)
            continue
        bar = success_bar(name)
        solved = float((np.asarray(values) >= bar).mean())
        found.append(Score(bar, normalised_return(name, float(np.mean(values))), solved))
    return found
