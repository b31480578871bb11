"""All environments of a suite, stepped together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from ezm.errors import UserError
from ezm.tasks import sources, state
from ezm.tasks.suites import Suite
from ezm.tasks.task import Step, Task
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
    calls into MuJoCo last microseconds, they took 1.5 times as long. HumanoidBench's tasks are stepped as one batch
    with its own threads.

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
                raise UserError(f"--{option} {value}: must be at least 1")
        if task_ids is None:
            task_ids = np.tile(np.arange(suite.num_tasks), copies)
        self.suite = suite
        self.task_ids = np.asarray(task_ids, np.int32)
        seeds = (
            np.random.SeedSequence(seed).generate_state(len(self.task_ids))
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
            threads = (os.cpu_count() or 1) if heavy else 1
        humanoids = [
            index
            for index, task in enumerate(self.tasks)
            if task.spec.source.startswith(f"{sources.HUMANOID_BENCH}:")
        ]
        self._humanoids = Humanoids(self.tasks, humanoids, threads) if humanoids else None
        others = sorted(set(range(count)) - set(humanoids))
        threads = max(1, min(threads, len(others)))
        self._shares = [others[first::threads] for first in range(threads)]
        self._pool = ThreadPoolExecutor(threads, "ezm-tasks") if threads > 1 else None
        self._busy: list[Sequence[int]] = [()] * threads
        """For each thread, the environments that it is stepping or resetting."""
        names = [task.spec.name for task in self.tasks]
        self._watchdog = (
            None if step_limit is None else Watchdog(step_limit, names, self._busy, on_hang)
        )
        self._guard = self._watchdog or nullcontext()

    def reset(self) -> np.ndarray:
        """Begins a new episode everywhere and returns the first observations, (E, O) float32."""
        observation = np.zeros_like(self.observation)

        def reset_one(index: int) -> None:
            observation[index] = self.tasks[index].reset()

        with self._guard:
            self._each(reset_one)
            if self._humanoids is not None:
                self._share(0, self._humanoids.indices, reset_one)
        self._returns[:] = 0
        self._lengths[:] = 0
        self.observation = observation
        return observation

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

        with self._guard:
            self._each(lambda index: enter(index, self.tasks[index].step(actions[index])))
            if self._humanoids is not None:
                self._busy[0] = self._humanoids.indices
                for index, step in self._humanoids.step(actions):
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
        observation = saved["observation"].copy()
        pairs = enumerate(zip(self.tasks, packed, strict=True))
        begun = [index for index, (task, each) in pairs if not state.restored(task, each)]

        def begin(index: int) -> None:
            observation[index] = self.tasks[index].reset()

        with self._guard:
            self._share(0, begun, begin)
        self._returns[:], self._lengths[:] = saved["returns"], saved["lengths"]
        self._returns[begun] = self._lengths[begun] = 0
        self.observation = observation
        return begun

    def _own_state(self) -> dict[str, np.ndarray]:
        return {
            "observation": self.observation.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def close(self) -> None:
        """Stops the threads and closes the environments."""
        if self._watchdog is not None:
            self._watchdog.close()
        if self._pool is not None:
            self._pool.shutdown()
        if self._humanoids is not None:
            self._humanoids.close()
        for task in self.tasks:
            task.close()

    def _each(self, work: Callable[[int], None]) -> None:
        if self._pool is None:
            self._share(0, self._shares[0], work)
        else:
            numbers = range(len(self._shares))
            list(
                self._pool.map(
                    lambda number: self._share(number, self._shares[number], work), numbers
                )
            )

    def _share(self, number: int, indices: Sequence[int], work: Callable[[int], None]) -> None:
        for index in indices:
            self._busy[number] = (index,)
            work(index)
            if self._watchdog is not None:
                self._watchdog.progress()
        self._busy[number] = ()


def _made(suite: Suite, task_ids: list[int], seeds: list[int]) -> list[Task]:
    """Makes environments, in parallel if all are dm_control's: MuJoCo compiles each for 50 ms outside Python's lock."""
    sources_of = {suite.tasks[task].source for task in task_ids}
    if not all(source.startswith(f"{sources.DM_CONTROL}:") for source in sources_of):
        return [suite.make(*pair) for pair in zip(task_ids, seeds, strict=True)]
    with ThreadPoolExecutor(os.cpu_count(), "ezm-make") as pool:
        return list(pool.map(suite.make, task_ids, seeds))


class Humanoids:
    """The HumanoidBench environments among others, stepped in one call."""

    def __init__(self, tasks: Sequence[Task], indices: list[int], threads: int) -> None:
        from ezm.tasks.humanoid_bench.batch import Batch
        from ezm.tasks.sources.humanoid_bench import HumanoidBenchSimulator, step_together

        self.indices = indices
        self._tasks = [tasks[index] for index in indices]
        simulators = []
        for task in self._tasks:
            assert isinstance(task.simulator, HumanoidBenchSimulator)
            simulators.append(task.simulator)
        environments = [simulator.environment for simulator in simulators]
        self._batch = Batch(environments, threads)
        self._step = partial(step_together, simulators, batch=self._batch)

    def step(self, actions: np.ndarray) -> Iterator[tuple[int, Step]]:
        """Steps these environments with their rows of (E, A) actions, and yields each step with its index."""
        begun = [
            task.begin(actions[index])
            for index, task in zip(self.indices, self._tasks, strict=True)
        ]
        own_actions, repeats = zip(*begun, strict=True)
        raws = self._step(own_actions, repeats)
        for index, task, raw, repeat in zip(self.indices, self._tasks, raws, repeats, strict=True):
            yield index, task.end(raw, repeat)

    def close(self) -> None:
        """Stops the threads."""
        self._batch.close()
