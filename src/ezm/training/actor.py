"""Actors: from an agent's parameters to actions in the environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array

from ezm.learning import Learner, LearnerState, Normalizer
from ezm.replay import Searches
from ezm.world_model import WorldModel

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

        def choose(
            key: Array,
            step: Array,
            model: WorldModel,
            normalizer: Normalizer,
            observation: Array,
            task: Array,
            *,
            mode: Literal["search", "policy"],
        ) -> Array:
            key = jax.random.fold_in(key, step)
            plan = learner.plan(key, model, normalizer, observation, task, config)
            # The compiler drops unused results: the policy's mean needs no search.
            return plan.search.action if mode == "search" else plan.policy.mode()

        def explore(
            key: Array,
            step: Array,
            model: WorldModel,
            q_range: Array,
            updates: Array,
            normalizer: Normalizer,
            observation: Array,
            task: Array,
        ) -> tuple[Array, Searches]:
            key = jax.random.fold_in(key, step)
            plan = learner.plan(key, model, normalizer, observation, task, config)
            found = learner.found(plan, normalizer, task, q_range, updates)
            return plan.search.action, found

        def sample(
            key: Array,
            step: Array,
            model: WorldModel,
            normalizer: Normalizer,
            observation: Array,
            task: Array,
        ) -> Array:
            key = jax.random.fold_in(key, step)
            context = model.context(task, learner.suite.action_mask)
            latent = model.represent(normalizer(observation, task), context)
            return model.predict(latent, context)[1].one(key)

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
        state: LearnerState,
        normalizer: Normalizer,
        observation: np.ndarray,
        task: np.ndarray,
        *,
        exploring: bool,
    ) -> None:
        """Compiles :meth:`explore`, or :meth:`act`, for batches of this size ahead of the first call."""
        if exploring and not self._searches:
            self._program("sample", state.model, normalizer, observation, task)
        elif exploring:
            self._program("explore", *_acting(state), normalizer, observation, task)
        else:
            for mode in ("search", "policy"):
                self._program(mode, state.model, normalizer, observation, task)

    def act(
        self,
        model: WorldModel,
        normalizer: Normalizer,
        observation: np.ndarray,
        task: np.ndarray,
        mode: ActingMode = "search",
    ) -> np.ndarray:
        """Returns an action for each observation, (E, A).

        It is the search's best action ("search"), the policy's mean ("policy") or a sample of the policy ("sample").
        """
        return np.asarray(self._run(mode, model, normalizer, observation, task))

    def explore(
        self,
        state: LearnerState,
        normalizer: Normalizer,
        observation: np.ndarray,
        task: np.ndarray,
    ) -> tuple[Array, Searches | None]:
        """Returns training's action for each observation, (E, A), and the searches for the replay to store, (E, ...).

        Both may still be under way. The searches are None if training acts without search.
        """
        if not self._searches:
            return self._run("sample", state.model, normalizer, observation, task), None
        found: tuple[Array, Searches] = self._run(
            "explore", *_acting(state), normalizer, observation, task
        )
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
        self, model: WorldModel, normalizer: Normalizer, mode: ActingMode
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Returns a function ``act(observation, task) -> action`` with fixed parameters."""

        def act(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
            return self.act(model, normalizer, observation, task, mode)

        return act


def _acting(state: LearnerState) -> tuple[WorldModel, Array, Array]:
    """Returns the parts of the learner's state that acting reads. An update may overwrite the rest."""
    return state.model, state.q_range, state.updates


def policy_for_episode(
    rng: np.random.Generator, task: int, bodies: Sequence[int], share: float
) -> int:
    """Returns the task whose policy acts in an episode of ``task``: itself, or sometimes a task with the same body.

    A task thereby gets data from another task's skills, before its own value function has found any reward. This is
    ours, not the paper's.

    Args:
        rng: draws the task.
        task: index of the task.
        bodies: see :attr:`ezm.tasks.Suite.bodies`.
        share: probability of another task's policy, if another task has the same body.
    """
    peers = [t for t, body in enumerate(bodies) if body == bodies[task] and t != task]
    if peers and rng.random() < share:
        return int(rng.choice(peers))
    return task
