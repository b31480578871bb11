"""Independent experience replay: one prioritised ring of rows per task (paper, section 4).

An episode of L steps takes L + 1 rows: row t holds the observation o_t and, for t < L, the action a_t and reward
r_t that follow it; the last row holds the final observation. A window that starts at row t never leaves the
episode: past its last row (or past the newest row of an episode that still runs) that row is repeated and
``length`` says how many transitions are real. The last row is a bootstrap unless the episode ``terminated`` there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ezm.config import ReplayConfig


class Batch(NamedTuple):
    """B windows of W transitions, time first. Arrays after ``length`` transitions repeat the last row."""

    observation: Any
    """(W + 1, B, O) float32, as recorded (not normalised)."""
    action: Any
    """(W, B, A) float32."""
    reward: Any
    """(W, B) float32; 0 after ``length``."""
    length: Any
    """(B,) int32, number of real transitions, 1 to W."""
    terminated: Any
    """(B,) bool: the episode terminated (value 0) in the window's last real state."""
    task: Any
    """(B,) int32."""
    weight: Any
    """(B,) float32 importance weight in [0.1, 1]."""
    age: Any
    """(B,) int32: rows of that task recorded since."""


class Replay:
    """Rings of ``capacity`` rows for K tasks, with prioritised sampling inside each.

    Args:
        num_tasks, observation_size, action_size: sizes of the suite.
        config: capacity and prioritisation.
        window: transitions per sample (unroll + n-step).
    """

    def __init__(
        self,
        num_tasks: int,
        observation_size: int,
        action_size: int,
        config: ReplayConfig,
        window: int,
    ):
        rows = (num_tasks, config.capacity)
        self.config, self.window = config, window
        self.observation = np.zeros((*rows, observation_size), np.float32)
        self.action = np.zeros((*rows, action_size), np.float32)
        self.reward = np.zeros(rows, np.float32)
        self.terminated = np.zeros(rows, bool)
        # Absolute index of the last row of the row's episode; -1 while that episode runs.
        self.end = np.full(rows, -1, np.int64)
        # Rows without a transition (an episode's last row) keep priority 0: no window starts there.
        self.priority = np.zeros(rows, np.float32)
        self.max_priority = np.ones(num_tasks, np.float32)
        self.rows = np.zeros(num_tasks, np.int64)  # rows ever written: the newest is rows - 1
        self.episode_start = np.zeros(num_tasks, np.int64)  # absolute index

    @property
    def num_tasks(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes taken by all arrays."""
        return sum(x.nbytes for x in self.state().values())

    def state(self) -> dict[str, np.ndarray]:
        """All arrays by name, to be saved; :meth:`load` takes them back."""
        return {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over the arrays of another buffer; of a smaller one, where a run was given more steps."""
        before, now = state["reward"].shape[1], self.config.capacity
        for name, value in state.items():
            mine = getattr(self, name)
            if mine.ndim == 1:
                mine[...] = value
                continue
            for task, rows in enumerate(state["rows"]):
                kept = np.arange(max(0, rows - min(before, now)), rows)
                mine[task, kept % now] = value[task, kept % before]

    def cut_episodes(self) -> None:
        """Close all running episodes as truncated: their environments are gone (a resumed run)."""
        for task in range(self.num_tasks):
            if self.rows[task]:
                self._close_episode(task, terminated=False)

    def begin(self, task: int, observation: np.ndarray) -> None:
        """Open an episode with its first observation."""
        self._append_row(task, observation)
        self.episode_start[task] = self.rows[task] - 1

    def add(
        self,
        task: int,
        action: np.ndarray,
        reward: float,
        next_observation: np.ndarray,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Append the transition from the newest row; after an end, :meth:`begin` the next episode."""
        slot = (self.rows[task] - 1) % self.config.capacity
        self.action[task, slot] = action
        self.reward[task, slot] = reward
        self.priority[task, slot] = self.max_priority[task]
        self._append_row(task, next_observation)
        if terminated or truncated:
            self._close_episode(task, terminated)

    def _close_episode(self, task: int, terminated: bool) -> None:
        capacity = self.config.capacity
        last = self.rows[task] - 1
        first = max(self.episode_start[task], last - capacity + 1)
        self.end[task, np.arange(first, last + 1) % capacity] = last
        self.terminated[task, last % capacity] = terminated

    def _append_row(self, task: int, observation: np.ndarray) -> None:
        slot = self.rows[task] % self.config.capacity
        self.observation[task, slot] = observation
        self.action[task, slot] = 0.0
        self.reward[task, slot] = 0.0
        self.priority[task, slot] = 0.0
        self.terminated[task, slot] = False
        self.end[task, slot] = -1
        self.rows[task] += 1

    def sample(
        self, rng: np.random.Generator, batch_size: int
    ) -> tuple[Batch, tuple[np.ndarray, np.ndarray]]:
        """A batch, and the (task, slot) of each sample for :meth:`update_priorities`.

        Every task gives ``batch_size / K`` samples (the remainder goes to tasks drawn at random), or, with
        ``per_task`` off, as many as its share of all priorities.
        """
        mass = self._mass()
        totals = mass.sum(1)
        if self.config.per_task:
            counts = np.full(self.num_tasks, batch_size // self.num_tasks)
            extra = rng.permutation(self.num_tasks)[: batch_size % self.num_tasks]
            counts[extra] += 1
        else:
            counts = rng.multinomial(batch_size, totals / totals.sum())
        task = np.repeat(np.arange(self.num_tasks), counts)
        slot = np.concatenate([_draw(rng, mass[k], n) for k, n in enumerate(counts)])
        weight = self._importance(mass, totals, task, slot)
        return self._gather(task, slot, weight), (task, slot)

    def _mass(self) -> np.ndarray:
        """Unnormalised sampling probability of every row, (K, filled)."""
        filled = min(int(self.rows.max()), self.config.capacity)
        priority = self.priority[:, :filled]
        if self.config.alpha == 0.0:
            return (priority > 0.0).astype(np.float32)
        return priority if self.config.alpha == 1.0 else priority**self.config.alpha

    def _importance(
        self, mass: np.ndarray, totals: np.ndarray, task: np.ndarray, slot: np.ndarray
    ) -> np.ndarray:
        if self.config.alpha == 0.0:
            return np.ones(len(task), np.float32)
        if self.config.per_task:
            count, total = (mass > 0.0).sum(1)[task], totals[task]
        else:
            count, total = (mass > 0.0).sum(), totals.sum()
        weight = (count * mass[task, slot] / total) ** -self.config.beta
        return np.clip(weight / weight.max(), 0.1, 1.0).astype(np.float32)

    def _gather(self, task: np.ndarray, slot: np.ndarray, weight: np.ndarray) -> Batch:
        capacity, newest = self.config.capacity, self.rows[task] - 1
        start = newest - (newest - slot) % capacity  # absolute index of the first row
        end = self.end[task, slot]
        last = np.where(end < 0, newest, end)
        index = np.minimum(start + np.arange(self.window + 1)[:, None], last)  # (W + 1, B)
        length = np.minimum(last - start, self.window)
        real = np.arange(self.window)[:, None] < length
        rows = index % capacity
        return Batch(
            observation=self.observation[task, rows],
            action=self.action[task, rows[:-1]],
            reward=np.where(real, self.reward[task, rows[:-1]], np.float32(0.0)),
            length=length.astype(np.int32),
            terminated=self.terminated[task, rows[-1]],
            task=task.astype(np.int32),
            weight=weight,
            age=(newest - start).astype(np.int32),
        )

    def update_priorities(self, index: tuple[np.ndarray, np.ndarray], priority: np.ndarray) -> None:
        """Set the priorities |value - target| of sampled rows."""
        task, slot = index
        # Meanwhile the ring may have put a row without a transition there.
        starts = self.priority[task, slot] > 0.0
        priority = np.where(starts, np.maximum(priority, 1e-6), 0.0).astype(np.float32)
        self.priority[task, slot] = priority
        np.maximum.at(self.max_priority, task, priority)


def _draw(rng: np.random.Generator, mass: np.ndarray, num: int) -> np.ndarray:
    """``num`` indices with probability proportional to ``mass``."""
    cumulative = np.cumsum(mass, dtype=np.float64)
    index = np.searchsorted(cumulative, rng.random(num) * cumulative[-1], side="right")
    # Rounding may land one past the end.
    return np.minimum(index, np.flatnonzero(mass)[-1]) if num else index
