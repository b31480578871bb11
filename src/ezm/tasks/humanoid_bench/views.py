"""Camera positions for pictures and films of each task. The tasks' own cameras are in the models."""

from __future__ import annotations

import mujoco
import numpy as np

_VIEWS = {
    "stair": ((1.2, 0, 0.8), 5.0, 245, -18),
    "slide": ((1.8, 0, 0.8), 6.0, 245, -14),
    "crawl": ((2.3, 0, 0.7), 6.0, 235, -20),
    "pole": ((1.0, 0, 0.9), 4.6, 205, -22),
    "hurdle": ((3.5, 0, 0.5), 7.5, 40, -16),
    "maze": ((2.2, 2.2, 0.4), 11.0, 250, -48),
    "reach": ((0.0, 0, 0.9), 5.0, 215, -14),
    "sit_hard": ((0.1, 0, 0.75), 3.1, 235, -14),
    "balance_simple": ((0.0, 0, 1.0), 3.4, 215, -14),
    "balance_hard": ((0.0, 0, 1.0), 3.4, 215, -14),
}
"""The point to look at, distance, azimuth and elevation."""
_OTHERS = ((0.0, 0.0, 0.9), 2.9, 215, -12)
_NEAR = 4.5
_FILMED = {
    # From ahead, between the walls of the course, which would block other views.
    "hurdle": ((0.8, 0, 0.8), 4.5, 195, -20),
    "maze": ((0.4, 0.4, 0.6), 5.5, 250, -48),
}


def camera(task: str, views: dict = _VIEWS) -> mujoco.MjvCamera:
    """Returns a camera that looks at the start of an episode of ``task`` (``walk``, without the robot)."""
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = views.get(task, _OTHERS)
    return camera


def following(task: str, robot: np.ndarray) -> mujoco.MjvCamera:
    """Returns a camera that moves along with a robot at (3,), near enough to show its motion."""
    moved = camera(task, _VIEWS | _FILMED)
    if task not in _FILMED:
        nearer = min(1.0, _NEAR / moved.distance)
        moved.distance *= nearer
        moved.lookat[:2] *= nearer
    moved.lookat[:2] += robot[:2]
    return moved
