"""What the world model knows of the task, where its policy begins, and its critics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models

from ezm.agent.world_model import Gaussian, Support, WorldModel
from ezm.agent.world_model.layers import Linear
from ezm.config import ModelConfig
from ezm.config.presets import PRESETS

SMALL = replace(PRESETS["cpu"].model, latent_size=8, task_embedding_size=2)
EMBEDDINGS = np.array([[3.0, 4.0], [0.3, 0.4]])  # of norm 5 and 0.5


def embeddings(config: ModelConfig) -> np.ndarray:
    """Of both tasks, by a model whose parameters are ``EMBEDDINGS``."""
    support = Support(-1.0, 1.0, 3, "linear")
    model = small_models.untrained(config, support, support, observation_size=1, action_size=1)
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


# -- where a policy begins ---------------------------------------------------------------


def untrained(config: ModelConfig, neutral: np.ndarray | None = None) -> WorldModel:
    support = Support(-1.0, 1.0, 5, "linear")
    return small_models.untrained(config, support, support, neutral_action=neutral)


def policy_of(model: WorldModel) -> Gaussian:
    """At some observation of each of the two tasks; the second has a single action."""
    context = model.context(jnp.arange(2), jnp.array([[1.0, 1.0], [1.0, 0.0]]))
    latent = model.represent(jnp.ones((2, 3)), context)
    return model.predict(latent, context)[1]


def test_a_policy_begins_at_each_tasks_neutral_action() -> None:
    neutral = np.array([[0.8, -0.55], [0.0, 0.0]], np.float32)
    began = policy_of(untrained(replace(SMALL, neutral_start=True), neutral))
    np.testing.assert_allclose(began.mode(), neutral, atol=1e-6)
    plain = policy_of(untrained(SMALL, neutral))
    np.testing.assert_array_equal(plain.mode(), 0.0)


def test_a_neutral_action_at_the_border_is_kept_within_the_largest_action() -> None:
    config = replace(SMALL, neutral_start=True)
    began = policy_of(untrained(config, np.array([[1.0, -1.0], [1.0, 0.0]], np.float32)))
    np.testing.assert_allclose(began.mode(), [[0.99, -0.99], [0.99, 0.0]], atol=1e-4)


def test_a_policys_spread_begins_where_it_is_told_to() -> None:
    config = replace(SMALL, log_std_range=(-3.0, -0.5), initial_log_std=-2.5)
    np.testing.assert_allclose(
        policy_of(untrained(config)).log_std, [[-2.5, -2.5], [-2.5, 0.0]], atol=1e-5
    )
    middle = policy_of(untrained(replace(config, initial_log_std=None)))
    np.testing.assert_allclose(middle.log_std[0], -1.75, atol=1e-6)


# -- critics -----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "unit", "batch"])
def test_critics_have_a_width_of_their_own(norm: Any) -> None:
    config = replace(SMALL, q_heads=3, critic_size=12, head_norm=norm)
    model = untrained(config)
    context = model.context(jnp.arange(2), jnp.ones((2, 2)))
    latent = model.represent(jnp.ones((2, 3)), context)
    assert model.q_heads is not None and model.q_heads.stacked.hidden[0].weight.shape[-1] == 12
    assert model.value_heads.stacked.hidden[0].weight.shape[-1] == 12  # type: ignore[union-attr]
    code = model.code(jnp.zeros((2, 2)), context)
    assert model.q_logits(latent, code, context).shape == (3, 2, 5)
    # Heads begin at about 0, see Support.neutral_logits.
    np.testing.assert_allclose(model.q(latent, jnp.zeros((2, 2)), context), 0.0, atol=1e-6)


def test_q_heads_leave_all_other_parameters_as_they_were() -> None:
    without, with_heads = untrained(SMALL), untrained(replace(SMALL, q_heads=2))
    removed = eqx.tree_at(lambda m: m.q_heads, with_heads, None)
    for ours, theirs in zip(jax.tree.leaves(removed), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_length_of_unit_weights_does_not_matter() -> None:
    layer = Linear(4, 3, jax.random.key(1), unit=True)
    longer = eqx.tree_at(lambda m: m.weight, layer, 7.0 * layer.weight)
    x = jnp.arange(4.0)
    np.testing.assert_allclose(layer(x), longer(x), rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(layer.matrix, axis=0), 1.0, rtol=1e-5)
