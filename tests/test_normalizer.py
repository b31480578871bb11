"""Running statistics: the scale of returns, and the way to it and back."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ezm.agent.learning.normalizer import LARGEST_RETURN, Normalizer, ReturnScale, RunningStatistics

DISCOUNT = np.array([0.5, 0.9])


def test_the_scale_of_returns_by_hand() -> None:
    """Task 0: G = 1, 2.5, then 4 in a new episode; its deviation 1.22 exceeds 4 / 5."""
    returns = ReturnScale(DISCOUNT)
    for reward, ended in ((1.0, False), (2.0, True), (4.0, True)):
        returns.add(0, reward, ended=ended)
    expected = np.std([1.0, 2.5, 4.0])
    np.testing.assert_allclose(returns.scale(), [expected, 1.0], rtol=1e-6)


def test_a_return_that_never_changes_has_a_scale() -> None:
    returns = ReturnScale(DISCOUNT)
    for _ in range(3):
        returns.add(1, -10.0, ended=True)
    np.testing.assert_allclose(returns.scale(), [1.0, 2.0])


@given(arrays(np.float64, 20, elements=st.floats(-1e4, 1e4)), st.sampled_from([0.5, 0.99]))
def test_no_scaled_return_leaves_the_support(rewards: np.ndarray, discount: float) -> None:
    returns, total, seen = ReturnScale(np.array([discount])), 0.0, []
    for reward in rewards:
        returns.add(0, reward, ended=False)
        total = discount * total + reward
        seen.append(total)
    assert np.abs(seen).max() / returns.scale()[0] <= LARGEST_RETURN * (1 + 1e-5)


def test_task_units_and_back() -> None:
    scale = jnp.array([2.0, 10.0])
    normalizer = Normalizer(jnp.zeros((2, 1)), jnp.ones((2, 1)), scale)
    value, task = jnp.array([[4.0, 5.0, 2.0]]), jnp.array([0, 1, 0])
    scaled = normalizer.scaled(value, task)
    np.testing.assert_allclose(scaled, [[2.0, 0.5, 1.0]])
    np.testing.assert_allclose(normalizer.in_task_units(scaled, task), value)
    plain = Normalizer(jnp.zeros((2, 1)), jnp.ones((2, 1)))
    assert plain.scaled(value, task) is value and plain.in_task_units(value, task) is value


def test_statistics_with_returns_are_saved_and_restored() -> None:
    ours, theirs = (RunningStatistics([0, 0], 2, ReturnScale(DISCOUNT)) for _ in range(2))
    assert ours.returns is not None and theirs.returns is not None
    ours.add(0, np.array([1.0, 2.0]))
    ours.returns.add(1, 3.0, ended=False)
    theirs.load({name: value.copy() for name, value in ours.state().items()})
    for statistics in (ours, theirs):
        assert statistics.returns is not None
        statistics.returns.add(1, 1.0, ended=True)
    for name, value in ours.state().items():
        np.testing.assert_array_equal(value, theirs.state()[name])
    np.testing.assert_array_equal(ours.normalizer().reward_scale, theirs.normalizer().reward_scale)
