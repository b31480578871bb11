"""The loss of one batch, unrolled through the dynamics (paper, section 6). Time is the first axis."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ezm.agent.batch import WHOLE, Batch, Searches
from ezm.agent.world_model import Context, Gaussian, Moments, WorldModel, cross_entropy
from ezm.agent.world_model.batch_norm import with_fixed_statistics
from ezm.config import LossConfig

# Least range of Q in the policy gradient, as a fraction of the value's support, while all Q are still alike.
_LEAST_RANGE = 0.01


class Targets(NamedTuple):
    """The training targets for the U + 1 states of each unrolled sample.

    Values are in the networks' units: with ``loss.reward_scaling``, task units divided by the task's scale.
    """

    value: Float[Array, "states batch"]
    policy: Any
    """:class:`ezm.agent.world_model.Moments`, (states, batch, ...): the root actions of the searches, weighted."""
    peak: Float[Array, "states batch"]
    """The largest of the root actions' weights."""
    searched: Bool[Array, "states batch"]
    """Whether the state has a search, and so a policy target."""
    latent: Float[Array, "unroll batch latent"]
    """EMA encoder's latent of each next observation ("mse" consistency)."""
    q: Float[Array, "states batch"] | None
    """Targets of Q(s, a) for the recorded actions. None if Q is not trained."""
    q_spread: Float[Array, " tasks"]
    """Mean range of Q over the root actions, per task."""
    reanalysed: Searches
    """The searches made for this batch, (N, ...), for the replay to store."""


_AXES: dict[str, Any] = dict.fromkeys(Targets._fields, 1)
_AXES |= {"q_spread": WHOLE, "reanalysed": WHOLE}
TARGET_AXIS = Targets(**_AXES)
"""The batch axis of each field's arrays, or :data:`ezm.agent.batch.WHOLE` if they have none."""


class Masks(NamedTuple):
    """Masks that are 1 where a loss term applies, and 0 in padding after the end of an episode."""

    state: Float[Array, "states batch"]
    """Real states that are not terminal, in which an action is chosen."""
    value: Float[Array, "states batch"]
    """Real states, and everything after a termination (an absorbing state of value 0)."""
    transition: Float[Array, "unroll batch"]
    """Real transitions."""
    reward: Float[Array, "unroll batch"]
    """Real transitions, and everything after a termination (reward 0)."""
    action: Float[Array, "states batch"]
    """States that a real transition leaves, and everything from a termination on."""
    alive: Float[Array, "unroll batch"]
    """1 where the state after the transition has a future, 0 at and after a termination."""


def masks(batch: Batch, unroll: int) -> Masks:
    """Returns the masks of a batch for ``unroll`` steps."""
    i = jnp.arange(unroll + 1)[:, None]
    length, terminated = batch.length, batch.terminated
    terminal = terminated & (i >= length)
    real, leads_on = i <= length, i < length
    step = leads_on[:unroll]
    return Masks(
        state=(real & ~terminal).astype(jnp.float32),
        value=(real | terminated).astype(jnp.float32),
        transition=step.astype(jnp.float32),
        reward=(step | terminated).astype(jnp.float32),
        action=(leads_on | terminated).astype(jnp.float32),
        alive=(~terminal[1:]).astype(jnp.float32),
    )


def _mean(loss: Float[Array, "time batch"], weight: Array) -> Float[Array, ""]:
    """Returns the weighted mean over the batch, summed over time."""
    return (loss * weight).mean(1).sum()


def policy_loss(policy: Gaussian, target: Moments) -> Float[Array, "states batch"]:
    """Returns -sum_k w_k log pi(a_k). With all weight on one action, it is the paper's -log pi(best action)."""
    return -policy.mean_log_prob(target)


def cosine_distance(x: Array, y: Array) -> Array:
    """Returns the negative cosine between the last axes."""

    def unit(v: Array) -> Array:
        return v / (jnp.linalg.norm(v, axis=-1, keepdims=True) + 1e-5)

    return -(unit(x) * unit(y)).sum(-1)


class Figures(NamedTuple):
    """Figures of a batch's loss, for the log, the priorities and the learned temperature."""

    parts: dict[str, Float[Array, ""]]
    """The total, and each term per state or transition of the unroll, before its weight."""
    priority: Float[Array, " batch"]
    """|value - target| of the first states."""
    log_std: Float[Array, "states batch"]
    """The policy's mean log standard deviation over the task's own action dimensions."""
    decides: Bool[Array, "states batch"]
    """Whether an action is chosen in the state: it is real and not terminal."""


def actor_scale(
    q: Float[Array, "states batch"],
    real: Bool[Array, "states batch"],
    task: Int[Array, " batch"],
    num_tasks: int,
    least: float,
) -> Float[Array, " batch"]:
    """Returns the range from the 5th to the 95th percentile of Q over the real states of each sample's task.

    It is at least ``least``. TD-MPC2 (Hansen et al. 2024) scales its policy loss by this range.
    """
    own = real & (jnp.arange(num_tasks)[:, None, None] == task)
    values = jnp.where(own, q, jnp.nan).reshape(num_tasks, -1)
    low, high = jnp.nanpercentile(values, jnp.array([5.0, 95.0]), axis=1)
    return jnp.nan_to_num(jnp.maximum(high - low, least), nan=least)[task]


