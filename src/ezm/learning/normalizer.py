"""Running mean and variance of observations, per dimension (paper, section 2)."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_CLIP = 8.0


class Normalizer(eqx.Module):
    """Mean and standard deviation per task and dimension; part of the agent, never trained by gradient."""

    mean: Float[Array, "tasks observation"]
    std: Float[Array, "tasks observation"]

    def __call__(
        self, observation: Float[Array, "*time batch observation"], task: Int[Array, " batch"]
    ) -> Float[Array, "*time batch observation"]:
        """Standardised observations, clipped to +-8; a padded dimension stays 0."""
        return jnp.clip((observation - self.mean[task]) / self.std[task], -_CLIP, _CLIP)


class RunningStatistics:
    """Counts, means and squared deviations in float64 (Welford), over groups of tasks.

    Tasks of one group (the same body, so the same meaning of each dimension) share their statistics.

    Args:
        groups: group index of each of the K tasks.
        observation_size: O.
    """

    def __init__(self, groups: Sequence[int], observation_size: int):
        self.groups = np.asarray(groups)
        num = int(self.groups.max()) + 1
        self.count = np.zeros(num)
        self.mean = np.zeros((num, observation_size))
        self.deviation = np.zeros((num, observation_size))

    def add(self, task: int, observation: np.ndarray) -> None:
        """Take in one observation (O,) of a task."""
        g = self.groups[task]
        self.count[g] += 1
        delta = observation - self.mean[g]
        self.mean[g] += delta / self.count[g]
        self.deviation[g] += delta * (observation - self.mean[g])

    def normalizer(self) -> Normalizer:
        """The normaliser for all tasks as of now."""
        variance = self.deviation / np.maximum(self.count, 1.0)[:, None]
        std = np.where(self.count[:, None] > 1, np.sqrt(variance) + 1e-2, 1.0)
        mean, std = self.mean[self.groups], std[self.groups]
        return Normalizer(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))

    def state(self) -> dict[str, np.ndarray]:
        """Arrays to be saved."""
        return {"count": self.count, "mean": self.mean, "deviation": self.deviation}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take saved arrays back."""
        for name, value in state.items():
            getattr(self, name)[...] = value
