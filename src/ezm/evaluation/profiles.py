"""Aggregates of normalised scores over tasks and runs, as Agarwal et al. 2021 (arXiv 2108.13264, "rliable") define them.

Scores are (R, K): R runs, or episodes of one run, of K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ezm.tasks import sources
from ezm.tasks.humanoid_bench import NAMES
from ezm.tasks.humanoid_bench.catalog import normalised_return

RESAMPLES = 2000
_DM_CONTROL_TOP = 1000.0  # rewards of at most 1 in each of 1000 simulator steps


class Estimate(NamedTuple):
    """A value and the ends of its 95 % bootstrap interval; nan where there is one run alone."""

    value: float
    low: float
    high: float


def normalised(source: str, returns: Sequence[float] | np.ndarray) -> np.ndarray | None:
    """Scores of returns; None for a task without a scale of its own.

    HumanoidBench: 0 for random actions, 1 for the success bar. dm_control: the share of the largest possible
    return, 1000.

    Args:
        source: of the task, such as ``hb:h1-walk``.
        returns: any shape.
    """
    values = np.asarray(returns, dtype=float)
    if (name := sources.task_name(source)) in NAMES:
        low, high = (normalised_return(name, value) for value in (0.0, 1.0))
        return low + (high - low) * values
    if source.startswith(f"{sources.DM_CONTROL}:"):
        return values / _DM_CONTROL_TOP
    return None


def interquartile_mean(scores: np.ndarray) -> float:
    """The mean of the middle half of all scores."""
    from scipy.stats import trim_mean

    return float(trim_mean(scores, proportiontocut=0.25, axis=None))


def mean_score(scores: np.ndarray) -> float:
    """The mean over runs and tasks."""
    return float(scores.mean())


def interval(
    scores: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int = RESAMPLES
) -> Estimate:
    """A statistic with its 95 % percentile interval under the stratified bootstrap: runs are drawn for each task."""
    value = statistic(scores)
    if len(scores) < 2:
        return Estimate(value, np.nan, np.nan)
    drawn = [statistic(sample) for sample in _resampled(scores, resamples)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the scores above each threshold: (T,), the run-score distribution F(tau) = mean of [x > tau]."""
    ordered = np.sort(scores, axis=None)
    return 1.0 - np.searchsorted(ordered, thresholds, side="right") / ordered.size


def profile_band(
    scores: np.ndarray, thresholds: np.ndarray, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """The profile's 95 % pointwise bootstrap interval: two arrays (T,)."""
    drawn = [performance_profile(sample, thresholds) for sample in _resampled(scores, resamples)]
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    return low, high


def _resampled(scores: np.ndarray, resamples: int) -> np.ndarray:
    """(resamples, R, K), always the same draws."""
    runs, tasks = scores.shape
    chosen = np.random.default_rng(0).integers(runs, size=(resamples, runs, tasks))
    sampled: np.ndarray = scores[chosen, np.arange(tasks)]
    return sampled
