"""The description of a task: its name, its sizes and its bounds, without any environment."""

from __future__ import annotations

from dataclasses import dataclass


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
    embodiment: str
    """Name of the robot or mechanism, e.g. ``walker``. Tasks with an equal one and equal sizes share it."""
    neutral_action: tuple[float, ...] | None = None
    """The action that asks for nothing, such as a robot's home pose, None where the task declares none."""
