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
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import simulations as integrator
from benchmarks.mctx_search import mctx_search
from ezm.agent.planning import (
    NO_ACTION,
    Candidates,
    LatentModel,
    SearchResult,
    enumerated,
    gumbel_search,
    root_candidates,
    rounds,
    sampled,
)
from ezm.agent.planning.search import complete_q, sigma
from ezm.agent.world_model import Gaussian
from ezm.config import PlannerConfig

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


def rugged(config: PlannerConfig, padding: int = 0) -> LatentModel:
    """A deterministic model without structure, so that no two Q-values are equal."""
    weight = np.random.default_rng(0).normal(size=(6, 4)) * 1.7

    def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        state = jnp.tanh(jnp.concatenate((state, action[..., :2]), -1) @ weight)
        return state, state[..., 0] * 2, jnp.full(state.shape[:-1], DISCOUNT, state.dtype)

    def predict(state: jax.Array) -> tuple[jax.Array, Any]:
        def propose(key: Any) -> Candidates:
            waves = Waves(state, padding)
            return sampled(key, waves, config.interior_actions, include_mean=config.include_mean)

        return 3 * jnp.sin(4 * state.sum(-1)), propose

    return LatentModel(step, predict)


def roots(batch: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(ROOTS, 4))[:batch])


def run(
    model: LatentModel,
    state: jax.Array,
    root: Candidates,
    config: PlannerConfig,
    method: Any = gumbel_search,
    **options: Any,
) -> SearchResult:
    @jax.jit
    def compiled(state: jax.Array, root: Candidates) -> SearchResult:
        value, _ = model.predict(state)
        return method(jax.random.key(0), model, state, root, value, config, **options)

    return jax.device_get(compiled(state, root))


def search(
    batch: int, config: PlannerConfig, method: Any = gumbel_search, padding: int = 0
) -> SearchResult:
    actions = np.random.default_rng(2).uniform(-1, 1, (ROOTS, config.root_actions, 2))[:batch]
    actions = jnp.asarray(np.pad(actions, [(0, 0), (0, 0), (0, padding)]))
    root = Candidates(actions, jnp.zeros(actions.shape[:2], actions.dtype))
    return run(rugged(config, padding), roots(batch), root, config, method)


@pytest.fixture
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
    q, visits, value = jnp.array([2.0, 4.0, 9.0]), jnp.array([3, 1, 0]), jnp.float32(1.0)
    completed = complete_q(q, visits, value, jnp.zeros(3))
    np.testing.assert_allclose(completed, [2.0, 4.0, (1.0 + 4 * 3.0) / 5], rtol=1e-6)
    prior = jnp.log(jnp.array([0.6, 0.2, 0.2]))  # the mean Q is then (0.6 x 2 + 0.2 x 4) / 0.8
    completed = complete_q(q, visits, value, prior)
    np.testing.assert_allclose(completed, [2.0, 4.0, (1.0 + 4 * 2.5) / 5], rtol=1e-6)


def test_sigma_known_value() -> None:
    config = PlannerConfig(c_visit=50.0, c_scale=0.1)
    visits, real = jnp.array([1, 4, 2]), jnp.ones(3, bool)
    transformed = sigma(jnp.array([1.0, 3.0, 2.0]), visits, real, config)
    np.testing.assert_allclose(transformed, [0.0, 5.4, 2.7], rtol=1e-6)
    flat = sigma(jnp.full(3, 7.0), visits, real, config)
    np.testing.assert_array_equal(flat, 0.0)
    masked = sigma(jnp.array([1.0, 3.0, -9.0]), visits, jnp.array([True, True, False]), config)
    np.testing.assert_allclose(masked[:2], [0.0, 5.4], rtol=1e-6)


# -- against the reference ---------------------------------------------------------------


def assert_equal(ours: SearchResult, reference: SearchResult, tolerance: float) -> None:
    for name in ("action", "visits", "next_action"):
        one, other = getattr(ours, name), getattr(reference, name)
        np.testing.assert_array_equal(one, other, err_msg=name)
    for name in ("q_values", "policy", "value"):
        one, other = getattr(ours, name), getattr(reference, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=name)


