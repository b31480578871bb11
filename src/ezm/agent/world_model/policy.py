"""The tanh-squashed Gaussian policy, masked for tasks with fewer action dimensions than the suite."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

# The largest absolute value of an action: beyond it the inverse of tanh has no float32 precision.
MAX_ACTION = 0.99


class Moments(NamedTuple):
    """Sufficient statistics of weighted actions for their log-likelihood, see :func:`moments`."""

    weight: Float[Array, "*batch 1"]
    """Sum of the weights."""
    mean: Float[Array, "*batch action"]
    """Weighted mean of the actions before the tanh."""
    variance: Float[Array, "*batch action"]
    """Weighted sum of squared distances to the mean."""
    squash: Float[Array, "*batch action"]
    """Weighted sum of log(1 - a^2), the logarithm of tanh's slope."""


def moments(actions: Float[Array, "*batch R action"], weights: Float[Array, "*batch R"]) -> Moments:
    """Returns the moments of weighted squashed actions, for :meth:`Gaussian.mean_log_prob`."""
    actions = jnp.clip(actions, -MAX_ACTION, MAX_ACTION)
    raw, share = jnp.arctanh(actions), weights[..., None]
    total = weights.sum(-1)[..., None]
    mean = (share * raw).sum(-2) / jnp.maximum(total, 1e-8)
    variance = (share * jnp.square(raw - mean[..., None, :])).sum(-2)
    squash = (share * jnp.log1p(-jnp.square(actions))).sum(-2)
    return Moments(total, mean, variance, squash)


class Gaussian(eqx.Module):
    """A tanh-squashed Gaussian. ``mean`` and ``log_std`` apply before the tanh.

    ``mask`` is 1 on the task's own dimensions.
    """

    mean: Float[Array, "*batch action"]
    log_std: Float[Array, "*batch action"]
    mask: Float[Array, "*batch action"]

    def mode(self) -> Float[Array, "*batch action"]:
        """Returns the squashed mean, the deterministic action."""
        return self.squash(self.mean)

    def squash(self, x: Float[Array, "*samples action"]) -> Float[Array, "*samples action"]:
        """Returns tanh(x), clipped away from +-1, with 0 in padded dimensions."""
        return jnp.clip(jnp.tanh(x), -MAX_ACTION, MAX_ACTION) * self.mask

    def sample(
        self,
        key: PRNGKeyArray,
        num: int,
        spread: float | Float[Array, ""] | Float[Array, " num"] = 1.0,
    ) -> Float[Array, "*batch num action"]:
        """Samples ``num`` actions. ``spread``, a scalar or one number per sample, multiplies the standard deviation."""
        shape = (*self.mean.shape[:-1], num, self.mean.shape[-1])
        noise = (
            jax.random.normal(key, shape) * jnp.broadcast_to(jnp.asarray(spread), (num,))[:, None]
        )
        raw = self.mean[..., None, :] + noise * jnp.exp(self.log_std)[..., None, :]
        return jnp.clip(jnp.tanh(raw), -MAX_ACTION, MAX_ACTION) * self.mask[..., None, :]

    def one(self, key: PRNGKeyArray) -> Float[Array, "*batch action"]:
        """Samples one action, through which gradients reach the mean and the standard deviation."""
        return self.sample(key, 1)[..., 0, :]

    def log_prob(self, action: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """Returns the log density of a squashed action over the task's own dimensions."""
        action = jnp.clip(action, -MAX_ACTION, MAX_ACTION)
        raw = jnp.arctanh(action)
        normal = -0.5 * (
            jnp.square((raw - self.mean) / jnp.exp(self.log_std))
            + 2.0 * self.log_std
            + np.log(2.0 * np.pi)
        )
        return ((normal - jnp.log1p(-jnp.square(action))) * self.mask).sum(-1)

    def mean_log_prob(self, actions: Moments) -> Float[Array, "*batch"]:
        """Returns sum_k w_k log_prob(a_k), from the moments of the actions.

        The moments do not depend on the policy, so its gradient need not pass through R densities.
        """
        weight, mean, variance, squash = actions
        distance = (variance + weight * jnp.square(mean - self.mean)) * jnp.exp(-2.0 * self.log_std)
        normal = -0.5 * (distance + weight * (2.0 * self.log_std + np.log(2.0 * np.pi)))
        return ((normal - squash) * self.mask).sum(-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """Returns the entropy of the Gaussian before the tanh, over the task's own dimensions."""
        per_dimension = self.log_std + 0.5 * np.log(2.0 * np.pi * np.e)
        return (per_dimension * self.mask).sum(-1)
