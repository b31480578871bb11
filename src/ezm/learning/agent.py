"""An agent: the learner's state and the statistics of what it has seen, for one suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ezm.config import TrainConfig
from ezm.learning.learner import Learner, LearnerState, SuiteArrays, discounts, supports
from ezm.learning.normalizer import RunningStatistics
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
        """Take over saved arrays of an agent of the same configuration and suite."""
        structure = jax.tree.structure(_raw_key(self.state))
        saved = arrays["learner"]
        state = jax.tree.unflatten(structure, [jnp.asarray(saved[name]) for name in sorted(saved)])
        self.state = eqx.tree_at(lambda s: s.key, state, jax.random.wrap_key_data(state.key))
        self.statistics.load(arrays["statistics"])


def _raw_key(state: LearnerState) -> LearnerState:
    """The random key as plain integers, which can be saved."""
    return eqx.tree_at(lambda s: s.key, state, jax.random.key_data(state.key))


def build(config: TrainConfig, suite: Suite) -> Agent:
    """An untrained agent for ``suite``; the same seed gives the same agent."""
    discount = discounts(config.loss.discount, [task.episode_steps for task in suite.tasks])
    value, reward = supports(config, [task.reward_range for task in suite.tasks], discount)
    learner = Learner(SuiteArrays(jnp.asarray(suite.action_mask), jnp.asarray(discount)), config)

    @eqx.filter_jit  # hundreds of small arrays: one program instead of one for each
    def untrained(key: PRNGKeyArray) -> LearnerState:
        k_model, k_learner = jax.random.split(key)
        model = WorldModel(
            config.model,
            num_tasks=suite.num_tasks,
            observation_size=suite.observation_size,
            action_size=suite.action_size,
            value_support=value,
            reward_support=reward,
            key=k_model,
        )
        return learner.init(model, k_learner)

    return Agent(
        suite=suite,
        learner=learner,
        state=untrained(jax.random.key(config.seed)),
        statistics=RunningStatistics(suite.bodies, suite.observation_size),
    )