SETTINGS = [(16, 32, False), (8, 16, True), (8, 8, False), (16, 50, False)]


@pytest.mark.parametrize(("actions", "simulations", "include_mean"), SETTINGS)
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_equals_mctx(
    actions: int, simulations: int, include_mean: bool, precision: str, tolerance: float
) -> None:
    config = PlannerConfig(root_actions=actions, simulations=simulations, include_mean=include_mean)
    with jax.enable_x64(precision == "float64"):
        ours, reference = search(ROOTS, config), search(ROOTS, config, mctx_search)
    assert ours.q_values.dtype == precision
    assert_equal(ours, reference, tolerance)


def fixed(q: jax.Array, visits: jax.Array, exists: jax.Array, config: PlannerConfig) -> jax.Array:
    """A transform that does not change while a round lasts."""
    return 2.0 * q


def discrete(actions: int, legal: int, padding: int = 0) -> LatentModel:
    """A game: from every state ``legal`` of the actions lead on, with unequal priors."""
    weight = np.random.default_rng(3).normal(size=(4 + actions, 4)) * 1.7

    def step(state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        state = jnp.tanh(jnp.concatenate((state, action[..., :actions]), -1) @ weight)
        return state, state[..., 0] * 2, jnp.full(state.shape[:-1], DISCOUNT, state.dtype)

    def predict(state: jax.Array) -> tuple[jax.Array, Any]:
        slots = actions + padding
        return (
            3 * jnp.sin(4 * state.sum(-1)),
            lambda _: priors(state, actions, legal).padded(slots, slots),
        )

    return LatentModel(step, predict)


def priors(state: jax.Array, actions: int, legal: int) -> Candidates:
    """Random logits; which actions are not allowed depends on the state too."""
    waves = jnp.sin(state.sum(-1)[..., None] * jnp.arange(1.0, actions + 1))
    rank = jnp.argsort(jnp.argsort(jnp.cos(3 * waves)))
    return enumerated(jnp.where(rank < legal, 2 * waves, NO_ACTION))


@pytest.mark.parametrize(
    ("actions", "legal", "considered", "simulations"),
    [(6, 6, 16, 24), (6, 4, 16, 16), (6, 6, 4, 12), (4, 3, 4, 20)],
)
def test_equals_mctx_with_discrete_actions_and_noise(
    double: None, actions: int, legal: int, considered: int, simulations: int
) -> None:
    """Logits and Gumbel noise at the root: equal where the transform keeps still during a round."""
    config = PlannerConfig(simulations=simulations, considered_actions=considered, gumbel_scale=1.0)
    state = roots(2_000)
    arguments = discrete(actions, legal), state, priors(state, actions, legal), config
    ours = run(*arguments, counts=(legal,), transform=fixed)
    assert_equal(ours, run(*arguments, mctx_search, transform=fixed), tolerance=1e-9)
    assert ours.visits[~np.asarray(arguments[2].exists)].sum() == 0


def test_equals_mctx_where_a_single_action_is_legal(double: None) -> None:
    """The empty slot beside it has a Q outside the node's range, and stays out of the choice."""
    config = PlannerConfig(simulations=5)
    state = roots(200)
    arguments = discrete(2, 1), state, priors(state, 2, 1), config
    assert_equal(run(*arguments, counts=(1,)), run(*arguments, mctx_search), tolerance=1e-9)


def test_scores_once_a_round_where_mctx_scores_every_time(double: None) -> None:
    """With priors, noise and sigma, which follows the Q-values of the moment, a few searches differ."""
    config = PlannerConfig(simulations=24, gumbel_scale=1.0)
    state = roots(2_000)
    arguments = discrete(6, 6), state, priors(state, 6, 6), config
    ours, reference = run(*arguments), run(*arguments, mctx_search)
    same = (ours.visits == reference.visits).all(-1)
    assert 0.5 < same.mean() < 1.0
    np.testing.assert_allclose(ours.q_values[same], reference.q_values[same], atol=1e-9)


def test_prior_rules_where_values_are_equal() -> None:
    """Without noise and with equal Q, the first round takes the actions of highest prior."""
    flat = LatentModel(
        step=lambda state, action: (state, jnp.zeros(state.shape[:2]), jnp.ones(state.shape[:2])),
        predict=lambda state: (
            jnp.zeros(state.shape[:-1]),
            lambda _: enumerated(jnp.zeros((*state.shape[:2], 4))),
        ),
    )
    logits = jnp.array([[0.0, 3.0, 1.0, 2.0]])
    config = PlannerConfig(simulations=6, considered_actions=2)
    result = run(flat, jnp.zeros((1, 1)), enumerated(logits), config)
    np.testing.assert_array_equal(result.visits, [[0, 3, 0, 3]])
    np.testing.assert_array_equal(result.action, [[0.0, 1.0, 0.0, 0.0]])
    np.testing.assert_allclose(result.policy, jax.nn.softmax(logits), rtol=1e-5)


def test_mixed_suite_plans_as_each_of_its_tasks_alone(double: None) -> None:
    """Sampled and discrete actions in one batch, padded to the same slots and sizes."""
    config = PlannerConfig(root_actions=8, simulations=16)
    waves, game = rugged(config), discrete(3, 3)
    state = roots(40)
    is_game = jnp.arange(40) % 2 == 0
    actions = np.random.default_rng(2).uniform(-1, 1, (40, 8, 2))
    sampled_root = Candidates(jnp.asarray(actions), jnp.zeros((40, 8)))

    def choose(mask: jax.Array, one: Any, other: Any) -> Any:
        def pick(x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, y)

        return jax.tree.map(pick, one, other)

    def step(state: jax.Array, action: jax.Array) -> Any:
        return choose(is_game, game.step(state, action), waves.step(state, action))

    def predict(state: jax.Array) -> Any:
        value, propose = waves.predict(state)
        discrete_value, propose_discrete = game.predict(state)

        def both(key: Any) -> Candidates:
            inside = propose(key).padded(3, 3)
            return choose(is_game, propose_discrete(key), inside)

        return jnp.where(is_game[:, None], discrete_value, value), both

    def value(state: jax.Array) -> jax.Array:
        return 3 * jnp.sin(4 * state.sum(-1))

    @jax.jit
    def together(state: jax.Array) -> SearchResult:
        root = choose(is_game, priors(state, 3, 3).padded(8, 3), sampled_root.padded(8, 3))
        model = LatentModel(step, predict)
        return gumbel_search(
            jax.random.key(0), model, state, root, value(state), config, counts=(3, 8)
        )

    mixed = jax.device_get(together(state))
    alone = {
        0: run(game, state, priors(state, 3, 3), config),
        1: run(waves, state, sampled_root, config),
    }
    for first, result in alone.items():
        num, size = result.actions.shape[1:]
        of_mixed, of_alone = (jax.tree.map(lambda x, i=first: x[i::2], r) for r in (mixed, result))
        assert not of_mixed.visits[:, num:].any() and not of_mixed.policy[:, num:].any()
        np.testing.assert_array_equal(of_mixed.action[:, :size], of_alone.action)
        np.testing.assert_array_equal(of_mixed.next_action[:, :size], of_alone.next_action)
        np.testing.assert_array_equal(of_mixed.visits[:, :num], of_alone.visits)
        np.testing.assert_allclose(of_mixed.q_values[:, :num], of_alone.q_values, atol=1e-12)
        np.testing.assert_allclose(of_mixed.policy[:, :num], of_alone.policy, atol=1e-12)
        np.testing.assert_allclose(of_mixed.value, of_alone.value, atol=1e-12)


# -- properties --------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(
    actions=st.integers(2, 5),
    hidden=st.integers(0, 3),
    considered=st.integers(1, 6),
    simulations=st.integers(1, 6),
    padding=st.integers(1, 3),
)
def test_any_search_keeps_to_its_masks_and_counts(
    actions: int, hidden: int, considered: int, simulations: int, padding: int
) -> None:
    legal = max(1, actions - hidden)
    config = PlannerConfig(simulations=simulations, considered_actions=considered)
    state = roots(6)
    root = priors(state, actions, legal)
    result = run(discrete(actions, legal), state, root, config, counts=(legal,))

    real = np.asarray(root.exists)
    np.testing.assert_array_equal(result.visits.sum(-1), simulations)
    np.testing.assert_array_equal((result.visits > 0).sum(-1), min(legal, considered, simulations))
    assert not result.visits[~real].any() and not result.policy[~real].any()
    np.testing.assert_allclose(result.policy.sum(-1), 1.0, rtol=1e-5)
    chosen = result.action.argmax(-1)
    np.testing.assert_array_equal(
        result.visits[np.arange(6), chosen], result.visits.max(-1), "chosen"
    )

    slots = actions + padding
    padded = run(
        discrete(actions, legal, padding), state, root.padded(slots, slots), config, counts=(legal,)
    )
    alone = run(
        discrete(actions, legal),
        state[:2],
        priors(state[:2], actions, legal),
        config,
        counts=(legal,),
    )
    for other, rows in ((padded, 6), (alone, 2)):
        np.testing.assert_array_equal(other.visits[:, :actions], result.visits[:rows])
        np.testing.assert_array_equal(other.action[:, :actions], result.action[:rows])
        for name in ("q_values", "policy"):
            mine, theirs = getattr(result, name)[:rows], getattr(other, name)[:, :actions]
            np.testing.assert_allclose(
                np.where(real[:rows], theirs, 0),
                np.where(real[:rows], mine, 0),
                rtol=1e-4,
                atol=1e-4,
            )


