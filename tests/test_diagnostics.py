"""The diagnostic sees a perfect model as perfect, a wrong one as wrong, and runs on a fresh agent."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.acting import diagnostics
from ezm.acting.diagnostics import Diagnostic, Outcomes, Predictions, spearman, summarise
from ezm.agent import build
from ezm.agent.learning import Normalizer
from ezm.agent.search_policy import ActingParameters, SearchPolicy, SuiteArrays
from ezm.agent.world_model import Context, Gaussian, Support, WorldModel
from ezm.config import ModelConfig, PlannerConfig
from ezm.config.presets import PRESETS
from ezm.errors import UserError
from ezm.tasks import load_suite

DISCOUNT = 0.9

# x' = x + a / 4 and reward -x'^2; the policy's mean, 0, stays where it is.
SLIDER = """
import gymnasium
import numpy as np


class Slider(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return np.array([self.x]), {}

    def step(self, action):
        self.x += float(action[0]) / 4
        return np.array([self.x]), -self.x**2, False, False, {}
"""


class SliderModel(WorldModel):
    """The slider as a world model that knows everything; ``error`` turns its dynamics round."""

    error: float

    def __init__(self, error: float = 0.0) -> None:
        support = Support(-1.0, 1.0, 3, "linear")
        super().__init__(
            ModelConfig(latent_size=1),
            num_tasks=1,
            observation_size=1,
            action_size=1,
            value_support=support,
            reward_support=support,
            key=jax.random.key(0),
        )
        self.error = error

    def with_two_heads(self, key: Any) -> SliderModel:
        return self

    def context(self, task: Any, masks: Any) -> Context:
        return Context(jnp.zeros((*task.shape, 1)), masks[task])

    def represent(self, observation: Any, context: Context) -> Any:
        return observation

    def step(self, latent: Any, action: Any, context: Context) -> tuple[Any, Any]:
        latent = latent + (1 - 2 * self.error) * action / 4
        return latent, -jnp.square(latent)

    def predict(self, latent: Any, context: Context) -> tuple[Any, Gaussian]:
        value = -jnp.square(latent[..., 0]) / (1 - DISCOUNT)
        zero = jnp.zeros_like(context.action_mask)
        return value[None], Gaussian(zero, zero, context.action_mask)

    def value(self, logits: Any) -> Any:
        return logits.min(0)

    def reward(self, logits: Any) -> Any:
        return logits[..., 0]


@pytest.fixture
def slider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diagnostic:
    (tmp_path / "slider.py").write_text(textwrap.dedent(SLIDER))
    monkeypatch.syspath_prepend(tmp_path)
    suite = load_suite("slider:Slider")
    # As many simulations as actions: each is visited once, so that Q is r + discount * V.
    config = dataclasses.replace(
        PRESETS["cpu"], planner=PlannerConfig(simulations=4, root_actions=4)
    )
    arrays = SuiteArrays(jnp.asarray(suite.action_mask), jnp.array([DISCOUNT]))
    return Diagnostic(SearchPolicy(arrays, config), suite, states=4, horizon=40)


def test_a_perfect_model_ranks_perfectly_and_a_reversed_one_does_not(slider: Diagnostic) -> None:
    identity = Normalizer(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    found = slider(ActingParameters(SliderModel(), identity), task=0, seed=3)
    for name in ("search_q", "model_q", "dynamics", "value", "reward"):
        assert found[f"spearman/{name}"] == pytest.approx(1.0), name
    assert found["error/reward"] == pytest.approx(0.0, abs=1e-5)
    assert found["bias/search_q"] == pytest.approx(0.0, abs=1e-3)
    assert found["regret/search"] == pytest.approx(0.0, abs=1e-3)
    assert found["regret/average"] > 0.1

    found = slider(ActingParameters(SliderModel(error=1.0), identity), task=0, seed=3)
    assert found["spearman/value"] == pytest.approx(1.0)  # it is the dynamics that are wrong
    assert found["spearman/dynamics"] < 0.9
    assert found["error/reward"] > 0.01


def test_a_fresh_agent_gives_finite_values() -> None:
    config = dataclasses.replace(
        PRESETS["cpu"],
        model=dataclasses.replace(PRESETS["cpu"].model, latent_size=16),
        planner=PlannerConfig(simulations=4, root_actions=4),
    )
    suite = load_suite("dmc:cartpole-balance")
    agent = build(config, suite)
    diagnostic = Diagnostic(agent.learner.policy, suite, states=3, horizon=4)
    found = diagnostic(agent.parameters, task=0, seed=0)
    assert all(np.isfinite(list(found.values()))), found
    assert found["spearman/search_q"] == 0.0  # a fresh value head says the same of all actions
    assert found["error/reward"] > 0
    assert found == diagnostic(agent.parameters, task=0, seed=0)
    assert found != diagnostic(agent.parameters, task=0, seed=1)


def test_a_task_that_cannot_be_restored_is_skipped(
    slider: Diagnostic, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ezm.tasks import Task

    monkeypatch.setattr(Task, "can_restore", False)
    assert slider(None, task=0, seed=0) == {}  # type: ignore[arg-type]


def test_its_environments_are_watched(slider: Diagnostic, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(tasks: list[Any], limit: float | None, on_hang: Any) -> Any:
        raise UserError(f"{len(tasks)} within {limit} s")

    monkeypatch.setattr(diagnostics, "guarded", guarded)
    with pytest.raises(UserError, match="4 within 120.0 s"):
        slider(None, task=0, seed=0)  # type: ignore[arg-type]


def test_metrics_equal_hand_computed_ones() -> None:
    predictions = Predictions(
        choice=np.array([0]),
        actions=np.zeros((1, 3, 1)),
        search_q=np.array([[3.0, 2.0, 1.0]]),
        model_q=np.array([[1.0, 3.0, 2.0]]),
        reward=np.array([[0.5, 0.0, 1.0]]),
        q=np.array([[4.0, 6.0, 8.0]]),
    )
    outcomes = Outcomes(
        reward=np.array([[0.0, 0.0, 0.0]]),
        value=np.array([[1.0, 2.0, 3.0]]),
        returns=np.array([[1.0, 2.0, 3.0]]),
        tail=np.array([[1.0, 1.0, 1.0]]),
    )
    found = summarise(predictions, outcomes)
    assert found["spearman/search_q"] == pytest.approx(-1.0)
    assert found["spearman/model_q"] == pytest.approx(0.5)
    assert found["spearman/dynamics"] == pytest.approx(0.5)
    assert found["spearman/value"] == pytest.approx(1.0)
    assert np.isnan(found["spearman/reward"])  # the true rewards are all equal
    assert found["error/reward"] == pytest.approx(0.5)
    assert found["bias/search_q"] == pytest.approx(-1.0)
    assert found["spearman/q"] == pytest.approx(1.0)
    assert found["bias/q"] == pytest.approx(3.0)
    assert found["regret/search"] == pytest.approx(2.0)
    assert found["regret/average"] == pytest.approx(1.0)


def test_spearman_agrees_with_scipy_and_knows_constants() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 6, 12)).astype(float)  # with ties
    expected = np.mean([spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    assert spearman(x, y) == pytest.approx(expected)
    y[0] = 1.0
    assert spearman(x, y) == pytest.approx(spearman(x[1:], y[1:]))
    assert np.isnan(spearman(x[:1], y[:1]))
    assert spearman(np.zeros((5, 12)), y[1:]) == 0.0
