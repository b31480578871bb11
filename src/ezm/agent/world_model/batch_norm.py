"""Batch normalisation (Ioffe & Szegedy 2015), the norm of the heads in the authors' code of EZ-M.

The running statistics are arrays of the model, so that the EMA copy, checkpoints and acting have them. The layers of
:func:`training` normalise by the batch. Their gradient with respect to a running statistic is its deviation from the
batch, whatever the loss. :func:`with_statistics` takes the step along this gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_RATE = 0.1
"""Weight of a batch in the running statistics, as in PyTorch."""
_EPSILON = 1e-5

Tree = TypeVar("Tree")


@jax.custom_vjp
def _tracked(
    y: Array, running: tuple[Array, Array], batch: tuple[Array, Array]
) -> Float[Array, "*batch features"]:
    """Returns ``y``. The gradient with respect to ``running`` is running - batch, whatever the loss."""
    return y


def _tracked_forward(y: Array, running: Any, batch: Any) -> tuple[Array, Any]:
    return y, (jax.tree.map(jnp.subtract, running, batch), jax.tree.map(jnp.zeros_like, batch))


def _tracked_backward(saved: tuple[Any, Any], g: Array) -> tuple[Array, Any, Any]:
    deviation, nothing = saved
    return g, deviation, nothing


_tracked.defvjp(_tracked_forward, _tracked_backward)


class BatchNorm(eqx.Module):
    """Normalises each feature over the batch, then scales and shifts it.

    In an :class:`ezm.agent.world_model.layers.Ensemble`, the arrays have a leading axis of members.
    """

    scale: Float[Array, "*members features"]
    bias: Float[Array, "*members features"]
    mean: Float[Array, "*members features"]
    """Running mean."""
    variance: Float[Array, "*members features"]
    """Running variance."""
    training: bool = eqx.field(static=True, default=False)
    """Normalise by the statistics of the batch, which are taken over all axes but the last."""

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        mean, variance = self.mean, self.variance
        if self.training:
            axes = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axes), x.var(axes)
        y = (x - mean) * jax.lax.rsqrt(variance + _EPSILON)
        if self.training:
            batch = jax.lax.stop_gradient((mean, variance))
            y = _tracked(y, (self.mean, self.variance), batch)
        return self.scale * y + self.bias


def batch_norm(features: int) -> BatchNorm:
    """Returns an untrained layer, which leaves its input as it is."""
    ones, zeros = jnp.ones(features), jnp.zeros(features)
    return BatchNorm(scale=ones, bias=zeros, mean=zeros.copy(), variance=ones.copy())


def _each(change: Callable[..., BatchNorm], model: Tree, *others: Any) -> Tree:
    """Returns the model with changed layers. ``change`` gets a layer of each of the trees."""

    def changed(layer: Any, *same: Any) -> Any:
        return change(layer, *same) if isinstance(layer, BatchNorm) else layer

    return jax.tree.map(changed, model, *others, is_leaf=lambda x: isinstance(x, BatchNorm))


def training(model: Tree) -> Tree:
    """Returns the model with layers that normalise by the batch."""
    return _each(lambda layer: replace(layer, training=True), model)


def with_fixed_statistics(model: Tree) -> Tree:
    """Returns the model for a further pass through the same layers, which leaves the running statistics alone."""
    fixed = jax.lax.stop_gradient
    return _each(
        lambda layer: replace(layer, mean=fixed(layer.mean), variance=fixed(layer.variance)), model
    )


def without_statistics(gradient: Tree) -> Tree:
    """Returns a gradient that is 0 with respect to the running statistics: no optimizer moves them."""
    return _each(
        lambda layer: replace(
            layer, mean=jnp.zeros_like(layer.mean), variance=jnp.zeros_like(layer.variance)
        ),
        gradient,
    )


def with_statistics(after: Tree, before: Tree, gradient: Tree) -> Tree:
    """Returns the model ``after`` a gradient step, with the running statistics of ``before`` moved towards the batch.

    Args:
        after: the model after the optimizer's step.
        before: the model that the gradient was taken at.
        gradient: of the loss of :func:`training`'s model.
    """

    def moved(new: BatchNorm, old: BatchNorm, slope: BatchNorm) -> BatchNorm:
        mean, variance = old.mean - _RATE * slope.mean, old.variance - _RATE * slope.variance
        return replace(new, mean=mean, variance=variance)

    return _each(moved, after, before, gradient)
