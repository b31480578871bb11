"""Rung 6 of the ladder: the loss counts what is real, and nothing behind an episode's end or in padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.agent.batch import Batch
from ezm.agent.learning.losses import (
    Targets,
    actor_scale,
    cosine_distance,
    masks,
    policy_loss,
    unrolled_loss,
)
from ezm.agent.world_model import Gaussian, Support, WorldModel, moments
from ezm.config import ActorConfig, LossConfig, ModelConfig, QConfig

UNROLL, BATCH, BINS = 2, 4, 11
MODEL = ModelConfig(
    latent_size=16,
    task_embedding_size=4,
    action_code_size=4,
    blocks=1,
    reward_blocks=0,
    head_layers=1,
    projector_size=8,
    value_heads=2,
    q_heads=2,
    bins=BINS,
)
LOSS = LossConfig(
    unroll=UNROLL,
    n_step=1,
    consistency="cosine",
    q=QConfig(weight=0.7),
    actor=ActorConfig(weight=0.3, scale="task"),
)
MSE = replace(LOSS, consistency="mse")
OBSERVATIONS, ACTIONS = (2, 3), (1, 2)  # sizes of the two tasks
TASK = np.array([0, 1, 0, 1])


class Data(NamedTuple):
    observation: np.ndarray
    batch: Batch
    targets: Targets


def mask(sizes: tuple[int, ...], width: int) -> np.ndarray:
    return (np.arange(width) < np.array(sizes)[:, None]).astype(np.float32)


def data(length: Any = UNROLL, terminated: Any = False, pad: int = 0) -> Data:
    """A random batch; ``pad`` more dimensions of observations and actions hold zeros."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def wide(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)])

    states = UNROLL + 1
    observation = wide(normal(states, BATCH, 3) * mask(OBSERVATIONS, 3)[TASK])
    actions = mask(ACTIONS, 2)[TASK]
    last = np.random.default_rng(1).normal(size=(1, BATCH, 2)).astype(np.float32)
    batch = Batch(
        observation=observation,
        action=wide(np.tanh(np.concatenate((normal(UNROLL, BATCH, 2), last))) * actions),
        reward=normal(UNROLL, BATCH),
        length=np.broadcast_to(length, BATCH).astype(np.int32),
        terminated=np.broadcast_to(terminated, BATCH),
        task=TASK,
        weight=np.float32([1.0, 0.5, 0.8, 0.3]),
        age=np.zeros(BATCH, np.int32),
        searches=None,  # the loss looks at the targets alone
        searched=None,
        reanalyse=None,
        extras={},
    )
    weights = np.exp(normal(states, BATCH, 3))
    weights /= weights.sum(-1, keepdims=True)
    value = normal(states, BATCH)
    root = wide(np.tanh(normal(states, BATCH, 3, 2)) * actions[:, None])
    targets = Targets(
        value=value,
        policy=jax.tree.map(np.asarray, jax.jit(moments)(root, weights)),
        peak=weights.max(-1),
        searched=np.ones((states, BATCH), bool),
        latent=normal(UNROLL, BATCH, MODEL.latent_size),
        q=value + 0.5,
        q_spread=np.ones(2, np.float32),
        reanalysed=None,
    )
    return Data(observation, batch, targets)


def build(pad: int = 0) -> WorldModel:
    """Random in every number: the heads' zero outputs would hide what flows through them."""
    support = Support(-3.0, 3.0, BINS, "linear")
    shapes = eqx.filter_eval_shape(
        WorldModel,
        MODEL,
        num_tasks=2,
        observation_size=3 + pad,
        action_size=2 + pad,
        value_support=support,
        reward_support=support,
        key=jax.random.key(0),
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes)


Result = tuple[dict[str, np.ndarray], np.ndarray, WorldModel]


@eqx.filter_jit
def _evaluate(model: WorldModel, given: Data, keep: Any, config: LossConfig) -> Any:
    masks_ = mask(ACTIONS, given.batch.action.shape[-1])

    def loss(m: WorldModel) -> Any:
        context = m.context(given.batch.task, jnp.asarray(masks_))
        discount = jnp.full(BATCH, 0.9)
        kept = replace(config, latent_gradient=keep)
        key, temperature = jax.random.key(3), jnp.array([0.2, 0.4])
        given_ = given.observation, given.batch, given.targets
        return unrolled_loss(m, *given_, context, discount, kept, key, temperature)

    (_, figures), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
    return figures.parts, figures.priority, gradient


def evaluate(
    model: WorldModel, given: Data, config: LossConfig = LOSS, keep: float = 0.5
) -> Result:
    """Parts, priorities and gradient; compiled once per configuration and shape."""
    arrays = jax.tree.map(jnp.asarray, given)
    return jax.device_get(_evaluate(model, arrays, jnp.float32(keep), config))


