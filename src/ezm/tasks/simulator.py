"""What a source of tasks has to provide: an environment before padding, repeats and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ezm.errors import UserError

if TYPE_CHECKING:
    from ezm.tasks.rendering import Scene


class Undrawable(UserError):
    """A task of which there can be no pictures."""


class RawStep(NamedTuple):
    """The outcome of up to ``repeat`` simulator steps under one action."""

    observation: np.ndarray
    """(observation_size,) floats."""
    reward: float
    """Summed over the simulator steps taken."""
    terminated: bool
    truncated: bool
    """The source itself cut the episode short; not the time limit that :class:`ezm.tasks.Task` keeps."""


class Simulator(Protocol):
    """One environment of one task, with its own observation and action sizes.

    Time limits are not the simulator's: it only names its own, and :class:`ezm.tasks.Task` keeps it.
    """

    observation_size: int
    action_size: int
    episode_limit: int | None
    """Simulator steps of an episode by default; None: the source sets no limit."""
    reward_range: tuple[float, float] | None
    """Bounds of one simulator step's reward; None: unknown."""
    neutral_action: tuple[float, ...] | None
    """(action_size,) within [-1, 1], the action that asks for nothing; None: there is none."""
    threads_pay: bool
    """Whether a step is mostly long calls that let other Python threads run."""

    @property
    def step_seconds(self) -> float:
        """Simulated time of a simulator step, so that films run as fast as the world does."""
        ...

    @property
    def can_restore(self) -> bool:
        """Whether :meth:`snapshot` and :meth:`restore` work, exactly."""
        ...

    def reset(self) -> np.ndarray:
        """Start an episode, different from the one before; return its first observation."""
        ...

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        """Hold ``action`` (action_size,), within [-1, 1], for ``repeat`` steps or until the end."""
        ...

    def snapshot(self) -> object:
        """All that determines the future: physics, randomness, the task's own state."""
        ...

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot that this simulator took; it can be restored many times."""
        ...

    def shared(self) -> dict[str, object]:
        """What snapshots refer to without holding it, by a name that is the same in every process."""
        ...

    def view(self) -> Scene | np.ndarray:
        """The MuJoCo state, to be drawn; of another simulator its own picture, (height, width, 3) uint8.

        Raises:
            Undrawable: there is neither.
        """
        ...

    def close(self) -> None: ...


def unit_to_bounds(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, offset) that take [-1, 1] to [low, high]; None where that is the identity."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if np.all(low == -1) and np.all(high == 1):
        return None
    return high / 2 - low / 2, high / 2 + low / 2  # the whole width may overflow
