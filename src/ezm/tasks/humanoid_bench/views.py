"""Camera positions for pictures and films of each task. The tasks' own cameras are in the models."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np


class View(NamedTuple):
    """Position and direction of a camera."""

    lookat: tuple[float, float, float] = (0.0, 0.0, 0.9)
    distance: float = 2.9
    azimuth: float = 215.0
    elevation: float = -12.0


VIEWS = {
    "stair": View((1.2, 0, 0.8), 5.0, 245, -18),
    "slide": View((1.8, 0, 0.8), 6.0, 245, -14),
    "crawl": View((2.3, 0, 0.7), 6.0, 235, -20),
    "pole": View((1.0, 0, 0.9), 4.6, 205, -22),
    "hurdle": View((3.5, 0, 0.5), 7.5, 40, -16),
    "maze": View((2.2, 2.2, 0.4), 11.0, 250, -48),
    "reach": View((0.0, 0, 0.9), 5.0, 215, -14),
    "sit_hard": View((0.1, 0, 0.75), 3.1, 235, -14),
    "balance_simple": View((0.0, 0, 1.0), 3.4, 215, -14),
    "balance_hard": View((0.0, 0, 1.0), 3.4, 215, -14),
}
"""Views of tasks. All other tasks have the defaults of :class:`View`."""


_NEAR = 4.5
_FILMED = {
    # From ahead, between the walls of the course, which would block other views.
    "hurdle": View((0.8, 0, 0.8), 4.5, 195, -20),
    "maze": View((0.4, 0.4, 0.6), 5.5, 250, -48),
}


def _camera(view: View) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance = view.lookat, view.distance
    camera.azimuth, camera.elevation = view.azimuth, view.elevation
    return camera


def camera(task: str) -> mujoco.MjvCamera:
    """Returns a camera that looks at the start of an episode of ``task`` (``walk``, without the robot)."""
    return _camera(VIEWS.get(task, View()))


def following(task: str, robot: np.ndarray) -> mujoco.MjvCamera:
    """Returns a camera that moves along with a robot at (3,), near enough to show its motion."""
    if task in _FILMED:
        moved = _camera(_FILMED[task])
    else:
        moved = camera(task)
        nearer = min(1.0, _NEAR / moved.distance)
        moved.distance *= nearer
        moved.lookat[:2] *= nearer
    moved.lookat[:2] += robot[:2]
    return moved
