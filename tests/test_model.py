"""What the world model knows of the task."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.config import ModelConfig
from ezm.presets import PRESETS
from ezm.world_model import Support, WorldModel

SMALL = replace(PRESETS["cpu"].model, latent_size=8, task_embedding_size=2)
EMBEDDINGS = np.array([[3.0, 4.0], [0.3, 0.4]])  # of norm 5 and 0.5


def embeddings(config: ModelConfig) -> np.ndarray:
    """Of both tasks, by a model whose parameters are ``EMBEDDINGS``."""
    support = Support(-1.0, 1.0, 3, "linear")
    model = WorldModel(
        config,
        num_tasks=2,
        observation_size=1,
        action_size=1,
        value_support=support,
        reward_support=support,
        key=jax.random.key(0),
    )
    model = eqx.tree_at(lambda m: m.task_embedding, model, jnp.asarray(EMBEDDINGS))
    return np.asarray(model.context(jnp.arange(2), jnp.ones((2, 1))).embedding)


def test_embeddings_have_norm_one_at_most() -> None:
    np.testing.assert_allclose(embeddings(SMALL), [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)


def test_without_embeddings_all_tasks_are_one() -> None:
    np.testing.assert_array_equal(embeddings(replace(SMALL, task_embedding=False)), 0.0)


@pytest.mark.parametrize(("scale", "norms"), [(0.1, [0.5, 0.05]), (0.01, [0.05, 0.005])])
def test_a_small_scale_brings_tasks_together(scale: float, norms: list[float]) -> None:
    scaled = embeddings(replace(SMALL, task_embedding_scale=scale))
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=-1), norms, rtol=1e-6)
