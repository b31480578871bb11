"""Descriptions of tasks and suites: sizes, masks and names, without any environment."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ezm.errors import UserError

if TYPE_CHECKING:
    from ezm.tasks.task import Task


@dataclass(frozen=True)
class TaskSpec:
    """One task of a suite, with its own sizes."""

    name: str
    """Unique in its suite, e.g. ``cartpole-swingup`` or ``Pendulum-v1``."""
    source: str
    """Origin of the task, e.g. ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``, ``my_pkg.tasks:make``."""
    observation_size: int
    action_size: int
    action_repeat: int
    """Simulator steps for each agent step."""
    episode_steps: int | None
    """Agent steps until truncation, None where they are unknown and the environment decides."""
    reward_range: tuple[float, float] | None
    """Bounds of one agent step's reward (action repeat included), None where they are unknown."""
    neutral_action: tuple[float, ...] | None = None
    """The action that asks for nothing, such as a robot's home pose, None where the task declares none."""


@dataclass(frozen=True)
class Suite:
    """An ordered list of tasks, padded to the largest observation and action.

    K tasks, O = ``observation_size``, A = ``action_size``.
    """

    name: str
    tasks: tuple[TaskSpec, ...]

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @cached_property
    def bodies(self) -> tuple[int, ...]:
        """For each task, the index of the first task with the same embodiment: an equal source up to its first dash,
        and equal sizes."""
        kinds = [
            (task.source.split("-")[0], task.observation_size, task.action_size)
            for task in self.tasks
        ]
        return tuple(kinds.index(kind) for kind in kinds)

    @cached_property
    def observation_size(self) -> int:
        return max(task.observation_size for task in self.tasks)

    @cached_property
    def action_size(self) -> int:
        return max(task.action_size for task in self.tasks)

    @cached_property
    def observation_mask(self) -> np.ndarray:
        """(K, O) float32, read-only: 1 for a task's real observations, 0 for padding."""
        return _mask([task.observation_size for task in self.tasks], self.observation_size)

    @cached_property
    def action_mask(self) -> np.ndarray:
        """(K, A) float32, read-only: 1 for a task's real actions, 0 for padding."""
        return _mask([task.action_size for task in self.tasks], self.action_size)

    @cached_property
    def neutral_action(self) -> np.ndarray:
        """(K, A) float32, read-only: each task's neutral action, 0 in padding and where a task declares none."""
        actions = np.zeros((self.num_tasks, self.action_size), np.float32)
        for row, task in zip(actions, self.tasks, strict=True):
            if task.neutral_action is not None:
                row[: task.action_size] = task.neutral_action
        actions.flags.writeable = False
        return actions

    def make(self, task: int, seed: int, *, pictures: bool = False) -> Task:
        """Makes a new environment of task number ``task``, padded to this suite's sizes.

        Args:
            seed: at least 0. It fixes everything random in the environment, over all its episodes.
            pictures: whether it will be drawn, which some environments must know.
        """
        from ezm.tasks import sources
        from ezm.tasks.task import Task

        spec = self.tasks[task]
        simulator = sources.build(spec.source, seed, pictures=pictures)
        return Task(spec, simulator, self.observation_size, self.action_size)

    def only(self, *names: str) -> Suite:
        """Returns the suite of the tasks with these names, in this order, padded to their own largest sizes.

        Raises:
            UserError: a name that is not in the suite.
        """
        by_name = dict(zip(self.task_names, self.tasks, strict=True))
        for name in names:
            if name not in by_name:
                raise UserError(
                    f"suite {self.name} has no task {name!r}{nearest(name, by_name)}; "
                    f"it has {', '.join(by_name)}"
                )
        return dataclasses.replace(self, tasks=tuple(by_name[name] for name in names))


def _mask(sizes: list[int], width: int) -> np.ndarray:
    mask = (np.arange(width)[None, :] < np.array(sizes)[:, None]).astype(np.float32)
    mask.flags.writeable = False
    return mask


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean X?)`` for the known name closest to ``name``, or an empty text."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""
