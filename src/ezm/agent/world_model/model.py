"""The world model: one set of networks for all tasks, conditioned on a task embedding (paper, section 2).

- representation h(o, e) -> s
- dynamics g(s, e, a) -> s'
- reward r(s, e, a)
- prediction f(s, e) -> values, policy
- Q(s, e, a), ours, optional
- projector, predictor (temporal consistency)

All methods take any leading batch shape. ``task`` is an integer array of that batch shape.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ezm.agent.world_model.layers import (
    MLP,
    Ensemble,
    Linear,
    Residual,
    Separate,
    layer_norm,
    residual_blocks,
)
from ezm.agent.world_model.policy import MAX_ACTION, Gaussian
from ezm.agent.world_model.scalars import Support
from ezm.config import ModelConfig

# Keeps tanh(mean) away from its flat ends, where the gradient vanishes.
_LARGEST_MEAN = 3.0


def unbounded_mean(action: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns the output of the policy head for which the policy's mode is ``action``, clipped to +-MAX_ACTION."""
    action = np.clip(action, -MAX_ACTION, MAX_ACTION)
    return _LARGEST_MEAN * np.arctanh(np.arctanh(action) / _LARGEST_MEAN)


class Context(eqx.Module):
    """The task's inputs to the networks: its embedding, its action mask, and the offset of its policy's mean."""

    embedding: Float[Array, "*batch embedding"]
    action_mask: Float[Array, "*batch action"]
    policy_offset: Float[Array, "*batch action"] | None = None

    def repeated(self, times: int) -> Context:
        """Repeats the context for every time step, along a new first axis."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (times, *x.shape)), self)

    def __getitem__(self, index: Any) -> Context:
        return jax.tree.map(lambda x: x[index], self)


class Transition(eqx.Module):
    """Trunk over (s, e, action code) of the dynamics and of the reward.

    It adds an MLP of the inputs to s, and then applies residual blocks.
    """

    first: Linear
    second: Linear
    blocks: tuple[Residual, ...]

    def __init__(self, inputs: int, size: int, blocks: int, key: PRNGKeyArray):
        k1, k2, k3 = jax.random.split(key, 3)
        self.first, self.second = Linear(inputs, size, k1), Linear(size, size, k2)
        self.blocks = residual_blocks(blocks, size, k3)

    def __call__(self, latent: Array, *inputs: Array) -> Array:
        x = jnp.concatenate((layer_norm(latent), *inputs), axis=-1)
        x = latent + self.second(jax.nn.relu(layer_norm(self.first(x))))
        for block in self.blocks:
            x = block(x)
        return x


class WorldModel(eqx.Module):
    """The world model's parameters and forward passes.

    Build it with ``WorldModel(config, suite sizes, supports, key=key)``.
    """

    task_embedding: Float[Array, "tasks embedding"]
    observation_in: Linear
    representation: tuple[Residual, ...]
    action_in: Linear
    dynamics: Transition
    reward_trunk: Transition
    reward_head: MLP
    prediction_in: Linear | None
    """None where the trunk takes latent state and task embedding as they are."""
    prediction: tuple[Residual, ...]
    value_heads: Ensemble | Separate
    policy_head: MLP
    q_heads: Ensemble | None
    policy_offset: Float[Array, "tasks action"] | None
    """A constant that each task adds to its policy's mean, before the bound. It is not trained: together with the
    head's bias, a trained offset would double the step that Adam takes."""
    projector: MLP | None
    predictor: MLP | None
    value_support: Support
    reward_support: Support
    config: ModelConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_tasks: int,
        observation_size: int,
        action_size: int,
        value_support: Support,
        reward_support: Support,
        key: PRNGKeyArray,
        neutral_action: Float[np.ndarray, "tasks action"] | None = None,
    ):
        all_keys = jax.random.split(key, 13)
        keys = iter(all_keys)
        size, embedding = config.latent_size, config.task_embedding_size
        code = config.action_code_size
        self.config = config
        self.value_support, self.reward_support = value_support, reward_support
        normal = jax.random.normal(next(keys), (num_tasks, embedding))
        self.task_embedding = normal / jnp.sqrt(embedding)
        self.observation_in = Linear(observation_size + embedding, size, next(keys))
        self.representation = residual_blocks(config.blocks, size, next(keys))
        self.action_in = Linear(action_size + embedding, code, next(keys))
        inputs = size + embedding + code
        self.dynamics = Transition(inputs, size, config.blocks, next(keys))
        self.reward_trunk = Transition(inputs, size, config.reward_blocks, next(keys))
        k_in, k_trunk = next(keys), next(keys)
        concatenated = config.trunk == "concatenated"
        trunk = size + embedding if concatenated else size
        self.prediction_in = None if concatenated else Linear(size + embedding, size, k_in)
        self.prediction = residual_blocks(config.blocks, trunk, k_trunk)

        norm = config.head_norm

        def scalar_head(support: Support, k: PRNGKeyArray, inputs: int, hidden: int) -> MLP:
            head = MLP(inputs, hidden, config.head_layers, support.bins, k, zero=True, norm=norm)
            return eqx.tree_at(lambda m: m.output.bias, head, support.neutral_logits())

        def critics(keys: Key[Array, " heads"], inputs: int) -> Ensemble:
            hidden = config.critic_size or size
            make = eqx.filter_vmap(lambda k: scalar_head(value_support, k, inputs, hidden))
            return Ensemble(make(keys))

        self.reward_head = scalar_head(reward_support, next(keys), size, size)
        self.value_heads = critics(jax.random.split(next(keys), config.value_heads), trunk)
        policy_head = MLP(
            trunk, size, config.head_layers, 2 * action_size, next(keys), zero=True, norm=norm
        )
        if config.initial_log_std is not None:
            low, high = config.log_std_range
            start = np.arctanh(2.0 * (config.initial_log_std - low) / (high - low) - 1.0)
            bias = policy_head.output.bias.at[action_size:].set(start)
            policy_head = eqx.tree_at(lambda m: m.output.bias, policy_head, bias)
        self.policy_head = policy_head
        self.policy_offset = None
        if config.neutral_start and neutral_action is not None:
            self.policy_offset = jnp.asarray(unbounded_mean(neutral_action), jnp.float32)
        self.q_heads = None
        if config.q_heads:
            # A separate key, so that a model without Q heads draws the same numbers.
            q_keys = jax.random.split(jax.random.fold_in(key, len(all_keys)), config.q_heads)
            self.q_heads = critics(q_keys, inputs)
        self.projector = self.predictor = None
        if config.projector_size:
            self.projector = MLP(size, config.projector_size, 2, size, next(keys))
            self.predictor = MLP(size, config.projector_size, 1, size, next(keys))

    def context(
        self, task: Int[Array, "*batch"], action_masks: Float[Array, "tasks action"]
    ) -> Context:
        """Returns the context of each task. The embedding has norm at most 1, and is 0 without task embeddings."""
        embedding = self.config.task_embedding_scale * self.task_embedding
        norm = jnp.linalg.norm(embedding, axis=-1, keepdims=True)
        embedding = embedding / jnp.maximum(norm, 1.0)
        if not self.config.task_embedding:
            embedding = jnp.zeros_like(embedding)
        offset = self.policy_offset
        if offset is not None:
            offset = jax.lax.stop_gradient(offset)[task]
        return Context(embedding[task], action_masks[task], offset)

    def _latent(self, x: Array) -> Array:
        return layer_norm(x) if self.config.latent_norm else x

    def represent(
        self, observation: Float[Array, "*batch observation"], context: Context
    ) -> Float[Array, "*batch latent"]:
        """Returns the latent state s = h(o, e) of a (normalised) observation."""
        x = self.observation_in(jnp.concatenate((observation, context.embedding), axis=-1))
        x = jnp.tanh(layer_norm(x))
        for block in self.representation:
            x = block(x)
        return self._latent(x)

    def step(
        self,
        latent: Float[Array, "*batch latent"],
        action: Float[Array, "*batch action"],
        context: Context,
    ) -> tuple[Float[Array, "*batch latent"], Float[Array, "*batch bins"]]:
        """Returns the next latent state g(s, e, a), and the logits of the reward r(s, e, a)."""
        code = self.code(action, context)
        return self.next(latent, code, context), self.reward_logits(latent, code, context)

    def code(
        self, action: Float[Array, "*batch action"], context: Context
    ) -> Float[Array, "*batch code"]:
        """Returns the action's code, the input of the dynamics, the reward and Q."""
        action = action * context.action_mask
        return jnp.tanh(self.action_in(jnp.concatenate((action, context.embedding), axis=-1)))

    def next(
        self,
        latent: Float[Array, "*batch latent"],
        code: Float[Array, "*batch code"],
        context: Context,
    ) -> Float[Array, "*batch latent"]:
        """Returns the latent state g(s, e, a) after the action with this :meth:`code`."""
        return self._latent(self.dynamics(latent, context.embedding, code))

    def reward_logits(
        self,
        latent: Float[Array, "*batch latent"],
        code: Float[Array, "*batch code"],
        context: Context,
    ) -> Float[Array, "*batch bins"]:
        """Returns the logits of the reward r(s, e, a) for the action with this :meth:`code`."""
        return self.reward_head(self.reward_trunk(latent, context.embedding, code))

    def _trunk(self, latent: Array, context: Context) -> Array:
        x = jnp.concatenate((latent, context.embedding), axis=-1)
        if self.prediction_in is not None:
            x = jax.nn.relu(layer_norm(self.prediction_in(x)))
        for block in self.prediction:
            x = block(x)
        return layer_norm(x)

    def predict(
        self, latent: Float[Array, "*batch latent"], context: Context
    ) -> tuple[Float[Array, "heads *batch bins"], Gaussian]:
        """Returns the logits of every value head, and the policy: f(s, e)."""
        x = self._trunk(latent, context)
        values = self.value_heads(x)
        mean, spread = jnp.split(self.policy_head(x), 2, axis=-1)
        if context.policy_offset is not None:
            mean = mean + context.policy_offset
        low, high = self.config.log_std_range
        log_std = low + 0.5 * (high - low) * (jnp.tanh(spread) + 1.0)
        mask = context.action_mask
        bounded = _LARGEST_MEAN * jnp.tanh(mean / _LARGEST_MEAN)
        return values, Gaussian(bounded * mask, log_std * mask, mask)

    def q_logits(
        self,
        latent: Float[Array, "*batch latent"],
        code: Float[Array, "*batch code"],
        context: Context,
    ) -> Float[Array, "heads *batch bins"]:
        """Returns the logits of every head of Q(s, a). The model must have Q heads."""
        assert self.q_heads is not None
        inputs = (layer_norm(latent), context.embedding, code)
        return self.q_heads(jnp.concatenate(inputs, axis=-1))

    def q(
        self,
        latent: Float[Array, "*batch latent"],
        action: Float[Array, "*batch action"],
        context: Context,
    ) -> Float[Array, "*batch"]:
        """Returns the pessimistic Q(s, a): the minimum over the heads."""
        return self.value(self.q_logits(latent, self.code(action, context), context))

    def with_two_heads(self, key: PRNGKeyArray) -> WorldModel:
        """Returns the model with two of its value heads, drawn at random, or itself if it has no more than two.

        The minimum of both is the value in search and targets (paper, section 2).
        """
        heads = self.value_heads
        if isinstance(heads, Separate) or heads.members <= 2:
            return self
        two = heads.pick(jax.random.permutation(key, heads.members)[:2])
        return eqx.tree_at(lambda m: m.value_heads, self, two)

    def for_one_robot(self, key: PRNGKeyArray) -> WorldModel:
        """Returns the model with two value heads, drawn once, in separate arrays. It plans fastest for one robot."""
        model = self.with_two_heads(key)
        assert isinstance(model.value_heads, Ensemble)
        return eqx.tree_at(lambda m: m.value_heads, model, model.value_heads.separate())

    def value(self, logits: Float[Array, "heads *batch bins"]) -> Float[Array, "*batch"]:
        """Returns the pessimistic value: the minimum of the given heads, see :meth:`with_two_heads`."""
        return self.value_support.mean(logits).min(0)

    def reward(self, logits: Float[Array, "*batch bins"]) -> Float[Array, "*batch"]:
        """Returns the scalar reward."""
        return self.reward_support.mean(logits)

    def num_parameters(self) -> int:
        """Returns the number of floating-point scalars in the model."""
        return sum(x.size for x in jax.tree.leaves(eqx.filter(self, eqx.is_inexact_array)))
