"""The scenes: the surroundings of the robot in each of the fourteen tasks.

Sizes are half-lengths, as in MuJoCo. Lengths in m, masses in kg. Rewards and terminations find shapes by name. These
names begin with ``obstacle`` (the hurdle task's barriers, poles, maze blocks), or are ``floor``, ``board`` and
``sphere``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mujoco

_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
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


def plain(spec: mujoco.MjSpec) -> None:
    """Adds nothing to the floor: stand, walk, run, reach."""


def stair(spec: mujoco.MjSpec) -> None:
    """Adds four stepped pyramids between walls."""
    for middle in (3.2, 9.2, 15.2, 21.2):
        for layer, half in enumerate((2.7, 2.1, 1.5, 0.9, 0.3)):
            shade = 0.5 + 0.08 * layer
            _box(spec, (half, 5, 0.09), (middle, 0, 0.09 + 0.18 * layer), (shade, shade, shade, 1))
    for side in (-1, 1):
        _box(spec, (15.5, 0.1, 2), (13.5, 5.05 * side, 2), _WALL)
    _box(spec, (0.1, 7.25, 2), (-2.1, 0, 2), _WALL)


def slide(spec: mujoco.MjSpec) -> None:
    """Adds nine triangular prisms, each with a slope of 5 m up to 1.75 m and a slope of 5 m down."""
    corners = [(x, y, z) for x, z in ((0.3, 0), (5.3, 1.75), (10.3, 0)) for y in (5, -5)]
    spec.add_mesh(name="prism", uservert=[value for corner in corners for value in corner])
    for index in range(9):
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname="prism", pos=(10 * index, 0, 0), rgba=_STONE
        )
    for side in (-1, 1):
        _box(spec, (53, 0.15, 4), (48.85, 5.15 * side, 4), _WALL)
    _box(spec, (0.15, 5.15, 4), (-4, 0, 4), _WALL)


def hurdle(spec: mujoco.MjSpec) -> None:
    """Adds ten hurdles 7 m apart, between barriers that must not be touched."""
    for index in range(1, 11):
        _box(spec, (0.03, 5, 0.1875), (7 * index, 0, 0.1875), _SIGNAL)
    for side in (-1, 1):
        _box(spec, (35.5, 0.275, 1), (35, 4.725 * side, 1), _WALL, name=f"obstacle_{side}")
    _box(spec, (0.05, 5, 1), (-0.525, 0, 1), _WALL, name="obstacle_behind")


def crawl(spec: mujoco.MjSpec) -> None:
    """Adds a tunnel 16 m long, 2.3 m wide and 1.15 m high."""
    for side in (-1, 1):
        _box(spec, (8, 0.2, 0.775), (10.2, 1.35 * side, 0.775), _WALL)
    _box(spec, (8, 1.15, 0.2), (10.2, 0, 1.35), _WALL)


def pole(spec: mujoco.MjSpec) -> None:
    """Adds 41 rows of poles, with four and three poles in turn."""
    for row in range(1, 42):
        across = (2.25, 0.75, -0.75, -2.25) if row % 2 else (1.5, 0, -1.5)
        for column, y in enumerate(across):
            spec.worldbody.add_geom(
                name=f"obstacle_{row}_{column}",
                type=_CYLINDER,
                size=(0.05, 1, 0),
                pos=(row, y, 1),
                rgba=_STONE,
            )
    for side in (-1, 1):
        _box(spec, (20.75, 0.15, 1), (20, 3.15 * side, 1), _WALL)
    _box(spec, (0.15, 3, 1), (-0.6, 0, 1), _WALL)


def maze(spec: mujoco.MjSpec) -> None:
    """Adds blocks 1.2 m high on a grid of 7 by 7 cells, and markers without contact at the four corners of the way."""
    for row, cells in enumerate(MAZE):
        for column, cell in enumerate(cells):
            if cell == "#":
                position = (1.5 * column - 1.5, 7.5 - 1.5 * row, 0.6)
                name = f"obstacle_{row}_{column}"
                _box(spec, (0.75, 0.75, 0.6), position, (0.6, 0.64, 0.7, 0.55), name=name)
    for x, y in ((0, 0), (3, 0), (3, 6), (6, 6)):
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=(0.05, 0, 0),
            pos=(x, y, 1),
            rgba=_SIGNAL,
            contype=0,
            conaffinity=0,
        )


def sit_simple(spec: mujoco.MjSpec) -> None:
    """Adds a fixed chair behind the robot."""
    _chair(spec)


def sit_hard(spec: mujoco.MjSpec) -> None:
    """Adds a chair that can be pushed and toppled."""
    _chair(spec).add_freejoint(name="free_chair")


def balance_simple(spec: mujoco.MjSpec) -> None:
    """Adds a board on a sphere that is fixed."""
    _board(spec)
    _sphere(spec)


def balance_hard(spec: mujoco.MjSpec) -> None:
    """Adds a board on a sphere that rolls."""
    _board(spec)
    _sphere(spec).add_freejoint(name="free_sphere")


SCENES: dict[str, Callable[[mujoco.MjSpec], None]] = {
    "stand": plain,
    "walk": plain,
    "run": plain,
    "stair": stair,
    "crawl": crawl,
    "pole": pole,
    "slide": slide,
    "hurdle": hurdle,
    "maze": maze,
    "sit_simple": sit_simple,
    "sit_hard": sit_hard,
    "balance_simple": balance_simple,
    "balance_hard": balance_hard,
    "reach": plain,
}
"""For each task, the function that adds its scene to a model that has a floor and a robot."""


def add_floor(spec: mujoco.MjSpec) -> None:
    """Adds the floor, which is endless for contact, and a sky."""
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=(0.93, 0.95, 0.98),
        rgb2=(0.55, 0.65, 0.78),
        width=256,
        height=1536,
    )
    spec.add_texture(
        name="grid",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=(0.87, 0.88, 0.9),
        rgb2=(0.82, 0.83, 0.86),
        width=256,
        height=256,
    )
    floor = spec.add_material(name="floor", texrepeat=(1, 1), texuniform=True)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "grid"
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(100, 100, 1), material="floor"
    )


def _chair(spec: mujoco.MjSpec) -> mujoco.MjsBody:
    body = spec.worldbody.add_body(name="chair", pos=(-0.25, 0, 0))
    # Recorded: the inertia of the original's visible parts, including legs of 4 cm, at 1000 kg/m3.
    body.explicitinertial = True
    body.mass = 15.748
    body.ipos = (-0.059121158242316486, 0, 0.47966471932943877)
    body.iquat = (0.9493954498405266, 0, -0.31408323709186425, 0)
    body.inertia = (1.0244853129878897, 0.9252890332147996, 0.5463975868935771)
    for size, position in (
        ((0.02, 0.21, 0.2), (-0.23, 0, 0.65)),
        ((0.21, 0.21, 0.2375), (0, 0, 0.2375)),
    ):
        body.add_geom(type=_BOX, size=size, pos=position, rgba=_WOOD, group=2)
    return body


def _board(spec: mujoco.MjSpec) -> None:
    body = spec.worldbody.add_body(name="stand_board", pos=(0, 0, 0.37))
    body.add_geom(name="board", type=_BOX, size=(0.15, 0.55, 0.03), rgba=_WOOD, group=2)
    body.add_freejoint(name="free_stand_board")


def _sphere(spec: mujoco.MjSpec) -> mujoco.MjsBody:
    body = spec.worldbody.add_body(name="rolling_pivot", pos=(0, 0, 0.17))
    sphere = mujoco.mjtGeom.mjGEOM_SPHERE
    body.add_geom(name="sphere", type=sphere, size=(0.17, 0, 0), rgba=_SIGNAL, group=2)
    return body


def _box(
    spec: mujoco.MjSpec,
    size: Sequence[float],
    position: Sequence[float],
    color: Sequence[float],
    name: str = "",
) -> None:
    spec.worldbody.add_geom(name=name, type=_BOX, size=size, pos=position, rgba=color)
