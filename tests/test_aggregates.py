"""Aggregates and their bootstrap intervals against rliable's, and against values by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ezm.statistics import aggregates
from ezm.statistics.aggregates import (
    interquartile_mean,
    interval,
    mean_score,
    median_score,
    optimality_gap,
    performance_profile,
    profile_band,
)

RLIABLE = json.loads((Path(__file__).parent / "recordings" / "rliable.json").read_text())
STATISTICS = ("interquartile_mean", "mean_score", "median_score", "optimality_gap")


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("case", RLIABLE["cases"].values(), ids=RLIABLE["cases"])
def test_intervals_agree_with_rliable(case: dict[str, Any], statistic: str) -> None:
    """Both draw at random: 50,000 resamples leave an end open by about 0.3 % of the interval's width."""
    value, low, high = case[statistic]
    found = interval(
        np.array(case["scores"]), getattr(aggregates, statistic), resamples=RLIABLE["resamples"]
    )
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.low == pytest.approx(low, abs=0.015 * (high - low))
    assert found.high == pytest.approx(high, abs=0.015 * (high - low))


@pytest.mark.parametrize("case", RLIABLE["cases"].values(), ids=RLIABLE["cases"])
def test_profiles_agree_with_rliable(case: dict[str, Any]) -> None:
    scores, thresholds = np.array(case["scores"]), np.array(RLIABLE["thresholds"])
    value, low, high = map(np.array, case["profile"])
    np.testing.assert_allclose(performance_profile(scores, thresholds), value)
    ours = profile_band(scores, thresholds, resamples=5_000)
    # A profile moves in steps of one score.
    step = 1 / scores.size
    np.testing.assert_allclose(ours[0], low, atol=step + 1e-9)
    np.testing.assert_allclose(ours[1], high, atol=step + 1e-9)


def test_known_values() -> None:
    scores = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [9.0, 5.0]])
    # Of 0 1 2 2 3 4 5 9 two are cut off at either end.
    assert interquartile_mean(scores) == (2 + 2 + 3 + 4) / 4
    assert mean_score(scores) == 26 / 8
    assert median_score(scores) == (3.0 + 3.5) / 2
    assert optimality_gap(scores, target=2.0) == 2 - (0 + 1 + 2 + 2 + 2 + 2 + 2 + 2) / 8
    profile = performance_profile(scores, np.array([-1.0, 2.0, 9.0]))
    assert profile.tolist() == [1.0, 4 / 8, 0.0], "a score at the threshold is not above it"


def test_the_bootstrap_draws_within_each_task() -> None:
    # Tasks far apart, each without spread: whoever mixed them would find an interval.
    found = interval(np.tile([0.0, 100.0], (6, 1)), mean_score)
    assert found == (50.0, 50.0, 50.0)
    # Two runs: a resample has either, or one of them twice; its mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4.
    assert interval(np.array([[0.0], [1.0]]), mean_score, confidence=0.4) == (0.5, 0.5, 0.5)
    assert interval(np.array([[0.0], [1.0]]), mean_score, confidence=0.6) == (0.5, 0.0, 1.0)


def test_an_interval_is_the_same_every_time_and_one_run_has_none() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3))
    assert interval(scores, interquartile_mean) == interval(scores, interquartile_mean)
    value, low, high = interval(scores[:1], mean_score)
    assert value == scores[0].mean() and math.isnan(low) and math.isnan(high)


@given(arrays(float, (3, 4, 5), elements=st.floats(-10, 10)))
def test_statistics_take_resamples_at_once(scores: np.ndarray) -> None:
    for name in STATISTICS:
        statistic = getattr(aggregates, name)
        np.testing.assert_allclose(statistic(scores), [statistic(each) for each in scores])
    thresholds = np.linspace(-10, 10, 7)
    profiles = [performance_profile(each, thresholds) for each in scores]
    np.testing.assert_allclose(performance_profile(scores, thresholds), np.transpose(profiles))
    assert (np.diff(profiles, axis=1) <= 0).all()
