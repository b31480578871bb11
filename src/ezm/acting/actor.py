"""Actors: from an agent's parameters to actions in the environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
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
        config = config.evaluating() if evaluating else config
        self._searches = learner.config.acting == "search"
        self._key = jax.random.key(seed)
        self.steps = 0
        """Number of batches planned so far. It numbers the planner's samples, so a resumed run must set it."""

        policy = learner.policy

        def choose(
            key: Array,
            step: Array,
            parameters: ActingParameters,
            observation: Array,
            task: Array,
            *,
            mode: Literal["search", "policy"],
        ) -> Array:
            key = jax.random.fold_in(key, step)
            plan = policy.plan(key, parameters, observation, task, config)
            # The compiler drops unused results: the policy's mean needs no search.
            return plan.search.action if mode == "search" else plan.policy.mode()

        def explore(
            key: Array, step: Array, parameters: ActingParameters, observation: Array, task: Array
        ) -> tuple[Array, Searches]:
            key = jax.random.fold_in(key, step)
            plan = policy.plan(key, parameters, observation, task, config)
            return plan.search.action, policy.search_targets(plan, parameters, task)

        def sample(
            key: Array, step: Array, parameters: ActingParameters, observation: Array, task: Array
        ) -> Array:
            return policy.sample(jax.random.fold_in(key, step), parameters, observation, task)

        self._functions: dict[str, Callable[..., Any]] = {
            "explore": explore,
            "search": partial(choose, mode="search"),
            "policy": partial(choose, mode="policy"),
            "sample": sample,
        }
        self._programs: dict[tuple[str, int], Any] = {}  # by function and observations

    def reseed(self, seed: int) -> None:
        """Resets the actor to a new one with this seed. It keeps the compiled programs."""
        self._key, self.steps = jax.random.key(seed), 0

    def compile(
        self,
        parameters: ActingParameters,
        observation: np.ndarray,
        task: np.ndarray,
        *,
        exploring: bool,
    ) -> None:
        """Compiles :meth:`explore`, or :meth:`act`, for batches of this size ahead of the first call."""
        own = "explore" if self._searches else "sample"
        for name in (own,) if exploring else ("search", "policy"):
            self._program(name, parameters, observation, task)

    def act(
        self,
        parameters: ActingParameters,
        observation: np.ndarray,
        task: np.ndarray,
        mode: ActingMode = "search",
    ) -> np.ndarray:
        """Returns an action for each observation, (E, A).

        It is the search's best action ("search"), the policy's mean ("policy") or a sample of the policy ("sample").
        """
        return np.asarray(self._run(mode, parameters, observation, task))

    def explore(
        self, parameters: ActingParameters, observation: np.ndarray, task: np.ndarray
    ) -> tuple[Array, Searches | None]:
        """Returns training's action for each observation, (E, A), and the searches for the replay to store, (E, ...).

        Both may still be under way. The searches are None if training acts without search.
        """
        if not self._searches:
            return self._run("sample", parameters, observation, task), None
        found: tuple[Array, Searches] = self._run("explore", parameters, observation, task)
        return found

    def _run(self, name: str, *arguments: Any) -> Any:
        self.steps += 1
        return self._program(name, *arguments)(self._key, np.int32(self.steps), *arguments)

    def _program(self, name: str, *arguments: Any) -> Any:
        """Returns the compiled function of that name. ``arguments`` follow key and step, with the tasks last."""
        size = name, len(arguments[-1])
        if size not in self._programs:
            program = jax.jit(self._functions[name])
            lowered = program.lower(self._key, np.int32(0), *arguments)
            self._programs[size] = lowered.compile()
        return self._programs[size]

    def policy(
        self, parameters: ActingParameters, mode: ActingMode
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Returns a function ``act(observation, task) -> action`` with fixed parameters."""

        def act(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
            return self.act(parameters, observation, task, mode)

        return act


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
