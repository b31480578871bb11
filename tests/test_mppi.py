"""MPPI over the root's action: known values, and what it gains on a linear Q."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from ezm.agent.planning.mppi import fitted, mppi
from ezm.agent.world_model import Gaussian
from ezm.config import MppiConfig, PlannerConfig

LEAST = jnp.full((1, 3), 0.01)


def gaussian(std: float, own: int = 3, size: int = 3) -> Gaussian:
    mask = (jnp.arange(size) < own).astype(float)[None]
    return Gaussian(jnp.zeros((1, size)), jnp.log(std) * mask, mask)


def test_without_a_temperature_all_actions_weigh_alike() -> None:
    raw = jnp.array([[[0.1, 0.0, -0.2], [0.3, 0.4, 0.2]]])
    found = fitted(gaussian(0.2), jnp.tanh(raw), jnp.array([[1.0, 5.0]]), 0.0, LEAST)
    np.testing.assert_allclose(found.mean[0], [0.2, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(jnp.exp(found.log_std[0]), [0.1, 0.2, 0.2], rtol=1e-5)


def test_a_high_temperature_takes_the_best_action_and_the_least_spread() -> None:
    raw = jnp.array([[[0.1, 0.0, -0.2], [0.3, 0.4, 0.2]]])
    found = fitted(gaussian(0.2), jnp.tanh(raw), jnp.array([[1.0, 5.0]]), 1e4, LEAST)
    np.testing.assert_allclose(found.mean[0], raw[0, 1], atol=1e-6)
    np.testing.assert_allclose(jnp.exp(found.log_std), LEAST, rtol=1e-5)


def test_equal_values_leave_the_weights_equal() -> None:
    raw = jnp.array([[[0.1, 0.0, -0.2], [0.3, 0.4, 0.2]]])
    found = fitted(gaussian(0.2), jnp.tanh(raw), jnp.zeros((1, 2)), 8.0, LEAST)
    np.testing.assert_allclose(found.mean[0], [0.2, 0.2, 0.0], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_rounds_beat_the_best_of_as_many_samples_and_stray_less(seed: int) -> None:
    """Q is the first of 19 dimensions, sampled with a standard deviation of 0.1.

    Known value: the best of 192 samples gains 2.75 standard deviations on average, and strays by sqrt(18) = 4.2.
    """
    policy = gaussian(0.1, own=19, size=20)

    def value_of(actions: Array) -> Array:
        return actions[..., 0]

    config = PlannerConfig(mppi=MppiConfig(rounds=3, samples=64, least_std=1.0))
    better = mppi(jax.random.key(seed), policy, value_of, config)
    moved = np.asarray(better.mean[0]) / 0.1
    assert moved[0] > 2.75
    assert np.linalg.norm(moved[1:]) < 3.5
    assert moved[19] == 0.0
    np.testing.assert_allclose(jnp.exp(better.log_std[0, :19]).min(), 0.1, rtol=1e-4)
