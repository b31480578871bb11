"""Rung 3 of the ladder: the search equals its reference, and with a true model finds the best action."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm.config import PlannerConfig
from ezm.planning import (
    LatentModel,
    SearchResult,
    gumbel_search,
    mctx_search,
    rounds,
    sample_actions,
)
from ezm.planning.search import complete_q, sigma
from ezm.world_model import Gaussian

DISCOUNT = 0.97
ROOTS = 10_000


class Waves(NamedTuple):
    """A policy that needs no noise: its samples are fixed functions of the state."""

    state: jax.Array
    padding: int = 0

    def _pad(self, action: jax.Array) -> jax.Array:
        return jnp.pad(action, [(0, 0)] * (action.ndim - 1) + [(0, self.padding)])

    def mode(self) -> jax.Array:
        return self._pad(jnp.sin(self.state[..., :2]))

    def sample(self, key: Any, num: int, spread: Any = 1.0) -> jax.Array:
        waves = [jnp.sin(self.state[..., :2] * (3.1 + i)) for i in range(num)]
        return self._pad(jnp.stack(waves, -2))


def rugged(padding: int = 0) -> LatentModel:
    """A deterministic model without structure, so that no two Q-values are equal."""
    weight = np.random.default_rng(0).normal(size=(6, 4)) * 1.7

    def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        state = jnp.tanh(jnp.concatenate((state, action[..., :2]), -1) @ weight)
        return state, state[..., 0] * 2, jnp.full(state.shape[:-1], DISCOUNT, state.dtype)

    def predict(state: jax.Array) -> tuple[jax.Array, Waves]:
        return 3 * jnp.sin(4 * state.sum(-1)), Waves(state, padding)

    return LatentModel(step, predict)


def search(
    batch: int, config: PlannerConfig, method: Any = gumbel_search, padding: int = 0
) -> SearchResult:
    rng = np.random.default_rng(1)
    state = jnp.asarray(rng.normal(size=(ROOTS, 4))[:batch])
    actions = rng.uniform(-1, 1, (ROOTS, config.root_actions, 2))[:batch]
    actions = jnp.asarray(np.pad(actions, [(0, 0), (0, 0), (0, padding)]))
    model = rugged(padding)

    @jax.jit
    def run(state: jax.Array, actions: jax.Array) -> SearchResult:
        value, _ = model.predict(state)
        return method(jax.random.key(0), model, state, actions, value, config)

    return jax.device_get(run(state, actions))


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    """Float64, in which both searches break no ties by rounding."""
    with jax.enable_x64(True):
        yield


# -- Sequential Halving ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "simulations", "sizes"),
    [
        (16, 32, [16, 8, 4, 4]),
        (16, 50, [16, 8, 4, 4, 4] + [2] * 7),
        (8, 16, [8, 4, 2, 2]),
        (8, 8, [8]),
        (16, 10, [10]),
        (4, 8, [4, 2, 2]),
        (2, 5, [2, 2, 1]),
        (1, 3, [1, 1, 1]),
    ],
)
def test_rounds_known_values(actions: int, simulations: int, sizes: list[int]) -> None:
    assert rounds(actions, simulations) == sizes


@given(actions=st.integers(1, 64), simulations=st.integers(1, 200))
def test_rounds_spend_every_simulation_on_fewer_and_fewer(actions: int, simulations: int) -> None:
    sizes = rounds(actions, simulations)
    assert sum(sizes) == simulations
    assert sizes[0] == min(actions, simulations)
    assert all(a >= b >= 1 for a, b in itertools.pairwise(sizes))


def test_completed_q_known_value() -> None:
    """Mixed value: (V + visits x mean Q of the visited) / (visits + 1), for a uniform prior."""
    q = complete_q(jnp.array([2.0, 4.0, 9.0]), jnp.array([3, 1, 0]), jnp.float32(1.0))
    np.testing.assert_allclose(q, [2.0, 4.0, (1.0 + 4 * 3.0) / 5], rtol=1e-6)


def test_sigma_known_value() -> None:
    config = PlannerConfig(c_visit=50.0, c_scale=0.1)
    transformed = sigma(jnp.array([1.0, 3.0, 2.0]), jnp.array([1, 4, 2]), config)
    np.testing.assert_allclose(transformed, [0.0, 5.4, 2.7], rtol=1e-6)
    flat = sigma(jnp.full(3, 7.0), jnp.array([1, 4, 2]), config)
    np.testing.assert_array_equal(flat, 0.0)


# -- against the reference ---------------------------------------------------------------


def assert_equal_searches(config: PlannerConfig, tolerance: float) -> None:
    ours, reference = search(ROOTS, config), search(ROOTS, config, mctx_search)
    np.testing.assert_array_equal(ours.action, reference.action)
    np.testing.assert_array_equal(ours.visits, reference.visits)
    for name in ("q_values", "policy", "value"):
        one, other = getattr(ours, name), getattr(reference, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("actions", "simulations", "include_mean"),
    [(16, 32, False), (8, 16, True), (8, 8, False), (16, 50, False)],
)
def test_equals_mctx(double: None, actions: int, simulations: int, include_mean: bool) -> None:
    assert_equal_searches(
        PlannerConfig(root_actions=actions, simulations=simulations, include_mean=include_mean),
        tolerance=1e-9,
    )


def test_equals_mctx_in_single_precision() -> None:
    assert_equal_searches(PlannerConfig(root_actions=8, simulations=16), tolerance=1e-4)


# -- properties --------------------------------------------------------------------------

SMALL = PlannerConfig(root_actions=4, simulations=8)


@pytest.fixture(scope="module")
def small() -> SearchResult:
    return search(64, SMALL)


def test_visits_sum_to_the_simulations(small: SearchResult) -> None:
    np.testing.assert_array_equal(small.visits.sum(-1), 8)
    np.testing.assert_array_equal(np.sort(small.visits, -1), [[1, 1, 3, 3]] * 64)


def test_root_value_is_the_mean_of_all_returns(small: SearchResult) -> None:
    state = np.random.default_rng(1).normal(size=(ROOTS, 4))[:64]
    value = 3 * np.sin(4 * state.sum(-1))
    total = value + (small.visits * small.q_values).sum(-1)
    np.testing.assert_allclose(small.value, total / 9, rtol=1e-4, atol=1e-4)


def test_chosen_action_is_the_best_of_the_most_visited(small: SearchResult) -> None:
    q = np.where(small.visits == 3, small.q_values, -np.inf)
    np.testing.assert_array_equal(small.action, small.actions[np.arange(64), q.argmax(-1)])


def test_improved_policy_prefers_higher_q(small: SearchResult) -> None:
    np.testing.assert_allclose(small.policy.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(small.policy.argmax(-1), small.q_values.argmax(-1))


def test_roots_do_not_influence_each_other(small: SearchResult) -> None:
    for alone, among in zip(search(7, SMALL), small, strict=True):
        np.testing.assert_allclose(alone, among[:7], rtol=1e-4, atol=1e-5)


def test_padded_action_dimensions_change_nothing(small: SearchResult) -> None:
    padded = search(64, SMALL, padding=3)
    np.testing.assert_array_equal(padded.action[:, 2:], 0.0)
    np.testing.assert_array_equal(padded.action[:, :2], small.action)
    for name in ("visits", "q_values", "policy", "value"):
        np.testing.assert_array_equal(getattr(padded, name), getattr(small, name))


def test_root_actions_come_from_both_spreads() -> None:
    policy = Gaussian(jnp.zeros((2000, 1)), jnp.full((2000, 1), -2.0), jnp.ones((2000, 1)))
    config = PlannerConfig(root_actions=4, policy_actions=2, spread=3.0, include_mean=True)
    actions = np.arctanh(
        jax.jit(sample_actions, static_argnums=2)(jax.random.key(0), policy, config)
    )
    std = actions[..., 0].std(0)
    np.testing.assert_allclose(std, np.exp(-2.0) * np.array([0.0, 1.0, 3.0, 3.0]), rtol=0.08)


# -- a true model ------------------------------------------------------------------------


class Feedback(NamedTuple):
    """A linear controller as the policy inside the tree."""

    action: jax.Array

    def mode(self) -> jax.Array:
        return self.action

    def sample(self, key: Any, num: int, spread: Any = 1.0) -> jax.Array:
        return jnp.repeat(self.action[..., None, :], num, axis=-2)


def test_linear_quadratic_control_is_exact() -> None:
    """Double integrator with quadratic cost: with true dynamics, value and policy the search returns Q*."""
    a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
    cost, effort = np.diag([1.0, 0.1]), np.array([[0.05]])
    p = cost
    for _ in range(2000):  # the discounted Riccati equation
        gain = np.linalg.solve(effort + DISCOUNT * b.T @ p @ b, DISCOUNT * b.T @ p @ a)
        p = cost + DISCOUNT * a.T @ p @ (a - b @ gain)

    def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        reward = -jnp.einsum("...i,ij,...j", state, cost, state)
        reward -= jnp.einsum("...i,ij,...j", action, effort, action)
        return state @ a.T + action @ b.T, reward, jnp.full(reward.shape, DISCOUNT)

    def predict(state: jax.Array) -> tuple[jax.Array, Feedback]:
        return -jnp.einsum("...i,ij,...j", state, p, state), Feedback(-state @ gain.T)

    config = PlannerConfig(root_actions=8, simulations=16)
    state = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (50, 2)), jnp.float32)
    actions = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, 8)[:, None], (50, 8, 1))
    value, _ = predict(state)
    result = jax.jit(
        lambda s: gumbel_search(
            jax.random.key(0), LatentModel(step, predict), s, actions, value, config
        )
    )(state)
    following, reward, _ = step(state[:, None], actions)
    q_star = np.asarray(reward + DISCOUNT * predict(following)[0])
    np.testing.assert_allclose(result.q_values, q_star, rtol=1e-3, atol=1e-3)
    rows, best = np.arange(50), q_star.argmax(-1)
    np.testing.assert_array_equal(result.action, np.asarray(actions)[rows, best])


def test_the_documents_example_moves_towards_the_goal() -> None:
    """docs/planner.md, "With your own model": reward is higher nearer to 0."""
    document = Path(__file__).parents[1] / "docs" / "planner.md"
    example = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)[0]
    found: dict[str, Any] = {}
    exec(example, found)
    result = found["result"]
    start = np.array([[0.4, -0.4], [-0.3, 0.3]])
    end = start + 0.5 * result.action
    assert (np.linalg.norm(end, axis=-1) < 0.6 * np.linalg.norm(start, axis=-1)).all()
    assert result.visits.sum(-1).tolist() == [32, 32]
