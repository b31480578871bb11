"""Aggregates over tasks and runs: their definitions on scores that can be worked out by hand."""

import numpy as np
import pytest

from ezm.statistics.aggregates import (
    interquartile_mean,
    interval,
    mean_score,
    performance_profile,
    profile_band,
)
from ezm.statistics.scores import normalised, score_matrix
from ezm.tasks.humanoid_bench import success_bar

SCORES = np.array([[0.0, 0.4], [0.2, 0.6], [0.2, 0.8], [0.4, 1.0]])


def test_a_profile_is_the_share_above_each_threshold() -> None:
    shares = performance_profile(SCORES, np.array([-0.1, 0.0, 0.2, 0.5, 1.0]))
    # Strictly above: of eight scores one is 0, two are 0.2, one is 1.
    assert shares.tolist() == [1.0, 7 / 8, 5 / 8, 3 / 8, 0.0]


def test_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert interquartile_mean(SCORES) == pytest.approx((0.2 + 0.4 + 0.4 + 0.6) / 4)
    assert interquartile_mean(np.array([[0.0, 1.0], [1.0, 100.0]])) == 1.0
    assert mean_score(SCORES) == pytest.approx(0.45)


def test_an_interval_draws_runs_for_each_task_apart() -> None:
    # Each task's runs are equal, so that nothing varies where tasks are not mixed.
    found = interval(np.array([[0.0, 1.0]] * 3), mean_score)
    assert found == (0.5, 0.5, 0.5)
    found = interval(SCORES, mean_score)
    assert found.low < found.value < found.high
    # Tasks' means have standard errors of 0.1414 / 2 and 0.2236 / 2: their mean one of 0.0661.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.0661, rel=0.1)


def test_one_run_has_no_interval() -> None:
    value, low, high = interval(SCORES[:1], mean_score)
    assert value == pytest.approx(0.2) and np.isnan(low) and np.isnan(high)


def test_a_profile_lies_within_its_band() -> None:
    thresholds = np.linspace(0.0, 1.0, 11)
    low, high = profile_band(SCORES, thresholds)
    shares = performance_profile(SCORES, thresholds)
    assert (low <= shares).all() and (shares <= high).all() and (high - low).max() > 0.2


def test_scores_have_the_scale_of_their_task() -> None:
    bar = success_bar("h1-walk")
    scores = normalised("hb:h1-walk", [3.9, bar])
    assert scores is not None
    np.testing.assert_allclose(scores, [0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(normalised("dmc:walker-walk", [250.0]), [0.25])  # type: ignore[arg-type]
    assert normalised("gym:Pendulum-v1", [-300.0]) is None


def test_a_matrix_has_as_many_rows_as_every_task_has_and_the_tasks_with_a_scale() -> None:
    suite = "dmc:walker-walk,gym:Pendulum-v1,hb:h1-walk"
    returns = {"walker-walk": [500.0, 600.0, 700.0], "Pendulum-v1": [-1.0], "h1-walk": [3.9, 700.0]}
    matrix = score_matrix(suite, returns)
    assert matrix is not None
    np.testing.assert_allclose(matrix, [[0.5, 0.0], [0.6, 1.0]], atol=1e-12)
    assert score_matrix("gym:Pendulum-v1", {"Pendulum-v1": [-1.0]}) is None
    assert score_matrix("a suite of another version", {"walker-walk": [1.0]}) is None
