"""Independent experience replay: one prioritised ring of rows per task (paper, section 4).

An episode of L steps takes L + 1 rows. Row t holds the observation o_t and, for t < L, the action a_t and reward r_t
that follow it. The last row holds the final observation. A window that starts at row t never leaves the episode. After
the episode's last row, or the newest row of a running episode, that row is repeated. ``length`` says how many
transitions are real. The last row is a bootstrap unless the episode ``terminated`` there.

This module keeps priorities and the bounds of episodes, and decides which rows are drawn. The module
:mod:`ezm.experience.rows` keeps the rows' contents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ezm.agent.batch import Batch, Searches
from ezm.config import ReplayConfig
from ezm.experience.rows import FIELDS, Rows, RowSizes
from ezm.experience.sum_tree import SumTree


class Drawn(NamedTuple):
    """Places of a batch in the replay, for writing back priorities and searches."""

    task: np.ndarray
    """Tasks of the windows, (B,)."""
    slot: np.ndarray
    """Slots of the windows' first rows, (B,)."""
    reanalysed: tuple[np.ndarray, np.ndarray]
    """Tasks and absolute rows of ``Batch.reanalyse``, each (N,)."""


class Replay:
    """Rings of ``capacity`` rows for K tasks, with prioritised sampling inside each ring.

    Args:
        num_tasks: K, of the suite.
        observation_size: O.
        action_size: A.
        config: capacity, prioritisation, and the memory that holds the rows.
        window: W, transitions per sample (unroll + n-step).
        states: S, number of a window's states that have policy targets (unroll + 1).
        root_actions: R, number of root actions kept of each search.
    """

    def __init__(
        self,
        num_tasks: int,
        observation_size: int,
        action_size: int,
        config: ReplayConfig,
        window: int,
        states: int = 1,
        root_actions: int = 1,
    ):
        rows = (num_tasks, config.capacity)
        self.config, self.window, self.states = config, window, states
        sizes = RowSizes(observation_size, action_size, root_actions)
        if config.device:
            from ezm.experience.device_rows import DeviceRows

            self._content: Rows = DeviceRows(*rows, sizes)
        else:
            self._content = Rows(*rows, sizes)
        self.terminated = np.zeros(rows, bool)
        # Absolute index of the last row of the row's episode, -1 while that episode runs.
        self.end = np.full(rows, -1, np.int64)
        # Rows without a transition (an episode's last row) keep priority 0: no window starts there.
        self.priority = np.zeros(rows, np.float32)
        # The learner's update count at the row's search, -1 where there is none.
        self.search_updates = np.full(rows, -1, np.int64)
        self.max_priority = np.ones(num_tasks, np.float32)
        self.rows = np.zeros(num_tasks, np.int64)  # rows ever written: the newest is rows - 1
        self.episode_start = np.zeros(num_tasks, np.int64)  # absolute index
        self._tree = SumTree(self._mass(self.priority))

    @property
    def num_tasks(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of memory once all rows are filled. The system allocates them as rows are written."""
        places = sum(x.nbytes for x in self._arrays().values()) + self._tree.nbytes
        return places + self._content.nbytes

    @staticmethod
    def bytes_per_row(sizes: RowSizes) -> tuple[int, int]:
        """Returns the bytes of a row's bookkeeping, always in the machine's memory, and the bytes of its content."""
        one, other = (
            Replay(1, *sizes[:2], ReplayConfig(capacity=rows), 1, 1, sizes.root_actions)
            for rows in (1, 1025)
        )
        return -(-(other.nbytes - one.nbytes) // 1024) - sizes.nbytes, sizes.nbytes

    def _arrays(self) -> dict[str, np.ndarray]:
        return {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}

    def state(self) -> dict[str, Any]:
        """Returns all arrays by name, to be saved, for :meth:`load`.

        An array with rows is a dictionary, by the task's number, of the rows that each task has filled. These are views, or
        :class:`ezm.experience.rows.Deferred` for rows on a device, so that saving makes no copy of the replay.
        """
        filled = np.minimum(self.rows, self.config.capacity).tolist()
        places = {
            name: value
            if value.ndim == 1
            else {str(task): value[task, :n] for task, n in enumerate(filled)}
            for name, value in self._arrays().items()
        }
        return places | {
            name: {str(task): self._content.filled(name, task, n) for task, n in enumerate(filled)}
            for name in FIELDS
        }

    def load(self, state: dict[str, Any]) -> None:
        """Loads what :meth:`state` returned. The saved buffer may have another capacity, as in a run given more steps.

        It empties ``state`` on the way, so that memory need not hold everything twice.
        """
        now, filled = self.config.capacity, state["rows"].copy()
        state.pop("transitions", None)  # of a run of 0.1.0 before 2026-11-30
        for name in list(state):
            saved, mine = state.pop(name), self._arrays().get(name)
            if mine is not None and mine.ndim == 1:
                mine[:] = saved
                continue
            for task, rows in enumerate(filled):
                ring = saved.pop(str(task))
                before = len(ring)
                slots = np.arange(before)
                if not (before == now or rows <= before <= now):
                    kept = np.arange(max(0, rows - min(before, now)), rows)
                    slots, ring = kept % now, ring[kept % before]
                if mine is None:
                    self._content.fill(name, task, slots, ring)
                else:
                    mine[task, slots] = ring
        self._tree = SumTree(self._mass(self.priority))

    def cut_episode(self, task: int) -> None:
        """Closes the running episode as truncated, because its environment is gone (a resumed run)."""
        if self.rows[task] and self.end[task, (self.rows[task] - 1) % self.config.capacity] < 0:
            self._close_episode(task, terminated=False)

    def begin(self, task: int, observation: np.ndarray, **extras: Any) -> None:
        """Begins an episode with its first observation. ``extras`` are the state's other fields."""
        self._append_row(task, {"observation": observation} | extras)
        self.episode_start[task] = self.rows[task] - 1

    def add(
        self,
        task: int,
        action: np.ndarray,
        reward: float | np.floating,
        next_observation: np.ndarray,
        terminated: bool,
        truncated: bool,
        **extras: Any,
    ) -> None:
        """Appends the transition from the newest row. After the last one, call :meth:`begin` for the next episode.

        ``extras`` are the other fields of the transition and of the next state, see :data:`ezm.experience.rows.FIELDS`.
        """
        values = {"action": action, "reward": reward, "observation": next_observation} | extras
        slot = int(self.rows[task] - 1) % self.config.capacity
        self._content.put("transition", task, slot, values)
        self._set_priority(np.array([task]), np.array([slot]), self.max_priority[[task]])
        self._append_row(task, values)
        if terminated or truncated:
            self._close_episode(task, terminated)

    def _close_episode(self, task: int, terminated: bool) -> None:
        capacity = self.config.capacity
        last = self.rows[task] - 1
        first = max(self.episode_start[task], last - capacity + 1)
        self.end[task, np.arange(first, last + 1) % capacity] = last
        self.terminated[task, last % capacity] = terminated

    def _append_row(self, task: int, values: dict[str, Any]) -> None:
        slot = int(self.rows[task]) % self.config.capacity
        self._content.put("state", task, slot, values)
        if self.priority[task, slot]:
            self._set_priority(np.array([task]), np.array([slot]), np.zeros(1, np.float32))
        self.terminated[task, slot] = False
        self.end[task, slot] = -1
        self.search_updates[task, slot] = -1
        self.rows[task] += 1

    def sample(
        self, rng: np.random.Generator, batch_size: int, reanalyse: int = 0, batches: int = 1
    ) -> tuple[Batch, Drawn]:
        """Draws batches, concatenated along the batch axis, and returns them with their places in the replay.

        Every task gives ``batch_size / K`` samples, and the remainder goes to tasks drawn at random. With ``per_task``
        off, a task's number of samples is random, in proportion to its share of all priorities.

        Args:
            rng: draws the samples.
            batch_size: B, windows in each batch.
            reanalyse: N, number of states to reanalyse in all batches. They are the states with the oldest searches.
                Chance decides between equally old searches, so that every task gets its part of the first ones.
            batches: number of batches.
        """
        totals = self._tree.totals
        counts = [self._counts(rng, batch_size, totals) for _ in range(batches)]
        task = np.concatenate([np.repeat(np.arange(self.num_tasks), count) for count in counts])
        slot = self._tree.draw(rng, task)
        weight = self._importance(task, slot, batches)
        return self._gather(rng, task, slot, weight, reanalyse)

    def example(self, batch_size: int, reanalyse: int = 0, batches: int = 1) -> tuple[Batch, Drawn]:
        """Returns made-up data with the shapes and dtypes of :meth:`sample`, whatever is stored."""
        config = replace(self.config, capacity=self.window + 2)
        observations, actions, root_actions = self._content.sizes
        sizes = (observations, actions, config, self.window, self.states, root_actions)
        other = Replay(self.num_tasks, *sizes)
        for task in range(self.num_tasks):
            other.begin(task, np.zeros(observations))
            other.add(task, np.zeros(actions), 0.0, np.zeros(observations), False, True)
        return other.sample(np.random.default_rng(0), batch_size, reanalyse, batches)

    def _counts(self, rng: np.random.Generator, batch_size: int, totals: np.ndarray) -> np.ndarray:
        """Returns the number of windows that each task gives to a batch."""
        if not self.config.per_task:
            return rng.multinomial(batch_size, totals / totals.sum())
        counts = np.full(self.num_tasks, batch_size // self.num_tasks)
        counts[rng.permutation(self.num_tasks)[: batch_size % self.num_tasks]] += 1
        return counts

    def _mass(self, priority: np.ndarray) -> np.ndarray:
        """Returns the unnormalised sampling probability, float64."""
        if self.config.alpha == 0.0:
            return (priority > 0.0).astype(np.float64)
        return priority.astype(np.float64) ** self.config.alpha

    def _set_priority(self, task: np.ndarray, slot: np.ndarray, priority: np.ndarray) -> None:
        self.priority[task, slot] = priority
        self._tree.set(task, slot, self._mass(priority))

    def _importance(self, task: np.ndarray, slot: np.ndarray, batches: int) -> np.ndarray:
        """Returns the importance weights, divided by the largest of the task, or else of the batch.

        The factor of all weights of a group, (transitions / total mass) ** -beta, cancels in the division.
        """
        if self.config.alpha == 0.0:
            return np.ones(len(task), np.float32)
        weight = self._tree.mass(task, slot) ** -self.config.beta
        group = task.copy() if self.config.per_task else np.zeros_like(task)
        group += np.repeat(np.arange(batches) * self.num_tasks, len(task) // batches)
        largest = np.zeros(batches * self.num_tasks)
        np.maximum.at(largest, group, weight)
        return np.clip(weight / largest[group], 0.1, 1.0).astype(np.float32)

    def _gather(
        self,
        rng: np.random.Generator,
        task: np.ndarray,
        slot: np.ndarray,
        weight: np.ndarray,
        reanalyse: int,
    ) -> tuple[Batch, Drawn]:
        capacity, newest = self.config.capacity, self.rows[task] - 1
        start = newest - (newest - slot) % capacity  # absolute index of the first row
        end = self.end[task, slot]
        last = np.where(end < 0, newest, end)
        length = np.minimum(last - start, self.window)
        index = np.minimum(start + np.arange(self.states)[:, None], last)
        terminated = self.terminated[task, (start + length) % capacity]
        made = self.search_updates[task, index % capacity]
        step = np.arange(self.states)[:, None]
        decides = (step <= length) & ~(terminated & (step == length))
        oldest = np.zeros(0, np.int64)
        if reanalyse:
            # One key of both the search's age and chance is faster than a sort by two keys.
            never = np.iinfo(np.int64).max // made.size - 1
            key = np.where(decides, made, never).ravel() * made.size + rng.permutation(made.size)
            oldest = np.sort(np.argpartition(key, reanalyse - 1)[:reanalyse])
        batch = Batch(
            **self._content.gather(task, slot, length, self.window, self.states),
            length=length.astype(np.int32),
            terminated=terminated,
            task=task.astype(np.int32),
            weight=weight,
            age=(newest - start).astype(np.int32),
            searched=made >= 0,
            reanalyse=oldest.astype(np.int32),
        )
        reanalysed = np.tile(task, self.states)[oldest], index.ravel()[oldest]
        return batch, Drawn(task, slot, reanalysed)

    def store(self, task: np.ndarray, row: np.ndarray, searches: Searches, updates: int) -> None:
        """Stores searches of N states, for later batches.

        Args:
            task: of each state, (N,).
            row: absolute row of each state, (N,). Rows that the ring has overwritten since, and -1, are left out.
            searches: (N, ...). If a state occurs twice, its last search is kept.
            updates: the learner's update count when it made the searches.
        """
        capacity = self.config.capacity
        slot = row % capacity
        there = np.flatnonzero((row >= 0) & (row >= self.rows[task] - capacity))[::-1]
        there = there[np.unique(task[there] * capacity + slot[there], return_index=True)[1]]
        self._content.put_searches(task, slot, searches, there)
        self.search_updates[task[there], slot[there]] = updates

    def update_priorities(self, drawn: Drawn, priority: np.ndarray) -> None:
        """Sets the priorities |value - target| of a batch's first rows."""
        task, slot = drawn.task, drawn.slot
        # The ring may have written a row without a transition there in the meantime.
        starts = self.priority[task, slot] > 0.0
        priority = np.where(starts, np.maximum(priority, 1e-6), 0.0).astype(np.float32)
        # If a row was drawn twice, its last priority counts, everywhere.
        rows, last = np.unique((task * self.config.capacity + slot)[::-1], return_index=True)
        task, slot = np.divmod(rows, self.config.capacity)
        priority = priority[::-1][last]
        self._set_priority(task, slot, priority)
        np.maximum.at(self.max_priority, task, priority)
