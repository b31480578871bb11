"""Small world models for tests."""

import jax

from ezm.agent.world_model import Support, WorldModel
from ezm.config import ModelConfig


def untrained(config: ModelConfig, value: Support, reward: Support, **others: object) -> WorldModel:
    """A model of two tasks. ``others``: sizes of observation and action, and the neutral action."""
    sizes = {"observation_size": 3, "action_size": 2} | others
    return WorldModel(
        config,
        num_tasks=2,
        value_support=value,
        reward_support=reward,
        key=jax.random.key(0),
        **sizes,  # type: ignore[arg-type]
    )


def noisy(model: WorldModel) -> WorldModel:
    """The model with noise on all of its parameters: untrained heads say nothing."""
    leaves, tree = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)
