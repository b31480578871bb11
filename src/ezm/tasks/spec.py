"""What a task and a suite are: sizes, masks and names, without any environment."""

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
    """Where it comes from, e.g. ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``, ``my_pkg.tasks:make``."""
    observation_size: int
    action_size: int
    action_repeat: int
    """Simulator steps for each agent step."""
    episode_steps: int | None
    """Agent steps until truncation; None: unknown, the environment decides."""
    reward_range: tuple[float, float] | None
    """Bounds of one agent step's reward (action repeat included); None: unknown."""
    neutral_action: tuple[float, ...] | None = None
    """The action that asks for nothing, such as a robot's home pose; None: the task declares none."""


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
        """For each task, the first one with the same body: the same source up to the task's own name, the same sizes."""
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
        """(K, O) float32: 1 for a task's real observations, 0 for padding. Read-only."""
        return _mask([task.observation_size for task in self.tasks], self.observation_size)

    @cached_property
    def action_mask(self) -> np.ndarray:
        """(K, A) float32: 1 for a task's real actions, 0 for padding. Read-only."""
        return _mask([task.action_size for task in self.tasks], self.action_size)

    @cached_property
    def neutral_action(self) -> np.ndarray:
        """(K, A) float32: each task's neutral action, 0 where it declares none and in padding. Read-only."""
        actions = np.zeros((self.num_tasks, self.action_size), np.float32)
        for row, task in zip(actions, self.tasks, strict=True):
            if task.neutral_action is not None:
                row[: task.action_size] = task.neutral_action
        actions.flags.writeable = False
        return actions

    def make(self, task: int, seed: int, *, pictures: bool = False) -> Task:
        """A new environment of task number ``task``, padded to this suite's sizes.

        Args:
            seed: at least 0; fixes everything random in the environment, over all its episodes.
            pictures: whether it will be drawn: some environments have to know.
        """
        from ezm.tasks import sources
        from ezm.tasks.task import Task

        spec = self.tasks[task]
        simulator = sources.build(spec.source, seed, pictures=pictures)
        return Task(spec, simulator, self.observation_size, self.action_size)

    def only(self, *names: str) -> Suite:
        """The suite of the tasks with these names, in this order, padded to what they need.

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
    """`` (did you mean X?)`` for the known name closest to ``name``, or nothing."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""
