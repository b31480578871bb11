"""The planner's view of the world model: imagined returns."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.config import PRESETS
from ezm.planning import imagined_value
from ezm.world_model import Context, Support, WorldModel

STATES, BATCH = 3, 4


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """Two tasks and three heads whose zero-initialised outputs are made to differ."""
    config = replace(PRESETS["cpu"].model, latent_size=16, value_heads=3)
    support = Support(-5.0, 20.0, 31, "linear")
    key = jax.random.key(0)
    built = WorldModel(
        config,
        num_tasks=2,
        observation_size=3,
        action_size=2,
        value_support=support,
        reward_support=support,
        key=key,
    )
    leaves, tree = jax.tree.flatten(built)
    keys = jax.random.split(key, len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def context(model: WorldModel) -> Context:
    return model.context(jnp.array([0, 1, 1, 0]), jnp.array([[1.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_imagined_value_equals_a_walk_through_the_model(model: WorldModel, steps: int) -> None:
    latent = jax.random.normal(jax.random.key(1), (STATES, BATCH, 16))
    discount = jnp.array([0.9, 0.5, 0.5, 0.9])
    result = jax.jit(imagined_value, static_argnums=4)(
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
