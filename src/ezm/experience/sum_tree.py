"""Sampling in proportion to priorities, in O(log n) for a batch of draws at once."""

from __future__ import annotations

import numpy as np

_BRANCHES = 32


class SumTree:
    """Sums of groups of ``_BRANCHES`` rows, of groups of these groups, and so on, for K tasks with C rows each.

    All draws of a batch descend together, level by level. Each sum is recomputed from the level below, in a fixed
    order. The tree therefore depends on the present masses alone, and not on the history of changes.

    Args:
        mass: (K, C) float64, not negative.
    """

    def __init__(self, mass: np.ndarray):
        sums, self._levels = mass, [_whole_groups(mass)]
        while sums.shape[1] > 1:
            sums = self._levels[-1].reshape(len(mass), -1, _BRANCHES).sum(2)
            self._levels.append(_whole_groups(sums) if sums.shape[1] > 1 else sums)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(level.nbytes for level in self._levels)

    @property
    def totals(self) -> np.ndarray:
        """Sum of each task's masses, (K,)."""
        return self._levels[-1][:, 0]

    def mass(self, task: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Returns the masses of rows, (B,)."""
        return self._levels[0][task, row]

    def set(self, task: np.ndarray, row: np.ndarray, mass: np.ndarray) -> None:
        """Sets the masses of rows, (B,). If a row occurs twice, its last mass counts."""
        self._levels[0][task, row] = mass
        for below, above in zip(self._levels, self._levels[1:], strict=False):
            row = row // _BRANCHES
            groups = below.reshape(len(below), -1, _BRANCHES)
            above[task, row] = groups[task, row].sum(1)

    def draw(self, rng: np.random.Generator, task: np.ndarray) -> np.ndarray:
        """Draws a row for each of (B,) tasks, with probability proportional to its mass. Returns the rows, (B,)."""
        left = rng.random(len(task)) * self.totals[task]
        row = np.zeros(len(task), np.int64)
        each = np.arange(len(task))
        for level in reversed(self._levels[:-1]):
            groups = level.reshape(-1, _BRANCHES)
            masses = groups.take(task * (len(groups) // len(level)) + row, axis=0)
            sums = np.cumsum(masses, axis=1)
            # Rounding may ask for more than the total. Then the last child with any mass is taken.
            last = _BRANCHES - 1 - np.argmax(masses[:, ::-1] > 0.0, axis=1)
            child = np.minimum((sums <= left[:, None]).sum(1), last)
            left = left - np.where(child > 0, sums[each, child - 1], 0.0)
            row = row * _BRANCHES + child
        return row


def _whole_groups(sums: np.ndarray) -> np.ndarray:
    """Pads with zeros at the end, to a multiple of the branches."""
    return np.pad(sums, ((0, 0), (0, -sums.shape[1] % _BRANCHES)))
