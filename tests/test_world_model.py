"""Rung 3 of the ladder: dynamics, reward, prediction and masks of the world model, each on its own."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import noisy, untrained

from ezm.agent.world_model import Context, Support, WorldModel
from ezm.config.presets import PRESETS

BATCH, LATENT = 6, 8
VALUES, REWARDS = Support(-10.0, 30.0, 5, "linear"), Support(-1.0, 1.0, 3, "linear")
MASKS = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
"""Of three actions the second task has one."""


def built(**changes: object) -> WorldModel:
    """A model whose parameters are all random: untrained heads say nothing."""
    base = replace(PRESETS["cpu"].model, latent_size=LATENT, task_embedding_size=2, value_heads=3)
    config = replace(base, **changes)  # type: ignore[arg-type]
    return noisy(untrained(config, VALUES, REWARDS, observation_size=4, action_size=3))


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return built()


def context(model: WorldModel, tasks: list[int]) -> Context:
    return model.context(jnp.array(tasks), MASKS)


def latents(seed: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (BATCH, LATENT))


def actions(seed: int = 3) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (BATCH, 3), minval=-1.0)


FIRST, SECOND = [0] * BATCH, [1] * BATCH


# -- dynamics --------------------------------------------------------------------------------


def test_latents_have_mean_0_and_variance_1_with_latent_norm(model: WorldModel) -> None:
    first = model.represent(jnp.ones((BATCH, 4)), context(model, FIRST))
    second = model.step(first, actions(), context(model, FIRST))[0]
    for latent in (first, second):
        np.testing.assert_allclose(latent.mean(-1), 0.0, atol=1e-5)
        np.testing.assert_allclose(latent.var(-1), 1.0, rtol=1e-3)
    free = built(latent_norm=False)
    assert np.abs(free.step(latents(), actions(), context(free, FIRST))[0].mean(-1)).max() > 0.01


def test_a_step_without_weights_leaves_the_latent_state_where_it_is() -> None:
    model = built(latent_norm=False, blocks=0)
    still = eqx.tree_at(
        lambda m: (m.dynamics.second.weight, m.dynamics.second.bias),
        model,
        replace_fn=jnp.zeros_like,
    )
    np.testing.assert_array_equal(
        still.step(latents(), actions(), context(still, FIRST))[0], latents()
    )


def test_a_step_is_dynamics_and_reward_of_the_same_action_code(model: WorldModel) -> None:
    known = context(model, FIRST)
    code = model.code(actions(), known)
    latent, reward = model.step(latents(), actions(), known)
    np.testing.assert_array_equal(latent, model.next(latents(), code, known))
    np.testing.assert_array_equal(reward, model.reward_logits(latents(), code, known))


def test_each_sample_of_a_batch_is_stepped_by_itself(model: WorldModel) -> None:
    whole = model.step(latents(), actions(), context(model, [0, 1] * 3))
    for i, task in enumerate([0, 1] * 3):
        alone = model.step(latents()[i : i + 1], actions()[i : i + 1], context(model, [task]))
        for ours, theirs in zip(whole, alone, strict=True):
            np.testing.assert_allclose(ours[i], theirs[0], rtol=1e-5, atol=1e-6)


def test_tasks_differ_by_their_embedding_alone(model: WorldModel) -> None:
    first, second = (model.step(latents(), actions(), context(model, t)) for t in (FIRST, SECOND))
    assert np.abs(first[0] - second[0]).max() > 1e-3
    blind = built(task_embedding=False)
    full = jnp.ones((2, 3))
    steps = [
        blind.step(latents(), actions(), blind.context(jnp.array(t), full)) for t in (FIRST, SECOND)
    ]
    np.testing.assert_array_equal(steps[0][0], steps[1][0])


# -- reward ----------------------------------------------------------------------------------


def test_rewards_and_values_are_means_over_the_bins(model: WorldModel) -> None:
    certain = 50.0 * jnp.eye(3)  # the bins lie at -1, 0, 1
    np.testing.assert_allclose(model.reward(certain), [-1.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(model.reward(jnp.array([0.0, -50.0, 0.0])), 0.0, atol=1e-6)
    # Two heads, bins at -10, 0, 10, 20, 30: the value is the lower mean.
    heads = 50.0 * jnp.stack(
        [jax.nn.one_hot(jnp.array([4, 1]), 5), jax.nn.one_hot(jnp.array([2, 3]), 5)]
    )
    np.testing.assert_allclose(model.value(heads), [10.0, 0.0], atol=1e-5)


# -- prediction and masks --------------------------------------------------------------------


def test_predictions_have_a_row_for_each_head_and_a_bounded_policy(model: WorldModel) -> None:
    values, policy = model.predict(latents(), context(model, FIRST))
    assert values.shape == (3, BATCH, 5)
    assert len({tuple(row) for row in np.asarray(values[:, 0]).round(6).tolist()}) == 3
    low, high = model.config.log_std_range
    assert np.all((low <= policy.log_std) & (policy.log_std <= high))
    assert np.abs(policy.mean).max() < 3.0


def test_two_heads_are_two_of_them(model: WorldModel) -> None:
    known = context(model, FIRST)
    every = np.asarray(model.predict(latents(), known)[0])
    drawn = set()
    for seed in range(20):
        two = np.asarray(model.with_two_heads(jax.random.key(seed)).predict(latents(), known)[0])
        places = [int(np.abs(every - head).max((1, 2)).argmin()) for head in two]
        np.testing.assert_allclose(two, every[places], rtol=1e-5, atol=1e-6)
        drawn.add(tuple(sorted(places)))
    assert drawn == {(0, 1), (0, 2), (1, 2)}


def test_padded_actions_change_nothing_and_get_no_policy(model: WorldModel) -> None:
    known = context(model, SECOND)
    padded = actions().at[:, 1:].set(0.7)
    for ours, theirs in zip(
        model.step(latents(), actions(), known),
        model.step(latents(), padded, known),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    _, policy = model.predict(latents(), known)
    np.testing.assert_array_equal(policy.mean[:, 1:], 0.0)
    np.testing.assert_array_equal(policy.log_std[:, 1:], 0.0)
    assert np.all(policy.mean[:, 0] != 0.0)
    moved = model.step(latents(), actions().at[:, 0].set(-0.9), known)
    assert np.abs(moved[0] - model.step(latents(), actions(), known)[0]).max() > 1e-4


def test_a_concatenated_trunk_is_wider_by_the_embedding() -> None:
    wide = built(trunk="concatenated")
    assert wide.prediction_in is None
    assert wide.prediction[0].first.weight.shape == (LATENT + 2, LATENT + 2)
    values, policy = wide.predict(latents(), context(wide, FIRST))
    assert values.shape == (3, BATCH, 5) and policy.mean.shape == (BATCH, 3)
    other = wide.predict(latents(), context(wide, SECOND))[0]
    assert np.abs(values - other).max() > 1e-3  # the embedding enters
