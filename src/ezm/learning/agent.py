"""An agent: the learner's state and the statistics of what it has seen, for one suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ezm.config import TrainConfig
from ezm.learning.learner import Learner, LearnerState, SuiteArrays, discounts, supports
from ezm.learning.normalizer import ReturnScale, RunningStatistics
from ezm.tasks import Suite
from ezm.world_model import WorldModel

TASK_EMBEDDING = "000"
"""What :meth:`Agent.arrays` calls the model's task embeddings, the first array of the learner's state."""


@dataclass
class Agent:
    """What training changes and what evaluation needs."""

    suite: Suite
    learner: Learner
    state: LearnerState
    statistics: RunningStatistics

    def arrays(self) -> dict[str, Any]:
        """Every number of the agent as nested dictionaries; :meth:`load` takes them back."""
        leaves = jax.tree.leaves(_raw_key(self.state))
        return {
            "learner": {f"{i:03d}": np.asarray(x) for i, x in enumerate(leaves)},
            "statistics": self.statistics.state(),
        }

    def load(self, arrays: dict[str, Any]) -> None:
        """Take over saved arrays of an agent of the same configuration and suite.

        Raises:
            ValueError: they are of another one.
        """
        leaves, structure = jax.tree.flatten(_raw_key(self.state))
        saved = [jnp.asarray(each) for _, each in sorted(arrays["learner"].items())]
        if [each.shape for each in saved] != [leaf.shape for leaf in leaves]:
            raise ValueError("the networks differ")
        state = jax.tree.unflatten(structure, saved)
        if state.key is not None:
            state = eqx.tree_at(lambda s: s.key, state, jax.random.wrap_key_data(state.key))
        self.state = state
        self.statistics.load(arrays["statistics"])

    def names(self) -> dict[str, Any]:
        """What :meth:`load` takes: nested dictionaries with 0 in place of each array."""
        leaves = jax.tree.leaves(_raw_key(self.state))
        return {
            "learner": {f"{i:03d}": 0 for i in range(len(leaves))},
            "statistics": dict.fromkeys(self.statistics.state(), 0),
        }


def _raw_key(state: LearnerState) -> LearnerState:
    """The random key as plain integers, which can be saved."""
    if state.key is None:
        return state
    return eqx.tree_at(lambda s: s.key, state, jax.random.key_data(state.key))


def build(config: TrainConfig, suite: Suite) -> Agent:
    """An untrained agent for ``suite``; the same seed gives the same agent."""
    learner, network = _parts(config, suite)

    @eqx.filter_jit  # hundreds of small arrays: one program instead of one for each
    def untrained(key: PRNGKeyArray) -> LearnerState:
        k_model, k_learner = jax.random.split(key)
        return learner.init(network(k_model), k_learner)

    return _agent(suite, learner, untrained(jax.random.key(config.seed)))


def for_acting(config: TrainConfig, suite: Suite) -> Agent:
    """An agent to act with: of the learner's state it has the model alone, and no numbers before :meth:`Agent.load`.

    The model comes first among a learner's arrays, so it takes over the first of those that a trained agent saved.
    """
    learner, network = _parts(config, suite)
    model = eqx.filter_eval_shape(network, jax.random.key(0))
    none: Any = None
    return _agent(suite, learner, LearnerState(model, none, none, none, none, none, none))


def _agent(suite: Suite, learner: Learner, state: LearnerState) -> Agent:
    scaled = learner.config.loss.reward_scaling
    returns = ReturnScale(np.asarray(learner.suite.discount)) if scaled else None
    statistics = RunningStatistics(suite.bodies, suite.observation_size, returns)
    return Agent(suite, learner, state, statistics)


def _parts(
    config: TrainConfig, suite: Suite
) -> tuple[Learner, Callable[[PRNGKeyArray], WorldModel]]:
    """The functions of an agent: its learner, and its untrained network from a key."""
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
