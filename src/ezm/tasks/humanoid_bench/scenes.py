"""The scenes: what surrounds the robot in the tasks that have more than a floor.

Sizes are half-lengths, as in MuJoCo. Lengths in m, masses in kg. Rewards and terminations find shapes by name. These
names begin with ``obstacle`` (the hurdle task's barriers, poles, maze blocks), or are ``floor``, ``board`` and
``sphere``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mujoco

_Numbers = Sequence[float]
_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
_SPHERE = mujoco.mjtGeom.mjGEOM_SPHERE
_WALL = (0.75, 0.8, 0.85, 0.25)
_STONE = (0.62, 0.64, 0.68, 1)
_SIGNAL = (0.85, 0.45, 0.2, 1)
_WOOD = (0.55, 0.4, 0.26, 1)

MAZE = (
    "#######",
    "#.....#",
    "###.#.#",
    "#.....#",
    "#.#.###",
    "#.....#",
    "#######",
)
"""Filled cells of 1.5 m. The top left cell is centred at (-1.5, 7.5). The robot starts in the second cell of the
sixth row, at (0, 0)."""


def stair(spec: mujoco.MjSpec) -> None:
    """Adds four stepped pyramids between walls."""
    for middle in (3.2, 9.2, 15.2, 21.2):
        for layer, half in enumerate((2.7, 2.1, 1.5, 0.9, 0.3)):
            shade = 0.5 + 0.08 * layer
            _add(spec, (half, 5, 0.09), (middle, 0, 0.09 + 0.18 * layer), (shade, shade, shade, 1))
    for side in (-1, 1):
        _add(spec, (15.5, 0.1, 2), (13.5, 5.05 * side, 2), _WALL)
    _add(spec, (0.1, 7.25, 2), (-2.1, 0, 2), _WALL)


def slide(spec: mujoco.MjSpec) -> None:
    """Adds nine triangular prisms, each with a slope of 5 m up to 1.75 m and a slope of 5 m down."""
    corners = [(x, y, z) for x, z in ((0.3, 0), (5.3, 1.75), (10.3, 0)) for y in (5, -5)]
    spec.add_mesh(name="prism", uservert=[value for corner in corners for value in corner])
    for index in range(9):
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname="prism", pos=(10 * index, 0, 0), rgba=_STONE
        )
    for side in (-1, 1):
        _add(spec, (53, 0.15, 4), (48.85, 5.15 * side, 4), _WALL)
    _add(spec, (0.15, 5.15, 4), (-4, 0, 4), _WALL)


def hurdle(spec: mujoco.MjSpec) -> None:
    """Adds ten hurdles 7 m apart, between barriers that must not be touched."""
    for index in range(1, 11):
        _add(spec, (0.03, 5, 0.1875), (7 * index, 0, 0.1875), _SIGNAL)
    for side in (-1, 1):
        _add(spec, (35.5, 0.275, 1), (35, 4.725 * side, 1), _WALL, name=f"obstacle_{side}")
    _add(spec, (0.05, 5, 1), (-0.525, 0, 1), _WALL, name="obstacle_behind")


def crawl(spec: mujoco.MjSpec) -> None:
    """Adds a tunnel 16 m long, 2.3 m wide and 1.15 m high."""
    for side in (-1, 1):
        _add(spec, (8, 0.2, 0.775), (10.2, 1.35 * side, 0.775), _WALL)
    _add(spec, (8, 1.15, 0.2), (10.2, 0, 1.35), _WALL)


def pole(spec: mujoco.MjSpec) -> None:
    """Adds 41 rows of poles, with four and three poles in turn."""
    for row in range(1, 42):
        across = (2.25, 0.75, -0.75, -2.25) if row % 2 else (1.5, 0, -1.5)
        for column, y in enumerate(across):
            name = f"obstacle_{row}_{column}"
            _add(spec, (0.05, 1, 0), (row, y, 1), _STONE, name=name, type=_CYLINDER)
    for side in (-1, 1):
        _add(spec, (20.75, 0.15, 1), (20, 3.15 * side, 1), _WALL)
    _add(spec, (0.15, 3, 1), (-0.6, 0, 1), _WALL)


def maze(spec: mujoco.MjSpec) -> None:
    """Adds blocks 1.2 m high on a grid of 7 by 7 cells, and markers without contact at the four corners of the way."""
    for row, cells in enumerate(MAZE):
        for column, cell in enumerate(cells):
            if cell == "#":
                position = (1.5 * column - 1.5, 7.5 - 1.5 * row, 0.6)
                name = f"obstacle_{row}_{column}"
                _add(spec, (0.75, 0.75, 0.6), position, (0.6, 0.64, 0.7, 0.55), name=name)
    for x, y in ((0, 0), (3, 0), (3, 6), (6, 6)):
        apart = {"contype": 0, "conaffinity": 0}
        _add(spec, (0.05, 0, 0), (x, y, 1), _SIGNAL, type=_SPHERE, **apart)


def sit(spec: mujoco.MjSpec, movable: bool) -> None:
    """Adds a chair behind the robot, which is fixed or can be pushed and toppled."""
    chair = spec.worldbody.add_body(name="chair", pos=(-0.25, 0, 0))
    # Recorded: the inertia of the original's visible parts, including legs of 4 cm, at 1000 kg/m3.
    chair.explicitinertial, chair.mass = True, 15.748
    chair.ipos = (-0.059121158242316486, 0, 0.47966471932943877)
    chair.iquat = (0.9493954498405266, 0, -0.31408323709186425, 0)
    chair.inertia = (1.0244853129878897, 0.9252890332147996, 0.5463975868935771)
    for size, position in (
        ((0.02, 0.21, 0.2), (-0.23, 0, 0.65)),
        ((0.21, 0.21, 0.2375), (0, 0, 0.2375)),
    ):
        chair.add_geom(type=_BOX, size=size, pos=position, rgba=_WOOD, group=2)
    if movable:
        chair.add_freejoint(name="free_chair")


def balance(spec: mujoco.MjSpec, rolling: bool) -> None:
    """Adds a board on a sphere, which is fixed or rolls."""
    board = spec.worldbody.add_body(name="stand_board", pos=(0, 0, 0.37))
    board.add_geom(name="board", type=_BOX, size=(0.15, 0.55, 0.03), rgba=_WOOD, group=2)
    board.add_freejoint(name="free_stand_board")
    ball = spec.worldbody.add_body(name="rolling_pivot", pos=(0, 0, 0.17))
    ball.add_geom(name="sphere", type=_SPHERE, size=(0.17, 0, 0), rgba=_SIGNAL, group=2)
    if rolling:
        ball.add_freejoint(name="free_sphere")


def _add(
    spec: mujoco.MjSpec, size: _Numbers, position: _Numbers, color: _Numbers, **more: Any
) -> None:
    """Adds a fixed box, or another shape where ``more`` has a ``type``."""
    spec.worldbody.add_geom(size=size, pos=position, rgba=color, **{"type": _BOX, **more})


SCENES: dict[str, Callable[[mujoco.MjSpec], None]] = {
    "stair": stair,
    "crawl": crawl,
    "pole": pole,
    "slide": slide,
    "hurdle": hurdle,
    "maze": maze,
    "sit_simple": partial(sit, movable=False),
    "sit_hard": partial(sit, movable=True),
    "balance_simple": partial(balance, rolling=False),
    "balance_hard": partial(balance, rolling=True),
}
"""For each task with a scene, the function that adds it to a model of a robot on a floor."""
