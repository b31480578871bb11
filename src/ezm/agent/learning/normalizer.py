"""Running statistics of the tasks' observations (paper, section 2) and, optionally, their returns."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_CLIP = 8.0
LARGEST_RETURN = 5.0
"""Bound of scaled returns. The support of values is symmetric with this bound."""


class Normalizer(eqx.Module):
    """Mean and standard deviation per task and dimension. They are part of the agent, and no gradient trains them."""

    mean: Float[Array, "tasks observation"]
    std: Float[Array, "tasks observation"]
    reward_scale: Float[Array, " tasks"] | None = None
    """Divisor of rewards and values in the networks' units. None leaves them as they are."""

    def __call__(
        self, observation: Float[Array, "*time batch observation"], task: Int[Array, " batch"]
    ) -> Float[Array, "*time batch observation"]:
        """Returns standardised observations, clipped to +-8. A padded dimension stays 0."""
        return jnp.clip((observation - self.mean[task]) / self.std[task], -_CLIP, _CLIP)

    def scaled(
        self, value: Float[Array, "*time batch"], task: Int[Array, " batch"]
    ) -> Float[Array, "*time batch"]:
        """Converts rewards or values from task units to the networks' units."""
        return value if self.reward_scale is None else value / self.reward_scale[task]

    def in_task_units(
        self, value: Float[Array, "*time batch"], task: Int[Array, " batch"]
    ) -> Float[Array, "*time batch"]:
        """Converts rewards or values from the networks' units to task units: the inverse of :meth:`scaled`."""
        return value if self.reward_scale is None else value * self.reward_scale[task]


class RunningStatistics:
    """Counts, means and squared deviations in float64 (Welford), over groups of tasks.

    Tasks of one group share their statistics. They have the same embodiment, so each dimension has the same meaning.

    Args:
        groups: group index of each of the K tasks.
        observation_size: O.
        returns: the scale of the tasks' returns. None leaves rewards as they are.
    """

    def __init__(
        self, groups: Sequence[int], observation_size: int, returns: ReturnScale | None = None
    ):
        self.groups = np.asarray(groups)
        self.returns = returns
        num = int(self.groups.max()) + 1
        self.count = np.zeros(num)
        self.mean = np.zeros((num, observation_size))
        self.deviation = np.zeros((num, observation_size))

    def add(self, task: int, observation: np.ndarray) -> None:
        """Adds one observation (O,) of a task."""
        g = self.groups[task]
        self.count[g] += 1
        delta = observation - self.mean[g]
        self.mean[g] += delta / self.count[g]
        self.deviation[g] += delta * (observation - self.mean[g])

    def normalizer(self) -> Normalizer:
        """Returns the normaliser for all tasks with the present statistics."""
        variance = self.deviation / np.maximum(self.count, 1.0)[:, None]
        std = np.where(self.count[:, None] > 1, np.sqrt(variance) + 1e-2, 1.0)
        mean, std = self.mean[self.groups], std[self.groups]
        scale = None if self.returns is None else jnp.asarray(self.returns.scale())
        return Normalizer(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32), scale)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays to save, by name. They are not copies."""
        own = {"count": self.count, "mean": self.mean, "deviation": self.deviation}
        if self.returns is None:
            return own
        return own | {f"return_{name}": value for name, value in self.returns.state().items()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Copies saved arrays into the statistics."""
        for name, value in self.state().items():
            value[...] = state[name]


class ReturnScale:
    """The scale of each task's discounted return, from the rewards of its environment.

    Along an episode, G <- discount G + reward. The scale is the larger of the standard deviation of G and
    max |G| / :data:`LARGEST_RETURN` (SimbaV2, Lee et al. 2025, section 4, and FlashSAC). Returns divided by the scale
    fill the support [-5, 5] and, except for bootstrapped errors, never leave it.

    Args:
        discount: (K,) of each task.
    """

    def __init__(self, discount: np.ndarray):
        self._discount = np.asarray(discount, np.float64)
        num = len(self._discount)
        self.running = np.zeros(num)
        """G of the running episode."""
        self.count = np.zeros(num)
        self.mean = np.zeros(num)
        self.deviation = np.zeros(num)
        self.largest = np.zeros(num)
        """max |G|."""

    def add(self, task: int, reward: float, *, ended: bool) -> None:
        """Adds the reward of a step, the last of its episode if ``ended``."""
        g = self._discount[task] * self.running[task] + reward
        self.count[task] += 1
        delta = g - self.mean[task]
        self.mean[task] += delta / self.count[task]
        self.deviation[task] += delta * (g - self.mean[task])
        self.largest[task] = max(self.largest[task], abs(g))
        self.running[task] = 0.0 if ended else g

    def scale(self) -> Float[np.ndarray, " tasks"]:
        """Returns each task's scale, (K,) float32. It is 1 until a task gives rewards that float32 can divide by."""
        variance = self.deviation / np.maximum(self.count, 1.0)
        scale = np.maximum(np.sqrt(variance), self.largest / LARGEST_RETURN)
        return np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, not copies."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}
