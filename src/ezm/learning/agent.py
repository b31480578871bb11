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

from ezm.config import TrainConfig
from ezm.learning.learner import Learner, LearnerState, SuiteArrays, discounts, supports
from ezm.learning.normalizer import ReturnScale, RunningStatistics
from ezm.tasks import Suite
from ezm.world_model import WorldModel

TASK_EMBEDDING = "000"
"""Name of the model's task embeddings in :meth:`Agent.arrays`: the first array of the learner's state."""


@dataclass
class Agent:
    """The learner's state and the statistics, which training changes and evaluation reads."""

    suite: Suite
    learner: Learner
    state: LearnerState
    statistics: RunningStatistics

    def arrays(self) -> dict[str, Any]:
        """Returns all arrays of the agent as nested dictionaries, for :meth:`load`."""
        leaves = jax.tree.leaves(_raw_key(self.state))
        return {
            "learner": {f"{i:03d}": np.asarray(x) for i, x in enumerate(leaves)},
            "statistics": self.statistics.state(),
        }

    def load(self, arrays: dict[str, Any]) -> None:
        """Loads the arrays of a saved agent with the same configuration and suite.

        Raises:
            ValueError: the arrays have other shapes.
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
        """Returns the structure that :meth:`load` reads: nested dictionaries with 0 in place of each array."""
        leaves = jax.tree.leaves(_raw_key(self.state))
        return {
            "learner": {f"{i:03d}": 0 for i in range(len(leaves))},
            "statistics": dict.fromkeys(self.statistics.state(), 0),
        }


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

    The model comes first among the arrays that a trained agent saved, so ``load`` takes the first of them.
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
    statistics = RunningStatistics(suite.bodies, suite.observation_size, returns)
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
