"""Evaluation: full episodes of every task without exploration."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable
from contextlib import closing
from typing import Literal, NamedTuple

import numpy as np

from ezm.tasks import ParallelTasks, Suite, Task

_log = logging.getLogger(__name__)

Mode = Literal["search", "policy", "random"]
Act = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``act(observation (E, O), task (E,)) -> action (E, A)``."""
Watch = Callable[[int, int], None]
"""``watch(step, ended)``: called after every step with its number and the number of ended episodes."""

SIDE_BY_SIDE = 20
"""The most episodes of a task that run at once."""
LONGEST_EPISODE = 10_000
"""Agent steps after which an evaluation truncates an episode of a task without a time limit.

It is five times the longest limit of Gymnasium's continuous tasks (2,000 steps, BipedalWalkerHardcore). The usual limit
is a tenth of it: dm_control, HumanoidBench and Gymnasium's MuJoCo tasks have 1,000 steps.
"""


class Episodes(NamedTuple):
    """N complete episodes, each field an array (N,)."""

    returns: np.ndarray
    """Undiscounted returns."""
    lengths: np.ndarray
    """Agent steps."""
    terminated: np.ndarray
    """Whether the task's rules ended the episode, for example at a fall. Otherwise its time was up."""


def episodes(
    suite: Suite,
    task: int,
    act: Act,
    number: int,
    seed: int,
    watch: Watch = lambda step, ended: None,
    step_limit: float | None = None,
) -> Episodes:
    """Plays ``number`` episodes of one task. The same seed gives the same episodes, whatever else is evaluated.

    The seed, the task's name and the episode's number determine how an episode begins. Episodes run in parallel, in
    equal groups of at most :data:`SIDE_BY_SIDE`. Without a time limit of the task's own, :data:`LONGEST_EPISODE` is the
    limit.

    Args:
        suite: the tasks, among which ``task`` is an index.
        act: the policy to evaluate.
        number: of episodes, at least 1.
        seed: at least 0.
        step_limit: see :class:`ezm.tasks.ParallelTasks`.

    Raises:
        UserError: the environment failed.
    """
    groups = math.ceil(number / SIDE_BY_SIDE)
    copies = math.ceil(number / groups)  # equal groups: each size compiles the policy again
    found: list[Episodes] = []
    endless: set[str] = set()
    for group in range(groups):
        numbers = range(group * copies, (group + 1) * copies)
        seeds = [derived_seed(seed, suite.task_names[task], each) for each in numbers]

        def told(step: int, ended: int, before: int = numbers.start) -> None:
            watch(step, min(before + ended, number))

        environments = ParallelTasks(suite, seeds, task_ids=[task] * copies, step_limit=step_limit)
        with closing(environments):
            found.append(_first_episodes(environments, act, endless, told))
    return Episodes(*(np.concatenate(parts)[:number] for parts in zip(*found, strict=True)))


def derived_seed(seed: int, task: str, number: int = 0) -> int:
    """Returns a 32-bit seed for a task and a number, unrelated to the training's seeds, which are not mixed so."""
    mixed = np.random.SeedSequence([seed, zlib.crc32(task.encode()), number])
    return int(mixed.generate_state(1)[0])


def limit_episode(task: Task) -> None:
    """Truncates a task's evaluated episodes after :data:`LONGEST_EPISODE` if it has no time limit."""
    if task.spec.episode_steps is None:
        task.cut_after = LONGEST_EPISODE


def warn_of_cut(task: str) -> None:
    """Warns that an episode of a task was truncated by :func:`limit_episode`."""
    _log.warning(
        f"task {task}: an episode has not ended within {LONGEST_EPISODE:,} steps, so its evaluation stops there; "
        "declare a time limit (max_episode_steps)"
    )


def _first_episodes(
    environments: ParallelTasks,
    act: Act,
    endless: set[str],
    watch: Watch = lambda step, ended: None,
) -> Episodes:
    """Plays the first episode of every environment, after a reset of all.

    Warns of tasks without an end, but not of those that are in ``endless``, and adds them there.
    """
    for task in environments.tasks:
        limit_episode(task)
    observation = environments.reset()
    count = len(environments.task_ids)
    found = Episodes(np.full(count, np.nan), np.zeros(count, int), np.zeros(count, bool))
    number = 0
    while (running := found.lengths == 0).any():
        step = environments.step(act(observation, environments.task_ids))
        observation = step.observation
        number += 1
        first = running & (step.episode_length > 0)
        found.returns[first] = step.episode_return[first]
        found.lengths[first] = step.episode_length[first]
        found.terminated[first] = step.terminated[first]
        for index in np.flatnonzero(first & step.truncated):
            task = environments.tasks[index]
            if found.lengths[index] == task.cut_after and task.spec.name not in endless:
                endless.add(task.spec.name)
                warn_of_cut(task.spec.name)
        watch(number, int((found.lengths > 0).sum()))
    return found


class Evaluator:
    """Environments kept for evaluation: ``copies`` of every task.

    Without a time limit of a task's own, :data:`LONGEST_EPISODE` is the limit.

    Args:
        suite: the tasks.
        copies: episodes of each task that run in parallel.
        seed: of the environments. Each call of :meth:`run` continues with new episodes.
        step_limit, on_hang: see :class:`ezm.tasks.ParallelTasks`.
    """

    def __init__(
        self,
        suite: Suite,
        copies: int,
        seed: int,
        step_limit: float | None = None,
        on_hang: Callable[[], None] | None = None,
    ):
        self.suite = suite
        self._environments = ParallelTasks(
            suite, seed, copies=copies, step_limit=step_limit, on_hang=on_hang
        )
        self._endless: set[str] = set()

    def run(self, act: Act, episodes: int) -> list[list[float]]:
        """Returns the undiscounted returns of ``episodes`` complete episodes of every task, one list per task."""
        returns: list[list[float]] = [[] for _ in range(self.suite.num_tasks)]
        while min(map(len, returns)) < episodes:
            wave = _first_episodes(self._environments, act, self._endless)
            for task, value in zip(self._environments.task_ids, wave.returns, strict=True):
                returns[task].append(value)
        return [values[:episodes] for values in returns]

    def state(self) -> dict[str, np.ndarray]:
        """Returns arrays to save, which determine the coming episodes."""
        return self._environments.state()

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Continues as the evaluator whose :meth:`state` it was."""
        self._environments.load(state)

    def close(self) -> None:
        """Closes the environments."""
        self._environments.close()


def random_policy(suite: Suite, seed: int | np.random.Generator) -> Act:
    """Returns a policy of uniformly random actions, 0 in padded dimensions."""
    rng = np.random.default_rng(seed)

    def act(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
        shape = (len(task), suite.action_size)
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32) * suite.action_mask[task]

    return act
