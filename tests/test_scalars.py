"""Rung 1 of the ladder: scalars survive the way into a categorical distribution and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm.agent.world_model import Support, cross_entropy, h, h_inverse

SUPPORTS = {
    "published": Support(-299.0, 299.0, 51, "h"),
    "asymmetric": Support(-17.0, 187.0, 101, "linear"),
    "positive": Support(-0.85, 9.35, 101, "linear"),
    "asymmetric h": Support(-10.0, 1000.0, 51, "h"),
}
support = pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
jit = jax.jit(lambda x: (h(x), h_inverse(h(x))))


@jax.jit
def two_hot_and_back(support: Support, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    probabilities = support.two_hot(x)
    return probabilities, support.mean(jnp.log(probabilities))


@jax.jit
def cross_entropies(x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the target's own logits, and of these with noise."""
    target = SUPPORTS["asymmetric"].two_hot(x)
    best = jnp.log(target + 1e-9)
    return cross_entropy(target, best), cross_entropy(target, best + noise)


def test_h_known_values() -> None:
    x = jnp.array([0.0, 3.0, -3.0, 99.0, -9999.0])
    expected = [0.0, 1.003, -1.003, 9.099, -(99.0 + 9.999)]
    np.testing.assert_allclose(h(x), expected, rtol=1e-6)


def test_round_trip_of_h_in_float32() -> None:
    magnitudes = np.concatenate(([0.0], np.geomspace(1e-3, 1e4, 2000)))
    x = np.concatenate((-magnitudes, magnitudes)).astype(np.float32)
    _, back = jit(x)
    # Below 1, h itself rounds at the scale of 1: the error is absolute there.
    np.testing.assert_array_less(np.abs(back - x), 1e-5 * np.maximum(1.0, np.abs(x)))


def test_h_increases() -> None:
    transformed, _ = jit(np.linspace(-1e4, 1e4, 2001, dtype=np.float32))
    assert (np.diff(transformed) > 0).all()


@support
def test_two_hot_keeps_the_scalar(support: Support) -> None:
    x = np.linspace(support.low, support.high, 1001, dtype=np.float32)
    probabilities, back = two_hot_and_back(support, x)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, atol=1e-5)
    assert (probabilities >= 0.0).all() and ((probabilities > 0.0).sum(-1) <= 2).all()
    # Bin positions are rounded in transformed space, where a bin is worth up to a few units.
    np.testing.assert_allclose(back, x, atol=1e-4 * (support.high - support.low))


@support
def test_values_outside_are_clipped(support: Support) -> None:
    low, high = support.two_hot(jnp.array([support.low - 100.0, support.high + 1e5]))
    assert int(low.argmax()) == 0 and float(low[0]) == pytest.approx(1.0)
    assert int(high.argmax()) == support.bins - 1 and float(high[-1]) == pytest.approx(1.0)


def test_two_hot_between_two_bins() -> None:
    probabilities = Support(0.0, 4.0, 5, "linear").two_hot(jnp.float32(1.25))
    np.testing.assert_allclose(probabilities, [0.0, 0.75, 0.25, 0.0, 0.0], atol=1e-6)


@support
def test_neutral_logits_mean_about_nothing(support: Support) -> None:
    """Against the middle of the range, where zero logits would start."""
    neutral = float(support.mean(support.neutral_logits()))
    assert abs(neutral) < 0.02 * (support.high - support.low)


@given(x=st.floats(-17.0, 187.0), seed=st.integers(0, 1000), scale=st.floats(0.01, 10.0))
def test_cross_entropy_is_least_at_the_target(x: float, seed: int, scale: float) -> None:
    noise = scale * np.random.default_rng(seed).normal(size=101)
    best, other = cross_entropies(np.float32(x), noise.astype(np.float32))
    assert best <= other + 1e-6


def test_cross_entropy_known_values() -> None:
    target = jnp.array([0.25, 0.75])
    assert float(cross_entropy(target, jnp.zeros(2))) == pytest.approx(np.log(2.0))
    logits = jnp.log(jnp.array([0.5, 0.25]))  # probabilities 2/3 and 1/3
    expected = -0.25 * np.log(2 / 3) - 0.75 * np.log(1 / 3)
    assert float(cross_entropy(target, logits)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("share", [-0.9, 0.9])
def test_a_head_reaches_values_far_from_zero(share: float) -> None:
    """From its neutral start within a few hundred steps, near both ends of a fine, asymmetric support."""
    support = Support(-16.0, 176.0, 101, "linear")
    target = share * support.high if share > 0 else -share * support.low
    features = jax.nn.standardize(jnp.linspace(-1.0, 1.0, 64))
    head = (jnp.zeros((64, 101)), support.neutral_logits())
    optimizer = optax.adam(1e-3)

    def predicted(head: tuple[jax.Array, jax.Array]) -> jax.Array:
        return features @ head[0] + head[1]

    @jax.jit
    def update(head: Any, state: Any) -> Any:
        gradient = jax.grad(
            lambda h: cross_entropy(support.two_hot(jnp.asarray(target)), predicted(h))
        )(head)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(head, change), state

    state = optimizer.init(head)
    for _ in range(500):
        head, state = update(head, state)
    assert float(support.mean(predicted(head))) == pytest.approx(target, rel=0.03, abs=1.0)