def assert_same(ours: Result, theirs: Result, tolerance: float = 1e-5) -> None:
    for name in theirs[0]:
        np.testing.assert_allclose(ours[0][name], theirs[0][name], atol=tolerance, err_msg=name)
    np.testing.assert_allclose(ours[1], theirs[1], atol=tolerance)
    for a, b in zip(jax.tree.leaves(ours[2]), jax.tree.leaves(theirs[2]), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return build()


# -- by hand -----------------------------------------------------------------------------


def test_masks_by_hand() -> None:
    """Three samples: no end inside, truncated after one transition, terminated after one."""
    length, terminated = np.array([3, 1, 1]), np.array([False, False, True])
    given = data().batch._replace(length=length, terminated=terminated)
    result = jax.jit(masks, static_argnums=1)(given, UNROLL)
    np.testing.assert_array_equal(result.state.T, [[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(result.value.T, [[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(result.transition.T, [[1, 1], [1, 0], [1, 0]])
    np.testing.assert_array_equal(result.reward.T, [[1, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(result.action.T, [[1, 1, 1], [1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(result.alive.T, [[1, 1], [1, 1], [0, 0]])


def test_masks_when_the_last_unrolled_state_is_terminal() -> None:
    given = data().batch._replace(length=np.array([2]), terminated=np.array([True]))
    result = jax.jit(masks, static_argnums=1)(given, UNROLL)
    np.testing.assert_array_equal(result.state[:, 0], [1, 1, 0])
    np.testing.assert_array_equal(result.alive[:, 0], [1, 0])


def test_policy_loss_of_the_best_action_is_its_log_likelihood() -> None:
    zero, one = jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2))
    policy = Gaussian(zero, zero, one)
    actions = jnp.array([[[[0.1, 0.2], [-0.5, 0.3]]]])
    loss = jax.jit(policy_loss)(policy, moments(actions, jnp.array([[[0.0, 1.0]]])))
    expected = -jax.jit(Gaussian.log_prob)(policy, actions[:, :, 1])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_cosine_distance_known_values() -> None:
    x = np.float32([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    y = np.float32([[5.0, 0.0], [-2.0, -2.0], [1.0, 0.0]])
    np.testing.assert_allclose(jax.jit(cosine_distance)(x, y), [-1.0, 1.0, 0.0], atol=1e-4)


def test_total_is_the_weighted_sum_of_the_parts(model: WorldModel) -> None:
    parts, _, _ = evaluate(model, data())
    per_state = (UNROLL + 1) / UNROLL
    expected = (
        LOSS.reward_weight * parts["reward"]
        + LOSS.value_weight * parts["value"] * per_state
        + LOSS.policy_weight * parts["policy"] * per_state
        + LOSS.consistency_weight * parts["consistency"]
        + LOSS.path_weight * parts["path"]
        - LOSS.entropy_weight * parts["entropy"] * per_state
        + LOSS.q.weight * parts["q"] * per_state
        + LOSS.actor.weight * parts["actor"] * per_state
    )
    assert float(parts["total"]) == pytest.approx(float(expected), rel=1e-5)


# -- what must not matter ----------------------------------------------------------------


def spoiled(given: Data, *, terminated: bool) -> Data:
    """Other numbers wherever nothing may count if the episode ends after one transition."""

    def other(x: np.ndarray, first: int) -> np.ndarray:
        return np.concatenate((x[:first], np.float32(0.7) - x[first:]))

    batch, targets = given.batch, given.targets
    # Behind a termination the imagined actions, a reward of 0 and a value of 0 are trained.
    if not terminated:
        batch = batch._replace(action=other(batch.action, 1), reward=other(batch.reward, 1))
        targets = targets._replace(value=other(targets.value, 2), q=other(targets.q, 1))
    undecided = 1 if terminated else 2
    targets = targets._replace(
        policy=jax.tree.map(lambda x: other(x, undecided), targets.policy),
        latent=other(targets.latent, 1),
    )
    return Data(other(given.observation, 2), batch, targets)


@pytest.mark.parametrize("terminated", [False, True], ids=["truncated", "terminated"])
def test_what_is_recorded_behind_the_end_does_not_matter(
    model: WorldModel, terminated: bool
) -> None:
    given = data(length=1, terminated=terminated)
    changed = spoiled(given, terminated=terminated)
    assert_same(evaluate(model, changed), evaluate(model, given))
    within = spoiled(data(), terminated=terminated)
    assert evaluate(model, within)[0]["total"] != evaluate(model, data())[0]["total"]


def test_a_termination_is_worth_nothing_in_path_consistency(model: WorldModel) -> None:
    """The target of V(s_0) is the reward alone: less or more than with a future."""
    ended, truncated = data(length=1, terminated=True), data(length=1)
    assert evaluate(model, ended)[0]["path"] != evaluate(model, truncated)[0]["path"]


def test_weights_weigh_samples(model: WorldModel) -> None:
    """The batch's loss is the mean of its samples' losses times their weights."""
    given = data()
    weight = given.batch.weight
    totals = []
    for b in range(BATCH):
        only = given.batch._replace(weight=np.eye(BATCH, dtype=np.float32)[b])
        totals.append(evaluate(model, given._replace(batch=only))[0]["total"])
    expected = float(np.dot(totals, weight))
    assert float(evaluate(model, given)[0]["total"]) == pytest.approx(expected, rel=1e-5)


def embedded(model: WorldModel, pad: int) -> WorldModel:
    """The same networks for larger observations and actions; anything in the new weights."""
    large = build(pad)

    def place(weight: np.ndarray, small: np.ndarray, size: int) -> np.ndarray:
        """Rows of the real inputs, padding, then the rows of the embedding."""
        weight = np.array(weight)
        weight[:size], weight[size + pad :] = small[:size], small[size:]
        return weight

    def outputs(wide: np.ndarray, small: np.ndarray) -> np.ndarray:
        """Columns of the means and of the spreads, each with padding."""
        wide, half = np.array(wide), 2 + pad
        wide[..., :2], wide[..., half : half + 2] = small[..., :2], small[..., 2:]
        return wide

    places = (
        lambda m: m.observation_in.weight,
        lambda m: m.action_in.weight,
        lambda m: m.policy_head.output.weight,
        lambda m: m.policy_head.output.bias,
    )
    new = [
        place(places[0](large), places[0](model), 3),
        place(places[1](large), places[1](model), 2),
        outputs(places[2](large), places[2](model)),
        outputs(places[3](large), places[3](model)),
    ]
    return eqx.tree_at(lambda m: [p(m) for p in places], model, new)


def test_padding_to_larger_sizes_changes_nothing(model: WorldModel) -> None:
    """A suite with a larger task beside these: the same losses and gradients, none in the padding."""
    same = replace(
        LOSS, actor=ActorConfig()
    )  # the actor's samples of more dimensions are other ones
    parts, priority, gradient = evaluate(model, data(), same)
    large = evaluate(embedded(model, 2), data(pad=2), same)
    for name in parts:
        np.testing.assert_allclose(large[0][name], parts[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(large[1], priority, rtol=1e-4, atol=1e-6)
    g = large[2]
    assert not g.observation_in.weight[3:5].any() and not g.action_in.weight[2:4].any()
    assert not g.policy_head.output.bias[[2, 3, 6, 7]].any()
    for padded, plain in (
        (g.policy_head.output.bias[[0, 1, 4, 5]], gradient.policy_head.output.bias),
        (g.observation_in.weight[:3], gradient.observation_in.weight[:3]),
    ):
        # Sums of float32 in another order: rounding in proportion to the largest entry.
        np.testing.assert_allclose(padded, plain, rtol=1e-4, atol=1e-6 * np.abs(plain).max())


def test_actions_in_padded_dimensions_do_not_matter(model: WorldModel) -> None:
    """Task 0 has one action dimension of two."""
    given = data()
    noise = np.float32([0.0, 0.6]) * (TASK == 0)[:, None]
    policy = given.targets.policy
    changed = given._replace(
        batch=given.batch._replace(action=given.batch.action + noise),
        targets=given.targets._replace(policy=policy._replace(mean=policy.mean + noise)),
    )
    assert_same(evaluate(model, changed), evaluate(model, given))


# -- gradients ---------------------------------------------------------------------------


def test_latent_gradient_is_halved_at_each_step(model: WorldModel) -> None:
    """What reaches the encoder is g0 + k g1 + k^2 g2, where g_i comes through i steps of the dynamics."""
    given = data()

    def encoder(keep: float) -> np.ndarray:
        modelled = replace(
            MSE, q=QConfig(), actor=ActorConfig()
        )  # the actor's would hide the others
        return evaluate(model, given, modelled, keep)[2].observation_in.weight

    zero, plus, minus = encoder(0.0), encoder(1.0), encoder(-1.0)
    first, second = (plus - minus) / 2, (plus + minus) / 2 - zero
    size = np.abs(zero).max()
    assert np.abs(first).max() > 0.05 * size and np.abs(second).max() > 0.01 * size
    expected = zero + first / 2 + second / 4
    np.testing.assert_allclose(encoder(0.5), expected, rtol=1e-3, atol=1e-4 * size)


def test_consistency_is_the_distance_to_the_given_latent(model: WorldModel) -> None:
    """Known value: mean square over dimensions, summed over steps, of the unrolled latents."""
    given = data()

    @eqx.filter_jit
    def latents(m: WorldModel) -> list[jax.Array]:
        context = m.context(jnp.asarray(TASK), jnp.asarray(mask(ACTIONS, 2)))
        z, result = m.represent(jnp.asarray(given.observation[0]), context), []
        for action in given.batch.action[:UNROLL]:
            z, _ = m.step(z, jnp.asarray(action), context)
            result.append(z)
        return result

    distance = np.square(np.stack(latents(model)) - given.targets.latent).mean(-1)
    expected = (distance * given.batch.weight).mean(1).sum() / UNROLL
    parts, _, _ = evaluate(model, given, MSE)
    assert float(parts["consistency"]) == pytest.approx(float(expected), rel=1e-4)


# -- the policy gradient -----------------------------------------------------------------

ACTOR = replace(
    MSE,
    reward_weight=0.0,
    value_weight=0.0,
    policy_weight=0.0,
    consistency_weight=0.0,
    path_weight=0.0,
    entropy_weight=0.0,
    q=QConfig(weight=1e-30),
    actor=ActorConfig(weight=1.0, scale="task"),
)
"""The policy gradient alone."""


def test_the_policy_gradient_changes_no_q_and_no_reward(model: WorldModel) -> None:
    gradient = evaluate(
        model, data(), replace(ACTOR, actor=replace(ACTOR.actor, shapes_latent=False))
    )[2]
    assert np.abs(gradient.policy_head.output.weight).max() > 1e-3
    for part in (gradient.q_heads, gradient.reward_head, gradient.value_heads, gradient.action_in):
        for leaf in jax.tree.leaves(part):
            np.testing.assert_allclose(leaf, 0.0, atol=1e-20)


@pytest.mark.parametrize("shapes", [True, False])
def test_the_policy_gradient_stops_at_the_latent_if_told_to(
    model: WorldModel, shapes: bool
) -> None:
    gradient = evaluate(
        model, data(), replace(ACTOR, actor=replace(ACTOR.actor, shapes_latent=shapes))
    )[2]
    assert np.abs(gradient.prediction_in.weight).max() > 1e-3
    for part in (gradient.dynamics, gradient.observation_in, gradient.task_embedding):
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(part))
        assert (largest > 1e-6) == shapes


def test_the_policy_gradient_points_to_larger_q(model: WorldModel) -> None:
    """A small step against the gradient of -Q raises Q of the policy's actions."""
    given, config = data(), replace(ACTOR, actor=ActorConfig(weight=1.0))
    parts, _, gradient = evaluate(model, given, config)
    moved = jax.tree.map(lambda x, g: x - 1e-2 * g, model.policy_head, gradient.policy_head)
    after, _, _ = evaluate(eqx.tree_at(lambda m: m.policy_head, model, moved), given, config)
    assert after["actor"] < parts["actor"] - 1e-4


def test_the_range_of_q_by_hand() -> None:
    """The 95th percentile less the 5th of evenly spaced values is nine tenths of what they span; one is not real."""
    spaced = np.linspace(0.0, 10.0, 101, dtype=np.float32)
    q = np.stack([spaced, 3.0 * spaced, np.zeros(101, np.float32)], axis=1)
    task = np.array([0, 1, 3])
    q[0, 0], real = 1e6, np.ones((101, 3), bool)
    real[0, 0] = False
    ranges = jax.jit(actor_scale, static_argnums=(3, 4))(q, real, task, 4, 0.25)
    np.testing.assert_allclose(ranges, [8.91, 27.0, 0.25], rtol=1e-5)


def test_without_an_unroll_q_and_policy_are_learned_at_the_observed_state(
    model: WorldModel,
) -> None:
    config = replace(MSE, unroll=0)
    targets = jax.tree.map(lambda x: x[:1], data().targets._replace(q_spread=None, reanalysed=None))
    targets = targets._replace(q_spread=np.ones(2, np.float32), latent=data().targets.latent[:0])
    given = data()._replace(targets=targets)
    given = given._replace(observation=given.observation[:1])
    parts, _, gradient = evaluate(model, given, config)
    assert all(parts[name] == 0.0 for name in ("reward", "consistency", "path"))
    assert all(parts[name] != 0.0 for name in ("value", "policy", "q", "actor"))
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient.dynamics))
    assert np.abs(gradient.observation_in.weight).max() > 1e-3
