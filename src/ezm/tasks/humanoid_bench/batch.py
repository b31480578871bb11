"""Many environments of several tasks, stepped in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from ezm.errors import UserError
from ezm.tasks.humanoid_bench.environment import Environment
from ezm.tasks.humanoid_bench.rewards import REWARDS, Record


class Batch:
    """E environments that step together. Each thread takes the next environment that waits.

    MuJoCo runs outside Python's lock, so threads overlap. Rewards are computed for all environments of a task at
    once. The outcome depends on seeds and actions, not on the threads.

    Every :meth:`step` and :meth:`reset` writes the arrays below in place: copy what you keep.

    Args:
        environments: the environments to step, of any of the 23 tasks.
        threads: at least 1.

    Raises:
        UserError: ``threads`` below 1.
    """

    def __init__(self, environments: Sequence[Environment], threads: int = 1) -> None:
        if threads < 1:
            raise UserError(f"threads={threads}: must be at least 1")
        self.environments, count = list(environments), len(environments)
        layouts = [environment.layout for environment in self.environments]
        self.action_size = max(layout.action_size for layout in layouts)
        """A, the action size of the largest robot."""
        self.observation = np.zeros((count, max(each.observation_size for each in layouts)))
        """(E, O) float64, zero beyond a task's own size: the observation to act on next."""
        self.reward = np.zeros(count)
        """(E,), reward of the last step."""
        self.terminated = np.zeros(count, bool)
        """(E,) bool: whether the task's rules ended the episode in the last step, or physics diverged (then the
        reward is 0)."""
        self.terms: list[dict[str, np.ndarray]] = []
        """For each group in :attr:`groups`, its reward terms, (size of the group,) each."""
        by_layout: dict[int, list[int]] = {}
        for index, layout in enumerate(layouts):
            by_layout.setdefault(id(layout), []).append(index)
        self.groups = list(by_layout.values())
        """For each task and folder of meshes, the indices of its environments."""
        self._records = [self.environments[own[0]].record(len(own)) for own in self.groups]
        self._place = {
            index: (record, row)
            for record, indices in zip(self._records, self.groups, strict=True)
            for row, index in enumerate(indices)
        }
        self._falls_end = np.array([each.falls_end for each in self.environments])
        self._controls = np.zeros((count, self.action_size))
        self._threads = min(threads, count)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(1, self._threads - 1), "ezm-humanoids")

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        seed: int = 0,
        *,
        protocol: str = "benchmark",
        meshes: str | Path | None = None,
        threads: int = 1,
    ) -> Batch:
        """Makes new environments, one for each name (``h1-walk``), with seeds derived from ``seed``.

        Raises:
            UserError: an unknown task or protocol, missing meshes, or ``threads`` below 1.
        """
        folder = None if meshes is None else Path(meshes)
        seeds = np.random.SeedSequence(seed).generate_state(len(names)).tolist()
        own = zip(names, seeds, strict=True)
        return cls([Environment(*each, protocol, folder) for each in own], threads)

    def reset(self, which: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Begins new episodes in the environments ``which`` (indices, default: all) and returns :attr:`observation`."""
        indices = list(range(len(self.environments)) if which is None else which)

        def work(index: int) -> None:
            self.environments[index].reset()
            self.environments[index].write_observation(self.observation[index])

        self._each(indices, work)
        return self.observation

    def step(self, actions: np.ndarray, which: np.ndarray | None = None) -> None:
        """Takes one control step (20 ms) and writes the outcome into this object's arrays. It resets nothing.

        Args:
            actions: (E, A), meant to be within [-1, 1]. MuJoCo clamps the servos' controls. Columns beyond a task's
                own action size are ignored.
            which: (E,) bool, the environments that move. The others keep their rows. Default: all.

        Raises:
            UserError: actions of another shape, or actions that are not finite.
        """
        self._command(np.asarray(actions))

        def work(index: int) -> None:
            environment = self.environments[index]
            environment.advance(self._controls[index, : environment.layout.action_size])
            environment.write_observation(self.observation[index])
            environment.read(*self._place[index])

        moved = np.ones(len(self.environments), bool) if which is None else which
        moving = np.flatnonzero(moved).tolist()
        self._each(moving, work)
        self.terms = [
            self._judge(np.array(indices), record, moved)
            for indices, record in zip(self.groups, self._records, strict=True)
        ]
        for index in moving:
            if self.environments[index].diverged:
                self.reward[index], self.terminated[index] = 0, True

    def close(self) -> None:
        """Stops the threads."""
        self._pool.shutdown()

    def _command(self, actions: np.ndarray) -> None:
        expected = (len(self.environments), self.action_size)
        if actions.shape != expected:
            raise UserError(
                f"actions of shape {actions.shape}: {self.environments[0].name} expects {expected}"
            )
        for indices in self.groups:
            layout = self.environments[indices[0]].layout
            own = actions[indices, : layout.action_size]
            if not np.isfinite(own).all():
                row, column = np.argwhere(~np.isfinite(own))[0]
                raise UserError(
                    f"task {self.environments[indices[0]].name}: action number {column} is "
                    f"{own[row, column]}; actions must be finite, within [-1, 1]"
                )
            self._controls[indices, : layout.action_size] = layout.controls(own)

    def _judge(
        self, indices: np.ndarray, record: Record, moved: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Writes rewards and terminations of a group's environments that moved, and returns all terms of the group."""
        task = self.environments[indices[0]].layout.task
        reward, terminated, terms, stage = REWARDS[task](record)
        rows = moved[indices]
        indices = indices[rows]
        self.reward[indices] = reward[rows]
        self.terminated[indices] = terminated[rows] & self._falls_end[indices]
        if stage is not None:
            for index, own in zip(indices, stage[rows], strict=True):
                self.environments[index].stage = int(own)
        return terms

    def _each(self, indices: Sequence[int], work: Callable[[int], None]) -> None:
        if self._threads == 1 or len(indices) <= 1:
            for index in indices:
                work(index)
            return
        waiting = itertools.count()

        def share() -> None:
            # Taking the next number is atomic, so a thread with light scenes takes more of them.
            while (number := next(waiting)) < len(indices):
                work(indices[number])

        # The calling thread works too, so that its core does not idle while another thread wakes up.
        others = [self._pool.submit(share) for _ in range(self._threads - 1)]
        share()
        for other in others:
            other.result()
