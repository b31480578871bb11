"""The agent of one suite: the learner's state and the running statistics of observations and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ezm.agent.learning.learner import Learner, LearnerState, discounts, supports
from ezm.agent.learning.normalizer import ReturnScale, RunningStatistics
from ezm.agent.named import compare, filled, named
from ezm.agent.search_policy import ActingParameters, SuiteArrays
from ezm.agent.world_model import WorldModel
from ezm.config import TrainConfig
from ezm.tasks import Suite

TO_ACT = ("learner/model.", "statistics/")
"""Beginnings of the names of the arrays that acting needs, among :meth:`Agent.arrays`."""


@dataclass
class Agent:
    """The learner's state and the statistics, which training changes and evaluation reads."""

    suite: Suite
    learner: Learner
    state: LearnerState
    statistics: RunningStatistics

    @property
    def parameters(self) -> ActingParameters:
        """The parameters to act with, and the present statistics."""
        state = self.state
        normalizer = self.statistics.normalizer()
        return ActingParameters(state.model, normalizer, state.q_range, state.updates)

    def arrays(self) -> dict[str, Any]:
        """Returns all arrays of the agent by name, as nested dictionaries, for :meth:`load`."""
        learner = {name: np.asarray(leaf) for name, leaf in named(_raw_key(self.state)).items()}
        return {"learner": learner, "statistics": self.statistics.state()}

    def load(self, arrays: dict[str, Any]) -> None:
        """Loads the arrays of a saved agent with the same configuration and suite.

        Raises:
            ValueError: the arrays have other names or shapes. The message names the first that differs.
        """
        saved = filled(_raw_key(self.state), arrays["learner"])
        compare(self.statistics.state(), arrays["statistics"])
        state = jax.tree.map(jnp.asarray, saved)
        if state.key is not None:
            state = eqx.tree_at(lambda s: s.key, state, jax.random.wrap_key_data(state.key))
        self.state = state
        self.statistics.load(arrays["statistics"])


def _raw_key(state: LearnerState) -> LearnerState:
    """Returns the state with its random key as plain integers, which can be saved."""
    if state.key is None:
        return state
    return eqx.tree_at(lambda s: s.key, state, jax.random.key_data(state.key))


def build(config: TrainConfig, suite: Suite) -> Agent:
    """Returns an untrained agent for ``suite``. The same seed gives the same agent."""
    learner, network = _parts(config, suite)

    @eqx.filter_jit  # one program, instead of one for each of hundreds of small arrays
    def untrained(key: PRNGKeyArray) -> LearnerState:
        k_model, k_learner = jax.random.split(key)
        return learner.init(network(k_model), k_learner)

    return _agent(suite, learner, untrained(jax.random.key(config.seed)))


def for_acting(config: TrainConfig, suite: Suite) -> Agent:
    """Returns an agent to act with. Its learner's state has only the model, whose arrays come with :meth:`Agent.load`.

    Give ``load`` only the arrays of :data:`TO_ACT`.
    """
    learner, network = _parts(config, suite)

    def state(key: PRNGKeyArray) -> LearnerState:
        model, discount = network(key), learner.suite.discount
        return LearnerState(model, model, None, discount, None, jnp.zeros((), jnp.int32), key)

    shapes = eqx.filter_eval_shape(state, jax.random.key(0))
    only_model = eqx.tree_at(lambda s: (s.ema, s.q_range, s.updates, s.key), shapes, (None,) * 4)
    return _agent(suite, learner, only_model)


def _agent(suite: Suite, learner: Learner, state: LearnerState) -> Agent:
    scaled = learner.config.loss.reward_scaling
    returns = ReturnScale(np.asarray(learner.suite.discount)) if scaled else None
    statistics = RunningStatistics(suite.embodiments, suite.observation_size, returns)
    return Agent(suite, learner, state, statistics)


def _parts(
    config: TrainConfig, suite: Suite
) -> tuple[Learner, Callable[[PRNGKeyArray], WorldModel]]:
    """Returns the agent's learner, and the function that makes its untrained network from a key."""
    discount = discounts(config.loss.discount, [task.episode_steps for task in suite.tasks])
    value, reward = supports(config, [task.reward_range for task in suite.tasks], discount)
    learner = Learner(SuiteArrays(jnp.asarray(suite.action_mask), jnp.asarray(discount)), config)

    def network(key: PRNGKeyArray) -> WorldModel:
        return WorldModel(
            config.model,
            num_tasks=suite.num_tasks,
            observation_size=suite.observation_size,
            action_size=suite.action_size,
            value_support=value,
            reward_support=reward,
            key=key,
            neutral_action=suite.neutral_action,
        )

    return learner, network
