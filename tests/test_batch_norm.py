"""Batch normalisation: known values, running statistics that no optimizer moves, and none of it in acting."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.agent.world_model.batch_norm import (
    BatchNorm,
    batch_norm,
    training,
    with_fixed_statistics,
    with_statistics,
    without_statistics,
)

X = jnp.array(
    [[[1.0, 10.0], [3.0, 10.0]], [[5.0, 14.0], [7.0, 14.0]]]
)  # mean (4, 12), variance (5, 4)


def test_in_training_each_feature_is_normalised_over_all_axes_but_the_last() -> None:
    layer = replace(
        training(batch_norm(2)), scale=jnp.array([1.0, 2.0]), bias=jnp.array([0.0, 1.0])
    )
    y = layer(X)
    np.testing.assert_allclose(y[..., 0].ravel(), np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-5)
    np.testing.assert_allclose(y[..., 1].ravel(), [-1, -1, 3, 3], rtol=1e-5)


def test_in_acting_a_sample_does_not_depend_on_the_others() -> None:
    layer = replace(batch_norm(2), mean=jnp.array([4.0, 12.0]), variance=jnp.array([5.0, 4.0]))
    np.testing.assert_allclose(layer(X), training(batch_norm(2))(X), rtol=1e-5)
    np.testing.assert_array_equal(layer(X[:1, :1]), layer(X)[:1, :1])
    np.testing.assert_allclose(batch_norm(2)(X), X, rtol=1e-4)  # untrained: the identity


@pytest.mark.parametrize("weight", [1.0, 7.0])
def test_running_statistics_move_a_tenth_towards_the_batch_whatever_the_loss(weight: float) -> None:
    layer = batch_norm(2)
    gradient = jax.grad(lambda model: weight * jnp.sum(training(model)(X) ** 3))(layer)
    moved = with_statistics(layer, layer, gradient)
    np.testing.assert_allclose(moved.mean, [0.4, 1.2], rtol=1e-6)
    np.testing.assert_allclose(moved.variance, [1.4, 1.3], rtol=1e-6)
    still = without_statistics(gradient)
    assert not np.any(still.mean) and not np.any(still.variance)
    np.testing.assert_array_equal(still.scale, gradient.scale)


def test_a_second_pass_moves_no_statistics_but_trains_the_layer() -> None:
    def loss(model: BatchNorm) -> jax.Array:
        trained = training(model)
        return jnp.sum(trained(X) ** 3) + jnp.sum(with_fixed_statistics(trained)(X) ** 3)

    layer = batch_norm(2)
    one = jax.grad(lambda model: jnp.sum(training(model)(X) ** 3))(layer)
    both = jax.grad(loss)(layer)
    np.testing.assert_allclose(both.mean, one.mean)
    np.testing.assert_allclose(both.variance, one.variance)
    np.testing.assert_allclose(both.scale, 2.0 * one.scale, rtol=1e-6)


def test_the_gradient_of_the_input_is_that_of_the_plain_formula() -> None:
    def plain(x: jax.Array) -> jax.Array:
        y = (x - x.mean((0, 1))) / jnp.sqrt(x.var((0, 1)) + 1e-5)
        return jnp.sum(jnp.sin(y))

    ours = jax.grad(lambda x: jnp.sum(jnp.sin(training(batch_norm(2))(x))))(X)
    np.testing.assert_allclose(ours, jax.grad(plain)(X), atol=1e-6)


def test_other_parts_of_a_model_stay_as_they_are() -> None:
    model = (batch_norm(2), eqx.nn.Linear(2, 2, key=jax.random.key(0)))
    changed = training(model)
    assert changed[0].training and not model[0].training
    assert changed[1] is model[1] or eqx.tree_equal(changed[1], model[1])
