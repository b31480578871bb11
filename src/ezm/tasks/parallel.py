"""All environments of a suite, stepped together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ezm.errors import UserError
from ezm.tasks import sources, state
from ezm.tasks.suites import Suite
from ezm.tasks.task import Step, Task, step_together
from ezm.tasks.watchdog import Watchdog


@dataclass(frozen=True)
class StepBatch:
    """One step of E environments."""

    next_observation: np.ndarray
    """(E, O) float32: the observation after the action, also at an episode's end."""
    reward: np.ndarray
    """(E,) float32."""
    terminated: np.ndarray
    """(E,) bool."""
    truncated: np.ndarray
    """(E,) bool, never together with ``terminated``."""
    observation: np.ndarray
    """(E, O) float32: the observation to act on next, a new episode's first observation where an episode ended."""
    episode_return: np.ndarray
    """(E,) float32: undiscounted return of the episode that ended, nan where none did."""
    episode_length: np.ndarray
    """(E,) int32: agent steps of the episode that ended, 0 where none did."""


class ParallelTasks:
    """E environments that step together and begin a new episode by themselves.

    The outcome depends on the seed and the actions, not on the threads: every environment has its own randomness and
    writes its own row.

    Threads overlap only while they are inside MuJoCo. Two threads on 2 free cores were measured against one thread.
    They took 0.6 of its time for dm_control's dog, and the same time for humanoid and walker. For cartpole, whose
    calls into MuJoCo last microseconds, they took 1.5 times as long. Tasks whose source has a stepper, as HumanoidBench,
    are stepped as one batch with its own threads.

    Args:
        suite: the tasks.
        seed: at least 0, or one seed for each environment. No two environments, episodes or seeds share their
            randomness.
        copies: environments of each task.
        task_ids: the task of each environment. Default: all tasks in order, ``copies`` times.
        threads: None: one for each core if the physics of a task is heavy, otherwise one.
        step_limit: seconds in which :meth:`step` or :meth:`reset` must finish one environment after another. After
            that an environment hangs. The process then names its task and ends with
            :data:`ezm.tasks.watchdog.HANG_EXIT_CODE`. None: no limit.
        on_hang: called before a hang ends the process, see :class:`ezm.tasks.watchdog.Watchdog`.

    Raises:
        UserError: ``copies`` or ``threads`` below 1, ``step_limit`` not above 0.
    """

    def __init__(
        self,
        suite: Suite,
        seed: int | Sequence[int],
        copies: int = 1,
        task_ids: Sequence[int] | np.ndarray | None = None,
        threads: int | None = None,
        step_limit: float | None = None,
        on_hang: Callable[[], None] | None = None,
    ) -> None:
        for option, value in (("copies", copies), ("threads", threads)):
            if value is not None and value < 1:
                raise UserError(f"{option}={value}: must be at least 1")
        if task_ids is None:
            task_ids = np.tile(np.arange(suite.num_tasks), copies)
        self.suite = suite
        self.task_ids = np.asarray(task_ids, np.int32)
        seeds: Sequence[int] = (
            np.random.SeedSequence(seed).generate_state(len(self.task_ids)).tolist()
            if isinstance(seed, int)
            else seed
        )
        self.tasks = _made(suite, self.task_ids.tolist(), [int(own) for own in seeds])
        count = len(self.tasks)
        self.observation = np.zeros((count, suite.observation_size), np.float32)
        """(E, O) float32: the observation to act on next."""
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, np.int32)
        if threads is None:
            heavy = any(task.simulator.threads_pay for task in self.tasks)
            threads = cores() if heavy else 1
        found: dict[sources.Source, list[int]] = {}
        for index, task in enumerate(self.tasks):
            found.setdefault(sources.split(task.spec.source)[0], []).append(index)
        self._batches = [
            (indices, source.stepper([self.tasks[index].simulator for index in indices], threads))
            for source, indices in found.items()
            if source.stepper is not None
        ]
        """The environments of each source that steps them in one call, and its stepper."""
        batched = {index for indices, _ in self._batches for index in indices}
        others = [index for index in range(count) if index not in batched]
        threads = max(1, min(threads, len(others)))
        self._shares = [others[first::threads] for first in range(threads)]
        self._pool = ThreadPoolExecutor(threads, "ezm-tasks") if threads > 1 else None
        self._busy: list[Sequence[int]] = [()] * threads
        """For each thread, the environments that it is stepping or resetting."""
        names = [task.spec.name for task in self.tasks]
        self._watchdog = Watchdog(step_limit, names, self._busy, on_hang)

    def reset(self) -> np.ndarray:
        """Begins a new episode everywhere and returns the first observations, (E, O) float32."""
        self.observation = np.zeros_like(self.observation)
        with self._watchdog:
            self._each(self._begin)
            for indices, _ in self._batches:
                self._share(0, indices, self._begin)
        return self.observation

    def step(self, actions: np.ndarray) -> StepBatch:
        """Takes one agent step everywhere.

        Args:
            actions: (E, A) within [-1, 1].

        Raises:
            UserError: an environment failed. The message names the task and the step.
        """
        actions = np.asarray(actions)
        count = len(self.tasks)
        batch = StepBatch(
            next_observation=np.zeros_like(self.observation),
            reward=np.zeros(count, np.float32),
            terminated=np.zeros(count, bool),
            truncated=np.zeros(count, bool),
            observation=np.zeros_like(self.observation),
            episode_return=np.full(count, np.nan, np.float32),
            episode_length=np.zeros(count, np.int32),
        )

        def enter(index: int, step: Step) -> None:
            batch.next_observation[index] = batch.observation[index] = step.observation
            batch.reward[index] = step.reward
            batch.terminated[index] = step.terminated
            batch.truncated[index] = step.truncated
            self._returns[index] += step.reward
            self._lengths[index] += 1
            if step.terminated or step.truncated:
                batch.episode_return[index] = self._returns[index]
                batch.episode_length[index] = self._lengths[index]
                self._returns[index] = self._lengths[index] = 0
                batch.observation[index] = self.tasks[index].reset()

        with self._watchdog:
            self._each(lambda index: enter(index, self.tasks[index].step(actions[index])))
            for indices, stepper in self._batches:
                self._busy[0] = indices
                own = [self.tasks[index] for index in indices]
                steps = step_together(own, list(actions[indices]), stepper.step)
                for index, step in zip(indices, steps, strict=True):
                    enter(index, step)
                self._busy[0] = ()
        self.observation = batch.observation
        return batch

    def cut_episodes(self, after: int | None) -> None:
        """Truncates episodes after ``after`` agent steps at the latest. None leaves the tasks' own limits."""
        for task in self.tasks:
            task.cut_after = after

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that determines the environments' future, for :meth:`load`. ``numpy.savez`` can write it."""
        return {**self._own_state(), **state.pack_all(self.tasks)}

    def load(self, saved: Mapping[str, np.ndarray]) -> list[int]:
        """Continues, bit for bit, from where :meth:`state` was called, in this process or in another one.

        Some environments cannot continue: their source has no snapshots, a snapshot cannot be written, or their code
        has changed. They begin a new episode, with the randomness of this object's seed.

        Args:
            saved: of the same suite, copies and ``task_ids``. It contains pickles, so load only your own.

        Returns:
            The indices of the environments that began a new episode. Their rows of :attr:`observation` are first
            observations, and their old episodes have no end.

        Raises:
            UserError: ``saved`` is of other environments, or damaged. No environment has changed then.
        """
        packed = state.check(saved, self.tasks, self._own_state())
        pairs = enumerate(zip(self.tasks, packed, strict=True))
        begun = [index for index, (task, each) in pairs if not state.restored(task, each)]
        self.observation = saved["observation"].copy()
        self._returns[:], self._lengths[:] = saved["returns"], saved["lengths"]
        with self._watchdog:
            self._share(0, begun, self._begin)
        return begun

    def _own_state(self) -> dict[str, np.ndarray]:
        return {
            "observation": self.observation.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def close(self) -> None:
        """Stops the threads and closes the environments."""
        self._watchdog.close()
        if self._pool is not None:
            self._pool.shutdown()
        for _, stepper in self._batches:
            stepper.close()
        for task in self.tasks:
            task.close()

    def _begin(self, index: int) -> None:
        self.observation[index] = self.tasks[index].reset()
        self._returns[index] = self._lengths[index] = 0

    def _each(self, work: Callable[[int], None]) -> None:
        run: Callable[..., Iterable] = map if self._pool is None else self._pool.map
        numbers = range(len(self._shares))
        list(run(lambda number: self._share(number, self._shares[number], work), numbers))

    def _share(self, number: int, indices: Sequence[int], work: Callable[[int], None]) -> None:
        for index in indices:
            self._busy[number] = (index,)
            work(index)
            self._watchdog.progress()
        self._busy[number] = ()


def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _made(suite: Suite, task_ids: list[int], seeds: list[int]) -> list[Task]:
    """Makes environments, in parallel if that pays for all of their sources."""
    own = [sources.split(suite.tasks[task].source)[0] for task in task_ids]
    with ThreadPoolExecutor(cores(), "ezm-make") as pool:
        run: Callable[..., Iterable[Task]] = map
        if all(source.made_in_threads for source in own):
            run = pool.map
        return list(run(suite.make, task_ids, seeds))