def actor_loss(
    model: WorldModel,
    policy: Gaussian,
    latent: Float[Array, "states batch latent"],
    real: Bool[Array, "states batch"],
    context: Context,
    task: Int[Array, " batch"],
    key: PRNGKeyArray,
    config: LossConfig,
) -> Float[Array, "states batch"]:
    """Returns -Q(s, a) / range of Q over the real states, for one action of the policy in each state.

    The gradient reaches the policy through the action alone. The networks of Q and the latent state are constants.
    """
    frozen, latent, context = jax.lax.stop_gradient(
        (eqx.filter(model, eqx.is_array), latent, context)
    )
    frozen = eqx.combine(frozen, model)
    q = frozen.q(latent, policy.one(key), context)
    support, num_tasks = model.value_support, len(model.task_embedding)
    if config.actor.scale == "batch":
        task, num_tasks = jnp.zeros_like(task), 1
    least = _LEAST_RANGE * (support.high - support.low)
    return -q / actor_scale(jax.lax.stop_gradient(q), real, task, num_tasks, least)


def unrolled_loss(
    model: WorldModel,
    observation: Float[Array, "states batch observation"],
    batch: Batch,
    targets: Targets,
    context: Context,
    discount: Float[Array, " batch"],
    config: LossConfig,
    key: PRNGKeyArray,
    temperature: Float[Array, " tasks"] | None = None,
) -> tuple[Float[Array, ""], Figures]:
    """Returns the total loss of a batch and its figures.

    The total is the sum of the named terms, each times its weight (``config.weights``), divided by the unroll.

    Args:
        model: the trained parameters.
        observation: normalised, of the U + 1 unrolled states.
        batch: the window, rewards in the networks' units.
        targets: see :class:`Targets`.
        context: of each sample.
        discount: of each sample.
        config: unroll, kinds of terms, weights.
        key: draws the actor's actions.
        temperature: weight of each task's entropy in the actor's term. None leaves the entropy out.
    """
    unroll, weight, weights = config.unroll, batch.weight, config.weights
    mask = masks(batch, unroll)
    decides = mask.state > 0
    everywhere = context.repeated(unroll + 1)
    leaving = everywhere[:unroll]
    code = model.code(batch.action[:unroll], leaving)
    latents = [model.represent(observation[0], context)]
    for i in range(unroll):
        latent = model.next(latents[-1], code[i], context)
        keep = config.latent_gradient
        latents.append(keep * latent + (1.0 - keep) * jax.lax.stop_gradient(latent))
    z = jnp.stack(latents)
    # One call for all steps: only the dynamics are sequential.
    reward_logits = model.reward_logits(z[:unroll], code, leaving)
    value_logits, policy = model.predict(z, everywhere)

    reward_target = model.reward_support.two_hot(batch.reward[:unroll])
    value_target = model.value_support.two_hot(targets.value)
    value_log = jax.nn.log_softmax(value_logits)
    value = model.value_support.expectation(jnp.exp(value_log))
    reward_loss = _mean(cross_entropy(reward_target, reward_logits) * mask.reward, weight)
    value_loss = -_mean((value_target * value_log).sum(-1).mean(0) * mask.value, weight)

    policy_mask = mask.state * targets.searched
    # The few searched states represent all states: the term keeps its size relative to the others.
    policy_mask *= mask.state.sum() / jnp.maximum(policy_mask.sum(), 1.0)
    policy_term = _mean(policy_loss(policy, targets.policy) * policy_mask, weight)
    entropy = _mean(policy.entropy() * mask.state, weight)

    consistency = jnp.zeros(())
    if config.consistency_weight and config.consistency == "cosine":
        assert model.projector is not None and model.predictor is not None
        encoded = model.represent(observation[1:], leaving)
        target = jax.lax.stop_gradient(model.projector(encoded))
        predicted = model.predictor(model.projector(z[1:]))
        consistency = _mean(cosine_distance(predicted, target) * mask.transition, weight)
    elif config.consistency_weight:
        distance = jnp.square(z[1:] - targets.latent).mean(-1)
        consistency = _mean(distance * mask.transition, weight)

    path = jnp.zeros(())
    if config.path_weight:
        future = mask.alive * discount * value[:, 1:].mean(0)
        imagined = jax.lax.stop_gradient(model.reward(reward_logits) + future)
        path_target = model.value_support.two_hot(imagined)
        per_head = (path_target * value_log[:, :-1]).sum(-1)
        path = -_mean(per_head.mean(0) * mask.reward, weight)

    # Each term comes with the number of states or transitions in its sum.
    terms = {
        "reward": (reward_loss, unroll),
        "value": (value_loss, unroll + 1),
        "policy": (policy_term, unroll + 1),
        "consistency": (consistency, unroll),
        "path": (path, unroll),
        "entropy": (entropy, unroll + 1),
    }
    if "q" in weights:
        assert targets.q is not None
        q_target = model.value_support.two_hot(targets.q)
        codes = model.code(batch.action[: unroll + 1], everywhere)
        distance = cross_entropy(q_target, model.q_logits(z, codes, everywhere)).mean(0)
        terms["q"] = _mean(distance * mask.action, weight), unroll + 1
    if "actor" in weights:
        actor = policy
        if not config.actor.shapes_latent:
            apart = jax.lax.stop_gradient((z, everywhere))
            _, actor = with_fixed_statistics(model).predict(*apart)
        actor_term = actor_loss(model, actor, z, decides, everywhere, batch.task, key, config)
        if temperature is not None:
            actor_term -= temperature[batch.task] * actor.entropy()
        terms["actor"] = _mean(actor_term * mask.state, weight), unroll + 1
    assert terms.keys() == weights.keys()

    weighted = [weights[name] * term for name, (term, _) in terms.items()]
    total = reduce(operator.add, weighted) / max(unroll, 1)
    own = jnp.maximum(policy.mask.sum(-1), 1.0)
    return total, Figures(
        parts={"total": total}
        | {name: term / max(number, 1) for name, (term, number) in terms.items()},
        priority=jnp.abs(value[:, 0].mean(0) - targets.value[0]),
        log_std=policy.log_std.sum(-1) / own,
        decides=decides,
    )
