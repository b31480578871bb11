"""From an agent's parameters to actions in the environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array

from ezm.learning import Learner, LearnerState, Normalizer
from ezm.programs import prepare
from ezm.replay import Searches
from ezm.world_model import WorldModel

ActingMode = Literal["search", "policy", "sample"]
"""Acts on the search's best action, on the policy's mean, or on a sample of the policy."""


class Actor:
    """Plans for a batch of observations; compiled once per batch size.

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
        """Batches planned for; numbers the planner's samples, so a resumed run has to set it."""

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
            # Only what is returned is computed: the policy's mean needs no search.
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
        self._of = f"{learner.identity} {config}"
        self._programs: dict[tuple[str, int], Any] = {}  # by function and observations

    def reseed(self, seed: int) -> None:
        """Go on as a new actor with this seed would; nothing is compiled again."""
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
        """Compile :meth:`explore`, or :meth:`act`, for batches of this size ahead of the first call."""
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
        """The search's best action, the policy's mean ("policy") or a sample of it, for each observation: (E, A)."""
        return np.asarray(self._run(mode, model, normalizer, observation, task))

    def explore(
        self,
        state: LearnerState,
        normalizer: Normalizer,
        observation: np.ndarray,
        task: np.ndarray,
    ) -> tuple[Array, Searches | None]:
        """Training's action for each observation (E, A), and what the replay stores of the searches (E, ...).

        Both may still be under way. Where training acts without search, there is nothing to store.
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
        """The compiled function of that name; ``arguments`` are those behind the step, the tasks last."""
        size = name, len(arguments[-1])
        if size not in self._programs:
            function, of = self._functions[name], f"{name} {self._of}"
            prepared = prepare(function, self._key, np.int32(0), *arguments, of=of)
            self._programs[size] = prepared.compile()
        return self._programs[size]

    def policy(
        self, model: WorldModel, normalizer: Normalizer, mode: ActingMode
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """``act(observation, task) -> action`` with fixed parameters."""

        def act(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
            return self.act(model, normalizer, observation, task, mode)

        return act


def _acting(state: LearnerState) -> tuple[WorldModel, Array, Array]:
    """What acting needs of the learner: an update may write over the rest."""
    return state.model, state.q_range, state.updates


def policy_for_episode(
    rng: np.random.Generator, task: int, bodies: Sequence[int], share: float
) -> int:
    """The task whose policy acts in an episode of ``task``: its own, or now and then that of a task of the same body.

    What one task can do, another then sees done, before its own value knows where reward is. Ours, not the paper's.

    Args:
        rng: decides.
        task: index of the task.
        bodies: see :attr:`ezm.tasks.Suite.bodies`.
        share: probability of another task's policy, where there is a task of the same body.
    """
    peers = [t for t, body in enumerate(bodies) if body == bodies[task] and t != task]
    if peers and rng.random() < share:
        return int(rng.choice(peers))
    return task
