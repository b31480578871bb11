"""Compiled models: a robot in a task's scene."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np

from ezm.tasks.humanoid_bench.robots import robot
from ezm.tasks.humanoid_bench.scenes import SCENES, add_floor

PHYSICS_STEPS = 10
"""Physics steps of 2 ms in a control step, so 50 Hz."""

_HOME = {"hip_pitch": -0.4, "knee": 0.8, "ankle": -0.4}


@lru_cache
def model(robot_name: str, task: str, meshes: Path | None = None) -> mujoco.MjModel:
    """Returns the model of a robot in a task's scene. It is built once and never written to.

    Its only keyframe is the pose in which an episode begins, before noise.

    Args:
        robot_name: ``h1`` or ``h1hand``.
        task: a key of :data:`ezm.tasks.humanoid_bench.scenes.SCENES`.
        meshes: see :func:`ezm.tasks.humanoid_bench.robots.robot`.

    Raises:
        UserError: an unknown robot, or missing meshes.
    """
    spec = robot(robot_name, meshes)
    add_floor(spec)
    SCENES[task](spec)
    compiled = spec.compile()
    spec.add_key(name="home", qpos=_home(compiled, task))
    return spec.compile()


def hold_action(compiled: mujoco.MjModel) -> np.ndarray:
    """Returns the action that asks every servo for the pose of the keyframe, (A,)."""
    data = mujoco.MjData(compiled)
    mujoco.mj_resetDataKeyframe(compiled, data, 0)
    mujoco.mj_forward(compiled, data)
    low, high = compiled.actuator_ctrlrange.T
    return 2 * (data.actuator_length - low) / (high - low) - 1


def _home(compiled: mujoco.MjModel, task: str) -> np.ndarray:
    pose = compiled.qpos0.copy()
    pose[:3] = (-0.1, 0, 1.38) if task.startswith("balance") else (0, 0, 0.98)
    for side in ("left", "right"):
        for joint, angle in _HOME.items():
            pose[compiled.joint(f"{side}_{joint}").qposadr[0]] = angle
    return pose
