"""Statistics of returns: means with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean and its uncertainty. It prints as ``812 ± 23``."""

    mean: float
    half_width: float
    """Half the width of the confidence interval, nan for a single value."""
    n: int

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return format_return(self.mean)
        decimals = len(format_return(self.mean).partition(".")[2])
        return f"{format_return(self.mean)} ± {self.half_width:.{decimals}f}"


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Mean:
    """Returns the mean of independent samples and its confidence interval (Student's t).

    For n values with mean m and sample standard deviation s (divisor n - 1), the interval is m ± t * s / sqrt(n).
    Here t is the (1 + confidence) / 2 quantile of Student's t distribution with n - 1 degrees of freedom. The
    interval assumes roughly normal values. Returns that sit at a limit, such as 1000 in every episode, give an
    interval that is too narrow.

    Args:
        values: (n,) one value per episode or seed, n >= 1.
        confidence: probability that the interval covers the true mean.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"one or more values are needed, got shape {sample.shape}")
    n = sample.size
    if n == 1:
        return Mean(float(sample[0]), math.nan, 1)
    from scipy.special import stdtrit  # slow to import, and progress needs this module

    t = float(stdtrit(n - 1, (1 + confidence) / 2))
    return Mean(float(sample.mean()), t * float(sample.std(ddof=1)) / math.sqrt(n), n)


def format_return(value: float) -> str:
    """Formats a return with three significant digits, or as a whole number from 100 on: 0.0312, 4.5, 87.1, 1000."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
