"""The planner's view of the world model: imagined returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import noisy, untrained

from ezm.agent.planning import SearchResult, expanded_value, plan, planner
from ezm.agent.planning.planner import refined
from ezm.agent.world_model import Context, Gaussian, Support, WorldModel
from ezm.config import PlannerConfig
from ezm.config.presets import PRESETS

STATES, BATCH = 3, 4


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """Two tasks and three heads whose zero-initialised outputs are made to differ."""
    config = replace(PRESETS["cpu"].model, latent_size=16, value_heads=3)
    support = Support(-5.0, 20.0, 31, "linear")
    return noisy(untrained(config, support, support))


def context(model: WorldModel) -> Context:
    return model.context(jnp.array([0, 1, 1, 0]), jnp.array([[1.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_imagined_value_equals_a_walk_through_the_model(model: WorldModel, steps: int) -> None:
    latent = jax.random.normal(jax.random.key(1), (STATES, BATCH, 16))
    discount = jnp.array([0.9, 0.5, 0.5, 0.9])
    result = jax.jit(expanded_value, static_argnums=4)(
        model.with_two_heads(jax.random.key(3)), latent, context(model), discount, steps
    )

    two = jax.random.permutation(jax.random.key(3), 3)[:2]
    for state in range(STATES):
        z, total = latent[state], jnp.zeros(BATCH)
        for t in range(steps):
            _, policy = model.predict(z, context(model))
            z, reward = model.step(z, policy.mode(), context(model))
            total += discount**t * model.reward(reward)
        values, _ = model.predict(z, context(model))
        each = jnp.stack([model.value_support.mean(values[head]) for head in two])
        expected = total + discount**steps * each.min(0)
        np.testing.assert_allclose(result[state], expected, rtol=1e-4, atol=1e-4)
    assert float(result.std()) > 0.1


@pytest.mark.parametrize(
    ("batch", "backend", "parts"),
    [
        (1, "cpu", 1),
        (128, "cpu", 128),
        (768, "cpu", 128),
        (3072, "cpu", 128),
        (288, "cpu", 96),
        (131, "cpu", 131),  # a prime: no even parts
        (768, "gpu", 768),
    ],
)
def test_roots_at_once_known_values(batch: int, backend: str, parts: int) -> None:
    assert planner.roots_at_once(batch, backend) == parts


def test_a_batch_in_parts_is_planned_as_a_whole(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is the only action inside the tree, so that nothing is drawn there."""
    config = PlannerConfig(root_actions=4, simulations=8, interior_actions=1, include_mean=True)
    latent = jax.random.normal(jax.random.key(1), (BATCH, 16))
    arguments = jax.random.key(0), model, latent, context(model), jnp.full(BATCH, 0.9)

    def planned() -> SearchResult:
        # A new function, which is traced anew.
        return eqx.filter_jit(lambda *given: plan(*given, config).search)(*arguments)

    whole = planned()
    monkeypatch.setattr(planner, "_MOST_ROOTS", 2)
    monkeypatch.setattr(planner, "_FEWEST_ROOTS", 1)
    parts = planned()
    np.testing.assert_array_equal(parts.visits, whole.visits)
    for name in ("action", "q_values", "value", "policy", "next_action"):
        one, other = getattr(parts, name), getattr(whole, name)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=name)


def slope(latent: Any, action: Any, context: Any) -> Any:
    """Q(s, a) = 3 a_0 - a_1, whatever the state."""
    return 3.0 * action[..., 0] - action[..., 1]


def test_the_second_half_of_the_samples_inside_the_tree_is_wider(model: WorldModel) -> None:
    latent = jnp.zeros((1, 1, 16))
    of_task_0 = context(model)[:1]

    def samples(**changes: Any) -> np.ndarray:
        config = PlannerConfig(interior_actions=2_000, **changes)
        propose = planner.latent_model(model, of_task_0, jnp.ones(1), config).predict(latent)[1]
        return np.arctanh(propose(jax.random.key(1)).actions[0, 0])

    plain, wide = samples(), samples(interior_spread=3.0)
    np.testing.assert_allclose(wide[:1_000], plain[:1_000], rtol=1e-4)
    ratio = wide[1_000:].std(0) / plain[1_000:].std(0)
    assert np.all((ratio > 1.5) & (ratio < 3.01))  # samples stop at the largest action


def test_refined_actions_climb_by_one_standard_deviation_a_dimension() -> None:
    """Known direction (3, -1) times the slope of tanh at 0, of root mean square length 1 in both dimensions."""
    mask = jnp.array([[1.0, 1.0, 0.0]])
    policy = Gaussian(jnp.zeros((1, 3)), jnp.log(0.1) * mask, mask)
    context = Context(jnp.zeros((1, 1)), mask)
    start = jnp.zeros((1, 2, 3))
    moved = refined(slope, jnp.zeros((1, 1)), context, policy, start, 0.5)
    expected = np.tanh(0.05 * np.array([3.0, -1.0, 0.0]) / np.sqrt(5.0))
    np.testing.assert_allclose(moved, np.broadcast_to(expected, (1, 2, 3)), atol=1e-6)
