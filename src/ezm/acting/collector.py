"""Collecting experience: the seam between acting and learning.

A :class:`Collector` steps a suite's environments. It needs the parameters to act with from a :class:`ParameterSource`,
and an :class:`ExperienceSink` takes what it returns. Neither knows the other side, so a collector may run in the
learner's process, in another process or on another machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from ezm.acting.actor import Actor, behaviour_task
from ezm.acting.evaluate import random_policy
from ezm.agent.batch import Searches
from ezm.agent.search_policy import ActingParameters
from ezm.agent.world_model.policy import MAX_ACTION
from ezm.config import TrainConfig
from ezm.errors import Diverged
from ezm.tasks import ParallelTasks, StepBatch

_EARLY_SHARE = 0.4  # of the run, in which ``early_episode_steps`` cuts episodes (the authors' code)


class Experience(NamedTuple):
    """One step of E environments, with the searches of the states before it."""

    task: np.ndarray
    """Task of each environment, (E,) int32."""
    behaviour_task: np.ndarray
    """The task whose policy acts in each running episode, (E,) int32."""
    by_policy: np.ndarray
    """(E,) bool: whether the policy's mean acts in the running episode, and not the search."""
    action: np.ndarray
    """(E, A) float32."""
    step: StepBatch
    """The result of the step. Where an episode ended, ``observation`` begins the next one."""
    searches: Searches | None
    """(E, ...) searches of the states before the step, None where actions are random or a sample of the policy."""
    searched: np.ndarray
    """(E,) bool: whether the search is a target for the environment's own task."""


Chosen = tuple[np.ndarray, Searches | None]
"""The actions of a step, (E, A) float32, and the searches of its states, (E, ...), None where there are none."""


class ParameterSource(Protocol):
    """Gives a collector the parameters to act with."""

    def latest(self) -> ActingParameters:
        """Returns the newest parameters."""


class ExperienceSink(Protocol):
    """Takes what a collector experiences."""

    def begin(self, task: np.ndarray, observation: np.ndarray) -> None:
        """Takes the first observations (N, O) of new episodes of the tasks (N,), whose last episodes have no end."""

    def add(self, experience: Experience) -> None:
        """Takes one step of all environments."""


class Collector:
    """Acts in a suite's environments.

    Args:
        config: of the run.
        environments: of the suite, to be reset by :meth:`reset` or restored by :meth:`load`.
        actor: chooses the actions.
        rng: draws random actions, noise, and whose policy acts in an episode.
        steps: environment steps per task that the run has made before.
    """

    def __init__(
        self,
        config: TrainConfig,
        environments: ParallelTasks,
        actor: Actor,
        rng: np.random.Generator,
        steps: int = 0,
    ) -> None:
        self.environments, self.actor, self.steps = environments, actor, steps
        self._config, self._suite, self._rng = config, environments.suite, rng
        self.behaviour_task = environments.task_ids.copy()
        """The task whose policy acts in each environment's running episode."""
        self._noise = np.zeros(len(environments.task_ids), np.float32)
        """Standard deviation of the noise on the actions of each environment's running episode."""
        self._by_policy = np.zeros(len(environments.task_ids), bool)
        """Whether the policy's mean acts in each environment's running episode."""

    def reset(self, sink: ExperienceSink) -> None:
        """Begins a new episode in every environment."""
        self.environments.reset()
        self._begin(sink, np.arange(len(self.environments.task_ids)))

    def act(self, source: ParameterSource) -> Experience:
        """Searches, and makes one step of every environment.

        Raises:
            UserError: an environment failed.
            Diverged: an action is not finite.
        """
        return self.step(self.choose(self.plan(source)))

    def plan(self, source: ParameterSource) -> Any:
        """Starts the search for the next actions, for :meth:`choose`. Random actions need no parameters."""
        if self.steps < self._config.random_steps:
            return None
        return self.actor.explore(
            source.latest(), self.environments.observation, self.behaviour_task, self._by_policy
        )

    def choose(self, planned: Any) -> Chosen:
        """Waits for the search, and returns the actions with their noise.

        Raises:
            Diverged: an action is not finite.
        """
        tasks = self.environments.task_ids
        if planned is None:
            return random_policy(self._suite, self._rng)(self.environments.observation, tasks), None
        action, searches = np.asarray(planned[0]), planned[1]
        if not np.isfinite(action).all():
            raise Diverged(f"the agent's action is {action[~np.isfinite(action)][0]}")
        if self._config.noise:
            noise = self._noise[:, None] * self._rng.standard_normal(action.shape, np.float32)
            action = np.clip(action + noise, -MAX_ACTION, MAX_ACTION)
            action *= self._suite.action_mask[tasks]
        return action, searches

    def step(self, chosen: Chosen) -> Experience:
        """Makes one step of every environment with the chosen actions.

        Raises:
            UserError: an environment failed.
        """
        action, searches = chosen
        config, environments = self._config, self.environments
        tasks, behaviour = environments.task_ids, self.behaviour_task.copy()
        by_policy = self._by_policy.copy()
        if config.early_episode_steps is not None:
            early = self.steps < _EARLY_SHARE * config.steps
            environments.cut_episodes(config.early_episode_steps if early else None)
        step = environments.step(action)
        self.steps += 1
        for e in np.flatnonzero(step.terminated | step.truncated).tolist():
            self._draw(e)
        # A search for another task is no target for this task.
        searched = behaviour == tasks
        return Experience(tasks, behaviour, by_policy, action, step, searches, searched)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays that :meth:`load` needs besides the environments' own state."""
        return {"task": self.behaviour_task, "noise": self._noise, "by_policy": self._by_policy}

    def load(
        self,
        saved: dict[str, np.ndarray],
        environments: dict[str, np.ndarray] | None,
        sink: ExperienceSink,
    ) -> list[int]:
        """Continues from :meth:`state` and the state of the environments. Without the latter, begins new episodes.

        Returns the environments that began a new episode.
        """
        self.behaviour_task[:], self._noise[:] = saved["task"], saved["noise"]
        self._by_policy[:] = saved.get("by_policy", False)  # not in checkpoints before the option
        if environments is None:
            self.environments.reset()
            again = list(range(len(self.environments.task_ids)))
        else:
            again = self.environments.load(environments)
        self._begin(sink, np.array(again, int))
        return again

    def _begin(self, sink: ExperienceSink, places: np.ndarray) -> None:
        sink.begin(self.environments.task_ids[places], self.environments.observation[places])
        for e in places.tolist():
            self._draw(e)

    def _draw(self, e: int) -> None:
        """Draws the policy and the noise of the episode that environment ``e`` begins."""
        task, config = int(self.environments.task_ids[e]), self._config
        drawn = behaviour_task(self._rng, task, self._suite.embodiments, config.cross_task_episodes)
        self.behaviour_task[e] = task if self.steps < config.random_steps else drawn
        if config.noise:
            self._noise[e] = self._rng.uniform(0.0, config.noise)
        if config.policy_episodes:
            self._by_policy[e] = self._rng.random() < config.policy_episodes
