"""Aggregates of scores over runs and tasks, with bootstrap intervals, as defined by Agarwal et al. 2021 (arXiv
2108.13264).

Scores are (R, K): R runs, or R episodes of one agent, of K tasks. Statistics map (..., R, K) to (...), so all
resamples are computed at once. The authors' library, `rliable <https://github.com/google-research/rliable>`_, gives
the same values (``tests/test_aggregates.py``).
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
    """A value and the ends of its bootstrap interval, nan for a single run."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of scores (..., R, K), shape (...). It leaves out floor(R K / 4) scores at
    either end."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1))


def mean_score(scores: np.ndarray) -> np.ndarray:
    """Returns the mean over runs and tasks of scores (..., R, K), shape (...)."""
    return scores.mean((-2, -1))


def median_score(scores: np.ndarray) -> np.ndarray:
    """Returns the median over tasks of the means over runs of scores (..., R, K), shape (...)."""
    return np.median(scores.mean(-2), axis=-1)


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """Returns the mean shortfall of scores (..., R, K) below ``target``, shape (...). Excess over it does not count."""
    return target - mean_score(np.minimum(scores, target))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the share of scores (..., R, K) above each threshold (T,), shape (T, ...).

    F(tau) = mean over runs and tasks of [score > tau], the run-score distribution of Agarwal et al.
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
    """Returns a statistic and its percentile interval under the stratified bootstrap, which resamples runs within
    each task.

    The same scores always give the same interval.

    Args:
        scores: (R, K).
        statistic: of (..., R, K) scores.
        confidence: share of the resampled statistics that lie within the interval.
        resamples: number of resamples.
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
    """Returns the lower and the upper end, (T,) each, of the pointwise bootstrap interval of the performance profile of
    scores (R, K) at thresholds (T,). R is at least 2."""

    def profile(drawn: np.ndarray) -> np.ndarray:
        return performance_profile(drawn, thresholds)

    return _bootstrap(scores, profile, confidence, resamples)


def _bootstrap(
    scores: np.ndarray, statistic: Statistic, confidence: float, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import bootstrap

    def of_columns(*columns: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1
        return statistic(np.stack(columns, axis=-1))

    # Stratification: every task is its own sample, and each sample is resampled independently.
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
