"""Refinement of the root's policy before the search: the cross-entropy method with soft weights.

A search among K samples of a policy improves on it by what the best of K happens to gain: in 19 dimensions little of a
sample's distance lies in the direction that helps. The mean of weighted samples keeps that direction and averages the
others away; a few rounds go as far as the model sees. TD-MPC2 (Hansen et al. 2024) plans so over sequences of actions
(MPPI, Williams et al. 2015), BMPC (Wang et al. 2025) imitates such plans. Here it is one action: the value behind it is
that of the search's leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ezm.config import PlannerConfig
from ezm.world_model import Gaussian


def fitted(
    policy: Gaussian,
    actions: Float[Array, "batch N action"],
    q_values: Float[Array, "batch N"],
    temperature: float,
    least_std: Float[Array, "batch action"],
) -> Gaussian:
    """The Gaussian of the weighted actions: weights are a softmax of ``temperature`` times Q in units of its range.

    Args:
        policy: whose mask the result has.
        actions: squashed.
        q_values: of the actions.
        temperature: 0 weighs all alike.
        least_std: bound of the standard deviation from below, in each dimension.
    """
    low, high = q_values.min(-1, keepdims=True), q_values.max(-1, keepdims=True)
    weights = jax.nn.softmax(temperature * (q_values - high) / jnp.maximum(high - low, 1e-8))
    raw, share = jnp.arctanh(actions), weights[..., None]
    mean = (share * raw).sum(-2)
    variance = (share * jnp.square(raw - mean[..., None, :])).sum(-2)
    std = jnp.maximum(jnp.sqrt(variance), least_std)
    # A masked dimension has no variance: its logarithm is kept finite by the bound.
    return Gaussian(mean * policy.mask, jnp.log(std) * policy.mask, policy.mask)


def refine(
    key: PRNGKeyArray,
    policy: Gaussian,
    value_of: Callable[[Float[Array, "batch N action"]], Float[Array, "batch N"]],
    config: PlannerConfig,
) -> Gaussian:
    """``config.refinements`` rounds of sampling, weighing and fitting, from ``policy`` on.

    No round's standard deviation falls below ``config.refinement_least_std`` times that of ``policy``.

    Args:
        key: draws the samples.
        policy: at the root.
        value_of: Q of squashed actions.
        config: of the rounds.
    """
    least = config.refinement_least_std * jnp.exp(policy.log_std)
    better = policy
    for k in jax.random.split(key, config.refinements):
        actions = better.sample(k, config.refinement_samples)
        better = fitted(better, actions, value_of(actions), config.refinement_temperature, least)
    return better
