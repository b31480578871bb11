"""The seam between acting and learning: a collector in another process experiences the same."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.acting.actor import Actor
from ezm.acting.collector import Collector, Experience
from ezm.agent import build, for_acting
from ezm.agent.search_policy import ActingParameters
from ezm.config import TrainConfig
from ezm.config.presets import PRESETS
from ezm.tasks import ParallelTasks, Suite, load_suite

SUITE = "dmc:cartpole-balance,cartpole-swingup"
STEPS, RANDOM = 40, 10
CPU = PRESETS["cpu"]
CONFIG = replace(
    CPU,
    suite=SUITE,
    random_steps=RANDOM,
    cross_task_episodes=0.5,
    policy_episodes=0.5,
    noise=0.2,
    early_episode_steps=7,
    model=replace(CPU.model, latent_size=16),
    planner=replace(CPU.planner, simulations=4, root_actions=4),
)


class Sink:
    """Keeps everything, also as arrays in the order of arrival."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.experience: list[Experience] = []

    def begin(self, task: np.ndarray, observation: np.ndarray) -> None:
        self.arrays += [task.copy(), observation.copy()]

    def add(self, experience: Experience) -> None:
        self.experience.append(experience)
        parts = experience._replace(step=vars(experience.step))
        self.arrays += [np.array(each) for each in jax.tree.leaves(parts)]


class Fixed(NamedTuple):
    """A source of the same parameters at every step."""

    parameters: ActingParameters

    def latest(self) -> ActingParameters:
        return self.parameters


class Received:
    """A source of parameters that come over a connection, as plain arrays."""

    def __init__(self, connection: Connection, config: TrainConfig, suite: Suite) -> None:
        agent = for_acting(config, suite)
        tasks, none = jnp.zeros(suite.num_tasks), jnp.zeros((), jnp.int32)
        parameters = replace(agent.parameters, q_range=tasks, updates=none)
        self._connection, self._structure = connection, jax.tree.structure(parameters)

    def latest(self) -> ActingParameters:
        arrays: list[np.ndarray] = self._connection.recv()
        parameters: ActingParameters = jax.tree.unflatten(self._structure, arrays)
        return parameters


def collect(config: TrainConfig, suite: Suite, source: Any, sink: Any) -> None:
    """Collects as the trainer does, with randomness of its own."""
    environments = ParallelTasks(suite, seed=3)
    rng = np.random.default_rng(5)
    collector = Collector(config, environments, Actor(build(config, suite).learner, 1), rng)
    try:
        collector.reset(sink)
        for _ in range(STEPS):
            sink.add(collector.act(source))
    finally:
        environments.close()


def elsewhere(connection: Connection) -> None:
    """Collects in this process, and sends the experience over the connection."""
    suite, sink = load_suite(SUITE), Sink()
    collect(CONFIG, suite, Received(connection, CONFIG, suite), sink)
    connection.send(sink.arrays)


@pytest.fixture(scope="module")
def here() -> tuple[ActingParameters, Sink]:
    suite, sink = load_suite(SUITE), Sink()
    parameters = build(CONFIG, suite).parameters
    collect(CONFIG, suite, Fixed(parameters), sink)
    return parameters, sink


def test_a_collector_in_another_process_experiences_the_same(
    here: tuple[ActingParameters, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, expected = here[0], here[1].arrays
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir or "")
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=elsewhere, args=(theirs,))
    process.start()
    theirs.close()
    for _ in range(STEPS - RANDOM):  # random actions need no parameters
        ours.send([np.asarray(leaf) for leaf in jax.tree.leaves(parameters)])
    found = ours.recv()
    process.join()
    assert process.exitcode == 0
    assert len(found) == len(expected) > STEPS
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_experienced_is_whole(here: tuple[ActingParameters, Sink]) -> None:
    kept = here[1].experience
    assert [each.searches is None for each in kept] == [True] * RANDOM + [False] * (STEPS - RANDOM)
    ended = np.array([each.step.truncated for each in kept])
    by_policy = np.array([each.by_policy for each in kept])
    assert by_policy.any() and not by_policy.all()
    changes = np.flatnonzero((by_policy[1:] != by_policy[:-1]).any(1))
    assert (
        ended[changes].any(1).all()
    )  # the search takes turns with the policy where an episode ends
    assert (np.flatnonzero(ended[:, 0]) == np.arange(6, STEPS, 7)[: ended[:, 0].sum()]).all()
    before = np.array([each.behaviour_task for each in kept])
    assert {0, 1} == set(before[:, 0]) == set(before[:, 1])  # episodes of both tasks are borrowed
    changes = np.flatnonzero((before[1:] != before[:-1]).any(1))
    assert ended[changes].any(1).all()  # the policy changes where an episode ends
    for each in kept:
        np.testing.assert_array_equal(each.searched, each.behaviour_task == each.task)
        assert np.abs(each.action).max() <= 1.0
        assert np.isfinite(each.step.episode_return[each.step.truncated]).all()


@pytest.mark.parametrize(("share", "mode"), [(0.0, "search"), (1.0, "policy")])
def test_the_policy_acts_in_its_episodes_and_the_search_still_gives_targets(
    share: float, mode: Any
) -> None:
    config = replace(CONFIG, noise=0.0, cross_task_episodes=0.0, policy_episodes=share)
    suite, sink = load_suite(SUITE), Sink()
    learner, parameters = build(config, suite).learner, build(config, suite).parameters
    collect(config, suite, Fixed(parameters), sink)
    expected, observation = Actor(learner, 1), sink.arrays[1]
    for each in sink.experience:
        if each.searches is not None:
            action = expected.act(parameters, observation, each.task, mode)
            np.testing.assert_allclose(each.action, action, atol=1e-6)
            assert each.searched.all() and (each.by_policy == (mode == "policy")).all()
            assert len(np.unique(each.searches.actions[0], axis=0)) == 4
        observation = each.step.observation


def test_a_checkpoint_from_before_the_option_loads() -> None:
    suite, sink = load_suite(SUITE), Sink()
    environments = ParallelTasks(suite, seed=3)
    actor = Actor(build(CONFIG, suite).learner, 1)
    collector = Collector(CONFIG, environments, actor, np.random.default_rng(5), steps=STEPS)
    try:
        collector.reset(sink)
        state = collector.state()
        del state["by_policy"]
        assert collector.load(state, None, sink) == [0, 1]
    finally:
        environments.close()
