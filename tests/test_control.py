"""Planning for a control loop: the same actions as in an evaluation, within a budget of time."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import control
from ezm.acting.actor import Actor
from ezm.agent.agent import Agent, build
from ezm.agent.world_model.precision import with_weights
from ezm.config import TrainConfig, to_dict
from ezm.config.presets import PRESETS
from ezm.control import Planner, most_that_fits
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.tasks import load_suite

CPU = PRESETS["cpu"]
CONFIG: TrainConfig = replace(
    CPU,
    suite="dmc:cartpole-swingup,reacher-easy",
    model=replace(CPU.model, latent_size=8, task_embedding_size=4, action_code_size=4),
    planner=replace(CPU.planner, root_actions=4, simulations=8, leaf_rollout=0),
)
OBSERVATION = np.linspace(-1.0, 1.0, 5)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build(CONFIG, load_suite(CONFIG.suite))


ONE_ROUND = 2
"""Simulations: the search has its own tests, one round of it compiles fast."""


@pytest.fixture(scope="module")
def planner(agent: Agent) -> Planner:
    return Planner(agent, simulations=ONE_ROUND)


def one_round(config: TrainConfig) -> TrainConfig:
    return replace(config, planner=replace(config.planner, simulations=ONE_ROUND))


def test_acts_as_in_an_evaluation(agent: Agent) -> None:
    planner = Planner(agent, simulations=ONE_ROUND, seed=3)
    learner = replace(agent.learner, config=one_round(CONFIG))
    actor = Actor(learner, seed=3, evaluating=True)
    padded = np.zeros((1, 6), np.float32)
    padded[0, :5] = OBSERVATION
    for _ in range(3):
        expected = actor.act(agent.parameters, padded, np.array([0], np.int32))
        action = planner.act(OBSERVATION, "cartpole-swingup")
        assert action.shape == (1,)
        np.testing.assert_allclose(action, expected[0, :1], rtol=1e-5, atol=1e-6)


def test_tasks_go_by_name_or_index_and_have_their_own_sizes(planner: Planner) -> None:
    assert planner.tasks == ("cartpole-swingup", "reacher-easy")
    for task in ("reacher-easy", 1, np.int64(1)):
        action = planner.act(np.ones(6), task)
        assert action.shape == (2,) and np.abs(action).max() <= 1.0


@pytest.mark.parametrize(
    ("observation", "task", "message"),
    [
        (OBSERVATION, "reacher-eazy", r"did you mean reacher-easy\?.*it knows cartpole-swingup"),
        (OBSERVATION, 2, "task 2 is not one of this agent's"),
        (OBSERVATION, "reacher-easy", r"reacher-easy: .*shape \(5,\), expected \(6,\)"),
        (OBSERVATION * np.nan, 0, "cartpole-swingup: the observation holds a nan"),
    ],
)
def test_refuses_what_it_cannot_plan_for(
    planner: Planner, observation: np.ndarray, task: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        planner.act(observation, task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulations": 0}, "simulations 0: must be at least 1"),
        ({"budget_ms": 0.0}, "budget_ms 0.0: must be greater than 0"),
        ({"precision": "int8"}, "precision 'int8': must be float32 or bfloat16"),
    ],
)
def test_refuses_options_out_of_range(agent: Agent, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Planner(agent, **options)


def test_a_budget_chooses_as_many_rounds_as_fit(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 actions, 8 simulations: rounds of 4, 2 and 2. With 1 ms a simulation, 7 ms allow two of them."""
    measured: list[int] = []

    def simulations_as_ms(self: Planner, program: int) -> float:
        measured.append(program)
        return float(program)

    monkeypatch.setattr(Planner, "_compile", lambda self, config: config.simulations)
    monkeypatch.setattr(Planner, "_p99_ms", simulations_as_ms)
    planner = Planner(agent, budget_ms=7.0)
    assert (planner.simulations, planner.p99_ms) == (6, 6.0)
    assert measured[0] == 8 and set(measured) <= {1, 2, 4, 6, 8}
    assert Planner(agent, budget_ms=100.0).simulations == 8
    with pytest.raises(UserError, match="budget_ms 0.5: a search of 1 takes 1 ms"):
        Planner(agent, budget_ms=0.5)


def test_a_real_budget_is_measured(agent: Agent) -> None:
    planner = Planner(agent, simulations=ONE_ROUND, budget_ms=10_000.0)
    assert planner.simulations == ONE_ROUND
    assert planner.p99_ms is not None and 0.0 < planner.p99_ms < 10_000.0


@given(
    choices=st.lists(st.integers(1, 1000), min_size=1, unique=True).map(sorted),
    budget=st.integers(1, 1000),
)
def test_most_that_fits_is_what_a_full_search_finds(choices: list[int], budget: int) -> None:
    fitting = [c for c in choices if c <= budget]
    if fitting:
        assert most_that_fits(choices, budget, float) == (fitting[-1], float(fitting[-1]))
    else:
        with pytest.raises(UserError):
            most_that_fits(choices, budget, float)


