"""Aggregates of scores over runs and tasks, with bootstrap intervals, as Agarwal et al. 2021 (arXiv 2108.13264) define them.

Scores are (R, K): R runs, or episodes of one agent, of K tasks. Statistics take (..., R, K) to (...), so that all resamples
are computed at once. `rliable <https://github.com/google-research/rliable>`_, the authors' library, gives the same values
(``tests/test_aggregates.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
Statistic = Callable[[np.ndarray], np.ndarray]
"""``statistic(scores (..., R, K)) -> (...)``."""


class Estimate(NamedTuple):
    """A value and the ends of its bootstrap interval; nan where there is one run alone."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean of the middle half of all scores: a quarter of them is cut off at either end.

    Args:
        scores: (..., R, K).

    Returns:
        (...). Of R K scores, floor(R K / 4) are left out at either end.
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1))


def mean_score(scores: np.ndarray) -> np.ndarray:
    """(...): the mean over runs and tasks of (..., R, K) scores."""
    return scores.mean((-2, -1))


def median_score(scores: np.ndarray) -> np.ndarray:
    """(...): the median over tasks of the means over runs, of (..., R, K) scores."""
    return np.median(scores.mean(-2), axis=-1)


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """(...): by how much (..., R, K) scores fall short of ``target``, on average; what exceeds it does not count."""
    return target - mean_score(np.minimum(scores, target))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of scores above each threshold: F(tau) = mean over runs and tasks of [score > tau].

    Args:
        scores: (..., R, K).
        thresholds: (T,).

    Returns:
        (T, ...), the run-score distribution of Agarwal et al.
    """
    tau = np.asarray(thresholds).reshape(-1, *[1] * np.ndim(scores))
    share: np.ndarray = (scores > tau).mean((-2, -1))
    return share


def interval(
    scores: np.ndarray,
    statistic: Statistic,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A statistic and its percentile interval under the stratified bootstrap: runs are drawn anew within each task.

    The same scores always give the same interval.

    Args:
        scores: (R, K).
        statistic: of (..., R, K) scores.
        confidence: share of the resampled statistics that lie within the interval.
        resamples: how often runs are drawn.
    """
    value = float(statistic(scores))
    if len(scores) < 2:
        return Estimate(value, math.nan, math.nan)
    low, high = _bootstrap(scores, statistic, confidence, resamples)
    return Estimate(value, float(low), float(high))


def profile_band(
    scores: np.ndarray,
    thresholds: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> tuple[np.ndarray, np.ndarray]:
    """The pointwise bootstrap interval of a performance profile.

    Args:
        scores: (R, K), R of at least 2.
        thresholds: (T,).
        confidence, resamples: as for :func:`interval`.

    Returns:
        Its lower and its upper end, (T,) each.
    """
    return _bootstrap(
        scores, lambda drawn: performance_profile(drawn, thresholds), confidence, resamples
    )


def _bootstrap(
    scores: np.ndarray, statistic: Statistic, confidence: float, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import bootstrap

    def of_columns(*columns: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1
        return statistic(np.stack(columns, axis=-1))

    # Every task is a sample of its own, and samples are drawn from independently: that is the stratification.
    found = bootstrap(
        tuple(scores.T),
        of_columns,
        n_resamples=resamples,
        batch=max(1, 200_000 // scores.size),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return found.confidence_interval.low, found.confidence_interval.high
