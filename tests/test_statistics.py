"""Statistics against values known from tables or by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import area_under_curve
from ezm.statistics.intervals import format_return, mean_interval


def test_interval_equals_the_textbook_formula() -> None:
    # Mean 3, standard deviation sqrt(2.5); the table gives t = 2.776 for 4 degrees of freedom.
    found = mean_interval([1, 2, 3, 4, 5])
    assert found.mean == 3 and found.n == 5
    assert found.half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert mean_interval([1, 2, 3, 4, 5], 0.9).half_width == pytest.approx(
        2.132 * math.sqrt(2.5 / 5), rel=1e-3
    )


def test_one_value_has_no_interval_and_equal_values_have_none_to_speak_of() -> None:
    assert mean_interval([7]).mean == 7 and math.isnan(mean_interval([7]).half_width)
    assert mean_interval([7, 7, 7]) == (7, 0, 3)
    with pytest.raises(ValueError, match="one or more values"):
        mean_interval([])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for sample in rng.normal(5.0, 2.0, size=(2000, 6)):
        mean, half_width, _ = mean_interval(sample)
        hits += abs(mean - 5.0) <= half_width
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


def test_means_print_with_their_interval() -> None:
    assert str(mean_interval([100.0])) == "100"
    assert str(mean_interval([990, 1000, 1010])) == "1000 ± 25"
    assert str(mean_interval([4, 5])) == "4.5 ± 6.4"


def test_area_of_known_curves() -> None:
    assert area_under_curve([0, 10], [0, 100]) == pytest.approx(50)
    assert area_under_curve([5, 7, 20], [3, 3, 3]) == pytest.approx(3)
    # Up from 0 to 8 over 4 steps, then flat for 4: (16 + 32) / 8.
    assert area_under_curve([0, 4, 8], [0, 8, 8]) == pytest.approx(6)


def test_area_within_a_range_cuts_between_the_points() -> None:
    assert area_under_curve([0, 10], [0, 100], low=2, high=4) == pytest.approx(30)
    assert area_under_curve([0, 4, 8], [0, 8, 8], high=6) == pytest.approx(32 / 6)


@pytest.mark.parametrize(
    ("steps", "values", "options"),
    [
        ([1], [1], {}),
        ([1, 1], [1, 2], {}),
        ([2, 1], [1, 2], {}),
        ([1, 2], [1, 2, 3], {}),
        ([1, 2], [1, 2], {"low": 0}),
        ([1, 2], [1, 2], {"high": 3}),
        ([1, 2], [1, 2], {"low": 2}),
    ],
)
def test_area_refuses_what_is_not_a_curve(steps: list, values: list, options: dict) -> None:
    with pytest.raises(ValueError, match="strictly increasing|not within"):
        area_under_curve(steps, values, **options)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.floats(0.1, 10),
    st.floats(-100, 100),
)
def test_area_is_linear_and_between_the_extremes(
    values: list[float], scale: float, shift: float
) -> None:
    steps = np.arange(len(values)) ** 2
    area = area_under_curve(steps, values)
    assert min(values) - 1e-6 <= area <= max(values) + 1e-6
    moved = area_under_curve(steps, scale * np.asarray(values) + shift)
    assert moved == pytest.approx(scale * area + shift, rel=1e-6, abs=1e-6)


def test_returns_are_written_short() -> None:
    values = [1000.4, 99.96, 87.14, 4.5, 0.03123, -250.6, math.nan]
    assert [format_return(v) for v in values] == [
        "1000",
        "100",
        "87.1",
        "4.5",
        "0.0312",
        "-251",
        "–",
    ]
