"""Candidate actions of a node: samples of a continuous policy, or all actions of a discrete policy."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ezm.config import PlannerConfig

NO_ACTION = -1e9
"""Prior logit of a slot that holds no action."""


def exists(logits: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Returns whether a slot with this prior logit holds an action."""
    return logits > 0.5 * NO_ACTION


class Candidates(NamedTuple):
    """K slots for one action each, at nodes of any batch shape."""

    actions: Float[Array, "*batch K action"]
    logits: Float[Array, "*batch K"]
    """Prior logits. They are :data:`NO_ACTION` or less where the slot is padding."""

    @property
    def exists(self) -> Bool[Array, "*batch K"]:
        """Whether a slot holds an action."""
        return exists(self.logits)

    def padded(self, slots: int, action_size: int) -> Candidates:
        """Returns the candidates padded with empty slots, and each action padded with zeros.

        Padding gives all tasks of a mixed suite one shape.
        """
        num, size = self.actions.shape[-2:]
        batch = [(0, 0)] * (self.logits.ndim - 1)
        return Candidates(
            jnp.pad(self.actions, [*batch, (0, slots - num), (0, action_size - size)]),
            jnp.pad(self.logits, [*batch, (0, slots - num)], constant_values=NO_ACTION),
        )


@runtime_checkable
class SampledPolicy(Protocol):
    """A policy over actions that can be sampled, such as ``ezm.agent.world_model.Gaussian``."""

    def mode(self) -> Float[Array, "*batch action"]:
        """Returns the action without noise."""
        ...

    def sample(self, key: PRNGKeyArray, num: int, spread: Any = 1.0) -> Array:
        """Samples ``num`` actions, shape (*batch, num, action)."""
        ...


def sampled(
    key: PRNGKeyArray,
    policy: SampledPolicy,
    num: int,
    spread: Any = 1.0,
    *,
    include_mean: bool = False,
) -> Candidates:
    """Returns ``num`` samples of a continuous policy with equal priors. With ``include_mean`` the first is its mode."""
    actions = policy.sample(key, num, spread)
    if include_mean:
        actions = actions.at[..., 0, :].set(policy.mode())
    return Candidates(actions, jnp.zeros(actions.shape[:-1], actions.dtype))


def enumerated(logits: Float[Array, "*batch K"]) -> Candidates:
    """Returns all K actions of a discrete policy as one-hot vectors. A logit of :data:`NO_ACTION` masks an action."""
    one_hot = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    return Candidates(jnp.broadcast_to(one_hot, (*logits.shape, logits.shape[-1])), logits)


def root_candidates(key: PRNGKeyArray, policy: SampledPolicy, config: PlannerConfig) -> Candidates:
    """Returns the root's samples: some from the policy, the others with another spread (paper, section 3: wider)."""
    wide = config.root_actions - config.policy_actions
    spread = jnp.array([1.0] * config.policy_actions + [config.spread] * wide)
    return sampled(key, policy, config.root_actions, spread, include_mean=config.include_mean)
