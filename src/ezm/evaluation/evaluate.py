"""Evaluation: full episodes of every task without exploration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ezm.tasks import ParallelTasks, Suite

Mode = Literal["search", "policy", "random"]
Act = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``act(observation (E, O), task (E,)) -> action (E, A)``."""


class Evaluator:
    """Environments kept for evaluation: ``copies`` of every task.

    Args:
        suite: the tasks.
        copies: episodes that run side by side for each task.
        seed: of the environments; each call of :meth:`run` goes on with new episodes.
    """

    def __init__(self, suite: Suite, copies: int, seed: int):
        self.suite, self.copies = suite, copies
        self._environments = ParallelTasks(suite, seed, copies=copies)

    def run(self, act: Act, episodes: int) -> list[list[float]]:
        """Undiscounted returns of ``episodes`` complete episodes of every task.

        Args:
            act: the policy to evaluate.
            episodes: per task.

        Returns:
            One list per task of the suite.
        """
        returns: list[list[float]] = [[] for _ in range(self.suite.num_tasks)]
        while min(map(len, returns)) < episodes:
            for task, value in zip(self._environments.task_ids, self._wave(act), strict=True):
                returns[task].append(value)
        return [values[:episodes] for values in returns]

    def _wave(self, act: Act) -> np.ndarray:
        """The first episode of every environment, all started anew."""
        environments = self._environments
        observation = environments.reset()
        result = np.full(len(environments.task_ids), np.nan)
        while np.isnan(result).any():
            step = environments.step(act(observation, environments.task_ids))
            observation = step.observation
            first = np.isnan(result) & (step.episode_length > 0)
            result[first] = step.episode_return[first]
        return result

    def state(self) -> dict[str, np.ndarray]:
        """What decides the episodes to come, as arrays to be saved."""
        return self._environments.state()

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on as the evaluator whose :meth:`state` it was."""
        self._environments.load(state)

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


def random_policy(suite: Suite, seed: int) -> Act:
    """Uniformly random actions, 0 in padded dimensions."""
    rng = np.random.default_rng(seed)

    def act(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
        shape = (len(task), suite.action_size)
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32) * suite.action_mask[task]

    return act
