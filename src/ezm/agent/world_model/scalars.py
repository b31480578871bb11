"""Scalars as categorical distributions: two-hot targets over transformed bins (paper, section 2).

The target of a reward or value x has its mass on the two bins next to h(x). A network's logits become a scalar by the
inverse transform of their mean. The transform is h(x) = sign(x)(sqrt(|x| + 1) - 1) + eps x (Pohlen et al. 2018).
"""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 0.001


def h(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Compresses large magnitudes: sign(x)(sqrt(|x| + 1) - 1) + eps x."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + EPSILON * x


def h_inverse(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Inverts :func:`h`, in the form that keeps float32 precision.

    The textbook form ((sqrt(1 + 4 eps y) - 1) / (2 eps))^2 - 1 with y = |x| + 1 + eps subtracts two nearly
    equal numbers. The equivalent form (2 y / (sqrt(1 + 4 eps y) + 1))^2 - 1 does not.
    """
    y = jnp.abs(x) + 1.0 + EPSILON
    root = 2.0 * y / (jnp.sqrt(1.0 + 4.0 * EPSILON * y) + 1.0)
    return jnp.sign(x) * (jnp.square(root) - 1.0)


class Support(eqx.Module):
    """Evenly spaced bins in transformed space, from ``low`` to ``high`` (in units of the scalar)."""

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    transform: Literal["h", "linear"] = eqx.field(static=True)

    def _forward(self, x: Array) -> Array:
        return h(x) if self.transform == "h" else x

    def _inverse(self, x: Array) -> Array:
        return h_inverse(x) if self.transform == "h" else x

    @property
    def centers(self) -> Float[Array, " bins"]:
        """Bin positions in transformed space."""
        low, high = (self._forward(jnp.float32(bound)) for bound in (self.low, self.high))
        return jnp.linspace(low, high, self.bins)

    def position(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the position of x in units of bins, clipped to [0, bins - 1]."""
        centers = self.centers
        width = (centers[-1] - centers[0]) / (self.bins - 1)
        return jnp.clip((self._forward(x) - centers[0]) / width, 0.0, self.bins - 1.0)

    def two_hot(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape bins"]:
        """Returns probabilities on the two bins next to x, whose :meth:`expectation` is x (clipped to the range)."""
        distance = self.position(x)[..., None] - jnp.arange(self.bins)
        return jnp.maximum(0.0, 1.0 - jnp.abs(distance))

    def mean(self, logits: Float[Array, "*shape bins"]) -> Float[Array, "*shape"]:
        """Returns the scalar that the logits predict."""
        return self.expectation(jax.nn.softmax(logits))

    def expectation(self, probabilities: Float[Array, "*shape bins"]) -> Float[Array, "*shape"]:
        """Returns the scalar that the probabilities predict."""
        return self._inverse(probabilities @ self.centers)

    def neutral_logits(self) -> Float[Array, " bins"]:
        """Returns logits concentrated around 0, so that an untrained head predicts about 0.

        With zero logits an asymmetric support would start at its middle, a large value everywhere. The logits stop at
        -10, because gradient steps must be able to reach a far bin. With logits of -80 there, values stopped at half
        of their support (docs/lab-notes.md).
        """
        distance = jnp.abs(jnp.arange(self.bins) - self.position(jnp.float32(0.0)))
        return -jnp.minimum(distance, 10.0)


def cross_entropy(
    target: Float[Array, "*#shape bins"], logits: Float[Array, "*#shape bins"]
) -> Array:
    """Returns -sum target log softmax(logits), of the shape to which both broadcast."""
    return -(target * jax.nn.log_softmax(logits)).sum(-1)