def noisy(agent: Agent) -> Agent:
    """The same agent with random heads: untrained ones give every action the same value."""
    leaves, tree = jax.tree.flatten(agent.state.model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    model = jax.tree.unflatten(
        tree, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    )
    return replace(agent, state=eqx.tree_at(lambda s: s.model, agent.state, model))


def walk(planner: Planner, calls: int = 6) -> np.ndarray:
    return np.array([planner.act(OBSERVATION, 0) for _ in range(calls)])


def test_warm_start_plans_on_where_the_last_plan_ended(agent: Agent) -> None:
    """As few candidates as two, one of them the mean: the other is the warm start, once there is one."""
    config = replace(
        CONFIG, planner=replace(CONFIG.planner, root_actions=2, simulations=4, policy_actions=1)
    )
    small = replace(noisy(agent), learner=replace(agent.learner, config=config))
    cold, warm = Planner(small), Planner(small, warm_start=True)
    np.testing.assert_allclose(cold.act(OBSERVATION, 0), warm.act(OBSERVATION, 0), rtol=1e-5)
    assert np.isnan(cold._next_action).all()
    assert np.isfinite(warm._next_action[0]).all() and np.isnan(warm._next_action[1]).all()
    assert np.abs(walk(cold) - walk(warm)).max() > 1e-3
    warm.reset()
    assert np.isnan(warm._next_action).all()


def test_lower_precision_plans_nearly_the_same(agent: Agent) -> None:
    model = noisy(agent).state.model
    half = with_weights(model, "bfloat16")
    assert half.dynamics.first.weight.dtype == "bfloat16"
    assert half.dynamics.first.bias.dtype == half.task_embedding.dtype == "float32"
    x = jax.random.normal(jax.random.key(2), (7, half.dynamics.first.weight.shape[0]))
    exact, rough = model.dynamics.first(x), half.dynamics.first(x)
    assert rough.dtype == "float32"
    np.testing.assert_allclose(rough, exact, atol=0.02 * float(jnp.abs(exact).max()))
    assert float(jnp.abs(rough - exact).max()) > 0.0
    actions = walk(Planner(noisy(agent), simulations=ONE_ROUND, precision="bfloat16"))
    assert np.isfinite(actions).all() and np.abs(actions).max() <= 1.0


def test_for_one_robot_is_the_same_function(agent: Agent) -> None:
    model = noisy(agent).state.model
    arranged = model.for_one_robot(jax.random.key(0))
    context = model.context(jnp.array([0, 1]), agent.learner.suite.action_mask)
    latent = jax.random.normal(jax.random.key(3), (2, 8))
    expected, policy = model.predict(latent, context)
    values, same_policy = arranged.predict(latent, context)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(same_policy.mean, policy.mean, rtol=1e-4, atol=1e-4)


def test_memory_does_not_grow_from_call_to_call(planner: Planner) -> None:
    walk(planner, 3)
    gc.collect()
    before = len(jax.live_arrays())
    walk(planner, 200)
    assert len(jax.live_arrays()) <= before


def test_benchmark_compares_planners_of_a_run(agent: Agent, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", to_dict(CONFIG))
    run.save_checkpoint(1, {"agent": agent.arrays()}, {})
    rows = control.measure(control.Options(run.path, simulations=(1, ONE_ROUND), episodes=2))
    found = [(row["simulations"], row["precision"], row["warm_start"]) for row in rows]
    most = ONE_ROUND
    assert found == [
        *((1, "float32", False), (most, "float32", False)),
        *((most, "bfloat16", False), (most, "float32", True)),
    ]
    for row in rows:
        assert 0 < row["median_ms"] <= row["p99_ms"]
        assert [len(values) for values in row["returns"].values()] == [2, 2]
    assert control.table(rows).row_count == 4


def test_benchmark_times_an_untrained_agent_without_a_run(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "build", lambda config, suite: agent)
    monkeypatch.setattr(control, "cases", lambda options: [{"simulations": ONE_ROUND}])
    (row,) = control.measure(control.Options(calls=30))
    assert row["returns"] == {} and row["median_ms"] > 0
    assert [column.header for column in control.table([row]).columns] == ["planner", "ms", "p99"]
    with pytest.raises(UserError, match="--calls 22"):
        control.measure(control.Options(calls=10))


def test_loads_a_run(agent: Agent, planner: Planner, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", to_dict(CONFIG))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        Planner.load(run.path)
    run.save_checkpoint(1, {"agent": agent.arrays()}, {})
    loaded = Planner.load(run.path, simulations=ONE_ROUND, seed=5)
    expected = Planner(agent, simulations=ONE_ROUND, seed=5)
    np.testing.assert_array_equal(loaded.act(OBSERVATION, 0), expected.act(OBSERVATION, 0))
    with pytest.raises(UserError, match="is not a run folder"):
        Planner.load(tmp_path)
