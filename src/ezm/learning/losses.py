"""The loss of one batch, unrolled through the dynamics (paper, section 6). Time is the first axis."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ezm.config import LossConfig
from ezm.replay import Batch, Searches
from ezm.world_model import Context, Gaussian, Moments, WorldModel, cross_entropy


class Targets(NamedTuple):
    """What the model is trained towards, for the U + 1 states of each unrolled sample."""

    value: Float[Array, "states batch"]
    policy: Moments
    """(states, batch, ...) the root actions of the searches, weighted."""
    peak: Float[Array, "states batch"]
    """The largest of their weights."""
    searched: Bool[Array, "states batch"]
    """Whether there is a search, and so a policy target."""
    latent: Float[Array, "unroll batch latent"]
    """EMA encoder's latent of each next observation ("mse" consistency)."""
    q_spread: Float[Array, " tasks"]
    """Mean range of Q over the root actions, per task."""
    renewed: Searches
    """The searches made for this batch, (N, ...), to be stored."""


class Masks(NamedTuple):
    """1 where a loss term applies, 0 in padding behind the end of an episode."""

    state: Float[Array, "states batch"]
    """Real states that are not terminal: there is something to decide."""
    value: Float[Array, "states batch"]
    """Real states, and everything behind a termination (an absorbing state of value 0)."""
    transition: Float[Array, "unroll batch"]
    """Real transitions."""
    reward: Float[Array, "unroll batch"]
    """Real transitions, and everything behind a termination (reward 0)."""
    alive: Float[Array, "unroll batch"]
    """1 where the state after the transition has a future: 0 at and behind a termination."""


def masks(batch: Batch, unroll: int) -> Masks:
    """Where each term of the loss applies."""
    i = jnp.arange(unroll + 1)[:, None]
    length, terminated = batch.length, batch.terminated
    terminal = terminated & (i >= length)
    real, step = i <= length, i[:unroll] < length
    return Masks(
        state=(real & ~terminal).astype(jnp.float32),
        value=(real | terminated).astype(jnp.float32),
        transition=step.astype(jnp.float32),
        reward=(step | terminated).astype(jnp.float32),
        alive=(~terminal[1:]).astype(jnp.float32),
    )


def _mean(loss: Float[Array, "time batch"], weight: Array) -> Float[Array, ""]:
    """Weighted mean over the batch, summed over time."""
    return (loss * weight).mean(1).sum()


def policy_loss(policy: Gaussian, target: Moments) -> Float[Array, "states batch"]:
    """-sum_k w_k log pi(a_k): with all weight on one action, the paper's -log pi(best action)."""
    return -policy.mean_log_prob(target)


def cosine_distance(x: Array, y: Array) -> Array:
    """Negative cosine between the last axes."""

    def unit(v: Array) -> Array:
        return v / (jnp.linalg.norm(v, axis=-1, keepdims=True) + 1e-5)

    return -(unit(x) * unit(y)).sum(-1)


def unrolled_loss(
    model: WorldModel,
    observation: Float[Array, "states batch observation"],
    batch: Batch,
    targets: Targets,
    context: Context,
    discount: Float[Array, " batch"],
    config: LossConfig,
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Float[Array, " batch"]]]:
    """Total loss; its parts for logging, and the priorities |value - target| of the first states.

    ``observation`` holds the normalised observations of the U + 1 unrolled states; ``batch`` the raw window.
    """
    unroll, weight = config.unroll, batch.weight
    mask = masks(batch, unroll)
    everywhere = jax.tree.map(lambda x: jnp.broadcast_to(x, (unroll + 1, *x.shape)), context)
    leaving = everywhere[:unroll]
    code = model.code(batch.action[:unroll], leaving)
    latents = [model.represent(observation[0], context)]
    for i in range(unroll):
        latent = model.next(latents[-1], code[i], context)
        keep = config.latent_gradient
        latents.append(keep * latent + (1.0 - keep) * jax.lax.stop_gradient(latent))
    z = jnp.stack(latents)
    # One call for all steps: only the dynamics have to go step by step.
    reward_logits = model.reward_logits(z[:unroll], code, leaving)
    value_logits, policy = model.predict(z, everywhere)

    reward_target = model.reward_support.two_hot(batch.reward[:unroll])
    value_target = model.value_support.two_hot(targets.value)
    value_log = jax.nn.log_softmax(value_logits)
    value = model.value_support.expectation(jnp.exp(value_log))
    reward_loss = _mean(cross_entropy(reward_target, reward_logits) * mask.reward, weight)
    value_loss = -_mean((value_target * value_log).sum(-1).mean(0) * mask.value, weight)

    taught = mask.state * targets.searched
    # Few searched states stand for all: the term keeps its size relative to the others.
    taught *= mask.state.sum() / jnp.maximum(taught.sum(), 1.0)
    policy_term = _mean(policy_loss(policy, targets.policy) * taught, weight)
    entropy = _mean(policy.entropy() * taught, weight)

    consistency = jnp.zeros(())
    if config.consistency == "cosine":
        assert model.projector is not None and model.predictor is not None
        encoded = model.represent(observation[1:], leaving)
        target = jax.lax.stop_gradient(model.projector(encoded))
        predicted = model.predictor(model.projector(z[1:]))
        consistency = _mean(cosine_distance(predicted, target) * mask.transition, weight)
    elif config.consistency == "mse":
        distance = jnp.square(z[1:] - targets.latent).mean(-1)
        consistency = _mean(distance * mask.transition, weight)

    path = jnp.zeros(())
    if config.path_consistency:
        future = mask.alive * discount * value[:, 1:].mean(0)
        imagined = jax.lax.stop_gradient(model.reward(reward_logits) + future)
        path_target = model.value_support.two_hot(imagined)
        per_head = (path_target * value_log[:, :-1]).sum(-1)
        path = -_mean(per_head.mean(0) * mask.reward, weight)

    total = (
        config.reward_weight * reward_loss
        + config.value_weight * value_loss
        + config.policy_weight * policy_term
        + config.consistency_weight * consistency
        + config.path_weight * path
        - config.entropy_weight * entropy
    ) / unroll
    priority = jnp.abs(value[:, 0].mean(0) - targets.value[0])
    parts = {
        "total": total,
        "reward": reward_loss / unroll,
        "value": value_loss / (unroll + 1),
        "policy": policy_term / (unroll + 1),
        "consistency": consistency / unroll,
        "path": path / unroll,
        "entropy": entropy / (unroll + 1),
    }
    return total, (parts, priority)