SMALL = PlannerConfig(root_actions=4, simulations=8)


@pytest.fixture(scope="module")
def small() -> SearchResult:
    return search(64, SMALL)


def test_visits_sum_to_the_simulations(small: SearchResult) -> None:
    np.testing.assert_array_equal(small.visits.sum(-1), 8)
    np.testing.assert_array_equal(np.sort(small.visits, -1), [[1, 1, 3, 3]] * 64)


def test_root_value_is_the_mean_of_all_returns(small: SearchResult) -> None:
    state = np.asarray(roots(64))
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
    root = jax.jit(root_candidates, static_argnums=2)(jax.random.key(0), policy, config)
    np.testing.assert_array_equal(root.logits, 0.0)
    actions = np.arctanh(root.actions)
    std = actions[..., 0].std(0)
    np.testing.assert_allclose(std, np.exp(-2.0) * np.array([0.0, 1.0, 3.0, 3.0]), rtol=0.08)


# -- a true model ------------------------------------------------------------------------


def test_linear_quadratic_control_is_exact() -> None:
    """Double integrator with quadratic cost: with true dynamics, value and policy the search returns Q*."""
    best = integrator.optimal()

    def predict(state: jax.Array) -> tuple[jax.Array, Any]:
        def controller(_: Any) -> Candidates:
            action = (-state @ best.gain.T)[..., None, :]
            return Candidates(action, jnp.zeros(action.shape[:-1]))

        return best.value(state), controller

    config = PlannerConfig(root_actions=8, simulations=16)
    state = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (50, 2)), jnp.float32)
    actions = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, 8)[:, None], (50, 8, 1))
    root = Candidates(actions, jnp.zeros(actions.shape[:2]))
    result = run(LatentModel(integrator.step, predict), state, root, config)
    following, reward, discount = integrator.step(state[:, None], actions)
    q_star = np.asarray(reward + discount * best.value(following))
    np.testing.assert_allclose(result.q_values, q_star, rtol=1e-3, atol=1e-3)
    rows, chosen = np.arange(50), q_star.argmax(-1)
    np.testing.assert_array_equal(result.action, np.asarray(actions)[rows, chosen])
    optimal = -np.asarray(following)[rows, chosen] @ best.gain.T
    np.testing.assert_allclose(result.next_action, optimal, rtol=1e-5, atol=1e-6)


def test_more_simulations_cost_nothing_with_a_true_model() -> None:
    """Cost beyond the optimal controller's, on the same starts; an informed policy inside the tree."""
    options = integrator.Options(starts=100, steps=30)
    few, some, many = (
        integrator.regrets("informed", integrator.optimal(), n, options) for n in (2, 8, 32)
    )
    assert few.min() > -0.1  # nobody beats the optimal controller
    for fewer, more in ((few, some), (some, many)):
        worse = more - fewer
        assert worse.mean() < 2 * worse.std(ddof=1) / np.sqrt(worse.size)


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
