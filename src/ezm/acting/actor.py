"""Actors: from an agent's parameters to actions in the environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ezm.agent.batch import Searches
from ezm.agent.learning import Learner
from ezm.agent.search_policy import ActingParameters

ActingMode = Literal["search", "policy", "sample"]
"""Source of actions: the search's best action, the policy's mean, or a sample of the policy."""


class Actor:
    """Plans actions for a batch of observations, with programs that are compiled once per batch size.

    Args:
        learner: holds the suite's arrays and the planner's configuration.
        seed: of the planner's samples.
        evaluating: act without exploration, see ``PlannerConfig.evaluation_spread``.
    """

    def __init__(self, learner: Learner, seed: int, *, evaluating: bool = False):
        config = learner.config.planner
        self._config = config.evaluating() if evaluating else config
        self._policy = learner.policy
        self._searches = learner.config.acting == "search"
        # Without such episodes the program must stay as it is: another program rounds in other places.
        self._policy_acts = learner.config.policy_episodes > 0.0
        self._programs: dict[tuple[str, int], Any] = {}  # by mode and number of observations
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Resets the actor to a new one with this seed. It keeps the compiled programs."""
        self._key = jax.random.key(seed)
        self.steps = 0
        """Number of batches planned so far. It numbers the planner's samples, so a resumed run must set it."""

    def compile(
        self,
        parameters: ActingParameters,
        observation: np.ndarray,
        task: np.ndarray,
        *,
        exploring: bool,
    ) -> None:
        """Compiles :meth:`explore`, or :meth:`act`, for batches of this size ahead of the first call."""
        state = parameters, observation, task
        if not exploring:
            for mode in ("search", "policy"):
                self._program(mode, *state)
        elif self._searches:
            self._program("explore", *state, np.zeros(len(task), bool))
        else:
            self._program("sample", *state)

    def act(
        self,
        parameters: ActingParameters,
        observation: np.ndarray,
        task: np.ndarray,
        mode: ActingMode = "search",
    ) -> np.ndarray:
        """Returns an action for each observation, (E, A). ``mode`` is its source, see :data:`ActingMode`."""
        return np.asarray(self._run(mode, parameters, observation, task))

    def explore(
        self,
        parameters: ActingParameters,
        observation: np.ndarray,
        task: np.ndarray,
        by_policy: np.ndarray,
    ) -> tuple[Array, Searches | None]:
        """Returns training's action for each observation, (E, A), and the searches for the replay to store, (E, ...).

        Both may still be under way. The searches are None if training acts without search.

        Args:
            parameters: the agent's.
            observation: (E, O).
            task: (E,).
            by_policy: (E,) bool, where the action is the policy's mean instead of the search's best action.
        """
        if not self._searches:
            return self._run("sample", parameters, observation, task), None
        return self._run("explore", parameters, observation, task, by_policy)

    def policy(
        self, parameters: ActingParameters, mode: ActingMode
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Returns a function ``act(observation, task) -> action`` with fixed parameters."""
        return partial(self.act, parameters, mode=mode)

    def _run(self, mode: str, *state: Any) -> Any:
        self.steps += 1
        return self._program(mode, *state)(self._key, np.int32(self.steps), *state)

    def _program(self, mode: str, *state: Any) -> Any:
        """Returns :meth:`_choose`, compiled for this mode and number of observations."""
        size = mode, len(state[-1])
        if size not in self._programs:
            program = jax.jit(self._choose, static_argnums=0)
            lowered = program.lower(mode, self._key, np.int32(0), *state)
            self._programs[size] = lowered.compile()
        return self._programs[size]

    def _choose(
        self,
        mode: str,
        key: Array,
        step: Array,
        parameters: ActingParameters,
        observation: Array,
        task: Array,
        by_policy: Array | None = None,
    ) -> Any:
        """Returns the mode's actions, with their searches where the mode is "explore"."""
        key = jax.random.fold_in(key, step)
        if mode == "sample":
            return self._policy.sample(key, parameters, observation, task)
        plan = self._policy.plan(key, parameters, observation, task, self._config)
        if mode == "policy":  # the compiler drops the search
            return plan.policy.mode()
        if mode == "search":
            return plan.search.action
        action = plan.search.action
        if self._policy_acts:
            assert by_policy is not None
            action = jnp.where(by_policy[:, None], plan.policy.mode(), action)
        return action, self._policy.search_targets(plan, parameters, task)


def behaviour_task(
    rng: np.random.Generator, task: int, embodiments: Sequence[int], share: float
) -> int:
    """Returns the task whose policy acts in an episode of ``task``: itself, or sometimes a task with the same embodiment.

    A task thereby gets data from another task's skills, before its own value function has found any reward. This is
    ours, not the paper's.

    Args:
        rng: draws the task.
        task: index of the task.
        embodiments: see :attr:`ezm.tasks.Suite.embodiments`.
        share: probability of another task's policy, if another task has the same embodiment.
    """
    peers = [t for t, own in enumerate(embodiments) if own == embodiments[task] and t != task]
    if peers and rng.random() < share:
        return int(rng.choice(peers))
    return task
