"""Rung 5 of the ladder: targets equal hand-computed ones, whatever ends inside the window."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm.agent.learning.targets import (
    best_alone,
    mixed_value,
    n_step_value,
    policy_weights,
    task_means,
)
from ezm.agent.planning import SearchResult

UNROLL, N = 2, 3
WINDOW = UNROLL + N


@jax.jit
def targets(*arrays: Any) -> jax.Array:
    return n_step_value(*arrays, N)


def one(reward: list[float], values: list[float], length: int, terminated: bool) -> np.ndarray:
    """Targets of one window with discount 0.5; ``values[t]`` is the network's value of state t."""
    reward = reward + [0.0] * (WINDOW - len(reward))
    bootstrap = [values[min(i + N, length)] for i in range(UNROLL + 1)]
    column = [np.array(x, np.float32)[:, None] for x in (reward, bootstrap)]
    rest = np.array([length]), np.array([terminated]), np.float32([0.5])
    return np.asarray(targets(*column, *rest))[:, 0]


VALUES = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def test_inside_an_episode() -> None:
    result = one([1.0, 2.0, 4.0, 8.0, 16.0], VALUES, length=5, terminated=False)
    expected = [1 + 1 + 1 + 40 / 8, 2 + 2 + 2 + 50 / 8, 4 + 4 + 4 + 60 / 8]
    np.testing.assert_allclose(result, expected)


def test_termination_at_the_end_of_the_window() -> None:
    """Only the last state's target reaches the terminal state."""
    result = one([1.0, 2.0, 4.0, 8.0, 16.0], VALUES, length=5, terminated=True)
    np.testing.assert_allclose(result, [3 + 40 / 8, 6 + 50 / 8, 12.0])


def test_termination_inside_the_window() -> None:
    """Nothing is added for the terminal state, and it is worth nothing itself."""
    result = one([1.0, 2.0], VALUES, length=2, terminated=True)
    np.testing.assert_allclose(result, [2.0, 2.0, 0.0])


def test_truncation_inside_the_window() -> None:
    """The value of the last state, 30, is added after fewer than n rewards."""
    result = one([1.0, 2.0], VALUES, length=2, terminated=False)
    np.testing.assert_allclose(result, [1 + 1 + 30 / 4, 2 + 30 / 2, 30.0])


def test_termination_after_the_first_step() -> None:
    np.testing.assert_allclose(one([7.0], VALUES, length=1, terminated=True), [7.0, 0.0, 0.0])


def test_truncation_after_the_first_step() -> None:
    result = one([7.0], VALUES, length=1, terminated=False)
    np.testing.assert_allclose(result[:2], [7 + 20 / 2, 20.0])


def slow_target(
    reward: np.ndarray, value: np.ndarray, length: int, terminated: bool, discount: float, i: int
) -> float:
    """Walks from state i through the episode until it ends or n steps are taken."""
    total, weight, t = 0.0, 1.0, i
    while t < length and t < i + N:
        total += weight * reward[t]
        weight *= discount
        t += 1
    over = terminated and t >= length
    return total + (0.0 if over else weight * value[min(t, length)])


@given(seed=st.integers(0, 10_000))
def test_equal_to_a_slow_walk_through_the_episode(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = 16
    length = rng.integers(1, WINDOW + 1, batch)
    terminated = rng.random(batch) < 0.5
    discount = rng.uniform(0.1, 1.0, batch).astype(np.float32)
    reward = rng.normal(size=(WINDOW, batch)).astype(np.float32)
    reward[np.arange(WINDOW)[:, None] >= length] = 0.0
    value = rng.normal(size=(WINDOW + 1, batch)).astype(np.float32)
    index = np.minimum(np.arange(UNROLL + 1)[:, None] + N, length)
    bootstrap = value[index, np.arange(batch)]
    result = targets(reward, bootstrap, length, terminated, discount)
    expected = [
        [
            slow_target(reward[:, b], value[:, b], length[b], terminated[b], discount[b], i)
            for b in range(batch)
        ]
        for i in range(UNROLL + 1)
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("updates", "stale"), [(100, [False, False]), (101, [False, True])])
def test_mixed_value_takes_the_search_for_old_data_late(updates: int, stale: list[bool]) -> None:
    n_step, search = jnp.full((3, 2), 1.0), jnp.full((3, 2), 5.0)
    age = jnp.array([1000, 1001])
    mixed = mixed_value(n_step, search, age, jnp.int32(updates), after_updates=100, older_than=1000)
    expected = np.where(stale, 5.0, 1.0)
    np.testing.assert_array_equal(mixed, [expected] * 3)


SEARCH = SearchResult(
    action=jnp.zeros((1, 1)),
    actions=jnp.zeros((1, 4, 1)),
    policy=jnp.array([[0.1, 0.2, 0.3, 0.4]]),
    # The last action was never visited: its completed value is no evidence.
    q_values=jnp.array([[1.0, 3.0, 2.0, 9.0]]),
    value=jnp.zeros(1),
    visits=jnp.array([[2, 3, 3, 0]]),
    next_action=jnp.zeros((1, 1)),
)


def weights(kind: Any, log_ratio: Any = (0.0, 0.0, 0.0, 0.0), q_range: float = 2.0) -> np.ndarray:
    ratio, spread = jnp.array([log_ratio]), jnp.array([q_range])
    result = policy_weights(kind, SEARCH, log_ratio=ratio, q_range=spread, temperature=4.0)
    return np.asarray(result)[0]


def softmax(logits: list[float]) -> np.ndarray:
    x = np.exp(np.array(logits) - np.max(logits))
    return x / x.sum()


def test_policy_target_best_action() -> None:
    np.testing.assert_array_equal(weights("best_action"), [0.0, 1.0, 0.0, 0.0])


def test_policy_target_improved() -> None:
    np.testing.assert_allclose(weights("improved"), [0.1, 0.2, 0.3, 0.4])


def test_policy_target_scaled() -> None:
    """Softmax of 4 Q / range over the visited actions (its floor is neglected)."""
    expected = [*softmax([2.0, 6.0, 4.0]), 0.0]
    np.testing.assert_allclose(weights("scaled"), expected, rtol=5e-3, atol=1e-6)


def test_policy_target_scaled_before_values_differ() -> None:
    assert np.isfinite(weights("scaled", q_range=0.0)).all()


def test_policy_target_with_the_prior() -> None:
    expected = [*softmax([2.0 + 1.0, 6.0 - 2.0, 4.0]), 0.0]
    result = weights("prior", log_ratio=(1.0, -2.0, 0.0, 3.0))
    np.testing.assert_allclose(result, expected, rtol=5e-3, atol=1e-6)


def test_task_means_are_of_what_is_known() -> None:
    values = jnp.array([[3.0, 1.0, 7.0, 8.0], [jnp.nan, 2.0, 5.0, 8.0]])
    known = jnp.array([[True, True, True, False], [False, True, True, False]])
    result = task_means(values, known, jnp.array([0, 0, 2, 3]), jnp.full(4, 9.0))
    np.testing.assert_allclose(result, [2.0, 9.0, 6.0, 9.0])  # nothing of tasks 1 and 3


def test_best_alone() -> None:
    actions, one = best_alone(jnp.arange(6.0).reshape(1, 3, 2), jnp.array([[0.1, 0.7, 0.2]]))
    np.testing.assert_array_equal(actions, [[[2.0, 3.0]]])
    np.testing.assert_array_equal(one, [[1.0]])
