"""Model predictive path integral control over the root's action, before the search (MPPI, Williams et al. 2015).

In many dimensions, the best of K samples of a policy differs from its mean mostly in directions that do not matter. The
weighted mean of the samples keeps the direction that matters and averages the others away. A few rounds go as far as
the model sees. TD-MPC2 (Hansen et al. 2024) plans this way over sequences of actions, and BMPC (Wang et al. 2025)
imitates such plans. Here MPPI plans a single action. Its Q bootstraps from the value of the search's leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ezm.agent.world_model import Gaussian, moments
from ezm.config import PlannerConfig


def fitted(
    policy: Gaussian,
    actions: Float[Array, "batch N action"],
    q_values: Float[Array, "batch N"],
    temperature: float,
    least_std: Float[Array, "batch action"],
) -> Gaussian:
    """Returns the Gaussian of the weighted actions before the tanh.

    The weights are a softmax of ``temperature`` times Q, rescaled to [0, 1] over the actions.

    Args:
        policy: gives the mask.
        actions: squashed.
        q_values: of the actions.
        temperature: 0 weighs all actions alike.
        least_std: lower bound of the standard deviation in each dimension.
    """
    low, high = q_values.min(-1, keepdims=True), q_values.max(-1, keepdims=True)
    weights = jax.nn.softmax(temperature * (q_values - high) / jnp.maximum(high - low, 1e-8))
    found = moments(actions, weights)
    std = jnp.maximum(jnp.sqrt(found.variance), least_std)
    return Gaussian(found.mean * policy.mask, jnp.log(std) * policy.mask, policy.mask)


def mppi(
    key: PRNGKeyArray,
    policy: Gaussian,
    value_of: Callable[[Float[Array, "batch N action"]], Float[Array, "batch N"]],
    config: PlannerConfig,
) -> Gaussian:
    """Returns ``policy`` after ``config.mppi.rounds`` rounds of sampling, weighing and fitting.

    No round's standard deviation falls below ``config.mppi.least_std`` times the standard deviation of ``policy``.

    Args:
        key: draws the samples.
        policy: at the root.
        value_of: Q of squashed actions.
        config: of the rounds.
    """
    least = config.mppi.least_std * jnp.exp(policy.log_std)
    better = policy
    for k in jax.random.split(key, config.mppi.rounds):
        actions = better.sample(k, config.mppi.samples)
        better = fitted(better, actions, value_of(actions), config.mppi.temperature, least)
    return better
