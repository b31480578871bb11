"""Rung 2 of the ladder: the squashed Gaussian is a density, and padded dimensions do not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.agent.world_model import Gaussian, moments
from ezm.agent.world_model.policy import MAX_ACTION


def gaussian(mean: list[float], log_std: list[float], mask: list[float]) -> Gaussian:
    """As the model builds it: mean and log-std are 0 in padded dimensions."""
    m = jnp.array(mask)
    return Gaussian(jnp.array(mean) * m, jnp.array(log_std) * m, m)


log_prob = jax.jit(Gaussian.log_prob)
entropy = jax.jit(Gaussian.entropy)
sample = jax.jit(Gaussian.sample, static_argnames="num")


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.6, -0.5), (-0.4, -2.0)])
def test_density_integrates_to_one(mean: float, log_std: float) -> None:
    policy = gaussian([mean], [log_std], [1.0])
    grid = np.linspace(-MAX_ACTION, MAX_ACTION, 20_001, dtype=np.float32)
    density = np.exp(log_prob(policy, grid[:, None]))
    tail = np.exp(log_std)
    assert abs(np.arctanh(MAX_ACTION)) > abs(mean) + 3.0 * tail  # the clipped tails hold nothing
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=3e-3)


def test_log_prob_known_value() -> None:
    """The normal density at arctanh(a), divided by the slope of tanh, for each dimension."""
    policy = gaussian([0.2, -0.1], [-0.3, 0.1], [1.0, 1.0])
    action = np.float32([0.5, -0.7])
    raw, std = np.arctanh(action), np.exp([-0.3, 0.1])
    normal = np.exp(-0.5 * ((raw - [0.2, -0.1]) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    expected = np.log(normal / (1 - action**2)).sum()
    assert float(log_prob(policy, action)) == pytest.approx(expected, rel=1e-5)


def test_padded_dimensions_contribute_nothing() -> None:
    short = gaussian([0.3, -0.8], [-1.0, 0.2], [1.0, 1.0])
    padded = gaussian([0.3, -0.8, 5.0, -2.0], [-1.0, 0.2, 1.5, -3.0], [1.0, 1.0, 0.0, 0.0])
    action = np.float32([0.1, -0.4])
    wide = np.float32([0.1, -0.4, 0.9, -0.9])
    assert float(log_prob(padded, wide)) == pytest.approx(float(log_prob(short, action)), rel=1e-6)
    assert float(entropy(padded)) == pytest.approx(float(entropy(short)), rel=1e-6)
    np.testing.assert_allclose(padded.mode(), [*short.mode(), 0.0, 0.0])
    samples = sample(padded, jax.random.key(0), 100, 3.0)
    assert not np.any(samples[:, 2:]) and np.all(samples[:, :2])


def test_mean_log_prob_is_the_weighted_mean_of_densities() -> None:
    """In value and gradient, also where the policy is far narrower than the actions are apart."""
    rng = np.random.default_rng(0)
    for log_std in (-0.5, -6.0):
        policy = gaussian([0.3, -0.8, 1.0], [log_std, 0.2, 0.0], [1.0, 1.0, 0.0])
        actions = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
        weights = np.float32([0.5, 0.0, 0.2, 0.2, 0.1])

        def plain(p: Gaussian, actions: np.ndarray, weights: np.ndarray) -> jax.Array:
            spread = jax.tree.map(lambda x: x[None], p)
            return (spread.log_prob(actions) * weights).sum()

        expected = jax.jit(jax.value_and_grad(plain))(policy, actions, weights)
        given = jax.jit(moments)(actions, weights)
        found = jax.jit(jax.value_and_grad(Gaussian.mean_log_prob))(policy, given)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)
        none = jax.jit(moments)(actions, np.zeros(5, np.float32))
        nothing = jax.jit(Gaussian.mean_log_prob)(policy, none)
        assert float(nothing) == 0.0


def test_no_gradient_reaches_padded_dimensions() -> None:
    policy = gaussian([0.3, 0.7], [-1.0, 0.2], [1.0, 0.0])

    def total(p: Gaussian) -> jax.Array:
        return p.log_prob(jnp.array([0.2, 0.3])) + p.entropy() + p.mode().sum()

    gradient = jax.jit(jax.grad(total))(policy)
    assert gradient.mean[1] == 0.0 and gradient.log_std[1] == 0.0
    assert gradient.mean[0] != 0.0 and gradient.log_std[0] != 0.0


def test_samples_have_the_stated_moments() -> None:
    """Half of them with the spread tripled; before the tanh, which is undone here."""
    policy = gaussian([0.2], [-2.0], [1.0])
    num = 20_000
    spread = np.repeat(np.float32([1.0, 3.0]), num)
    raw = np.arctanh(sample(policy, jax.random.key(1), 2 * num, spread)[:, 0])
    std = np.exp(-2.0)
    for part, factor in ((raw[:num], 1.0), (raw[num:], 3.0)):
        assert part.mean() == pytest.approx(0.2, abs=5 * factor * std / np.sqrt(num))
        assert part.std() == pytest.approx(factor * std, rel=0.03)


def test_samples_stay_off_the_borders() -> None:
    policy = gaussian([4.0], [2.0], [1.0])
    samples = sample(policy, jax.random.key(2), 500)
    assert np.abs(samples).max() <= np.float32(MAX_ACTION)
    assert np.isfinite(log_prob(policy, np.float32([1.0])))


def test_entropy_known_value() -> None:
    policy = gaussian([0.0, 1.0], [0.5, -0.5], [1.0, 1.0])
    assert float(entropy(policy)) == pytest.approx(np.log(2 * np.pi * np.e), rel=1e-6)
