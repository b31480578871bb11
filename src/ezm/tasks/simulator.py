"""The interface of a task's source: an environment before padding, action repeat and time limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ezm.errors import UserError

if TYPE_CHECKING:
    from ezm.tasks.rendering import Scene


class Undrawable(UserError):
    """Raised for a task that has no pictures."""


class RawStep(NamedTuple):
    """The outcome of up to ``repeat`` simulator steps under one action."""

    observation: np.ndarray
    """(observation_size,) floats."""
    reward: float
    """Sum over the simulator steps taken."""
    terminated: bool
    truncated: bool
    """Whether the source itself cut the episode short, apart from the time limit that :class:`ezm.tasks.Task` keeps."""


class Simulator(Protocol):
    """One environment of one task, with its own observation and action sizes.

    A simulator declares its time limit but does not keep it: :class:`ezm.tasks.Task` does.
    """

    observation_size: int
    action_size: int
    episode_limit: int | None
    """Simulator steps of an episode by default, None where the source sets no limit."""
    reward_range: tuple[float, float] | None
    """Bounds of one simulator step's reward, None where they are unknown."""
    neutral_action: tuple[float, ...] | None = None
    """(action_size,) within [-1, 1]: the action that asks for nothing, None where there is none."""
    embodiment: str
    """Name of the robot or mechanism that acts, equal for all tasks of the same one."""
    threads_pay: bool = False
    """Whether a step consists mostly of long calls that let other Python threads run."""
    step_seconds: float
    """Simulated seconds of a simulator step, so that films run in real time."""
    can_restore: bool = True
    """Whether :meth:`snapshot` and :meth:`restore` work exactly."""

    def reset(self) -> np.ndarray:
        """Starts an episode that differs from the one before, and returns its first observation."""

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        """Holds ``action`` (action_size,), within [-1, 1], for ``repeat`` steps or until the episode ends."""

    def snapshot(self) -> object:
        """Returns all that determines the future: physics, randomness, the task's own state."""

    def restore(self, snapshot: object) -> None:
        """Goes back to a snapshot of this simulator, any number of times."""

    def shared(self) -> dict[str, object]:
        """Objects that snapshots refer to but do not contain, by a name that is the same in every process."""
        return {}

    def view(self) -> Scene | np.ndarray:
        """Returns the MuJoCo state to draw, or another simulator's own picture, (height, width, 3) uint8.

        Raises:
            Undrawable: there is neither.
        """

    def close(self) -> None: ...


def unit_to_bounds(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scale, offset) that map [-1, 1] to [low, high]."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return high / 2 - low / 2, high / 2 + low / 2  # the whole width may overflow


def changeable_arrays(model: Any) -> list[np.ndarray]:
    """Returns views of a :class:`mujoco.MjModel`'s float arrays, in the same order for the same model.

    Tasks may change them: some place their targets in them. Large parts that no task changes are left out.
    """
    constant = ("mesh_", "tex_", "skin_", "bvh_", "flex_", "oct_", "plugin_")
    values = (getattr(model, name) for name in dir(model) if not name.startswith(constant))
    return [
        value
        for value in values
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size
    ]
