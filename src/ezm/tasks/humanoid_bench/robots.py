"""The robots: Unitree H1 (``h1.xml``), and H1 with two Shadow hands (``hand.py``).

Everything that physics reads equals HumanoidBench's compiled models: inertias, joints, servos, sites and sensors.
Only the collision shapes differ. They are our own primitives, fitted to the links. With ``meshes`` they are the
convex hulls of the links' own meshes, as in the original.
"""

from __future__ import annotations

from pathlib import Path

import mujoco

from ezm.errors import UserError
from ezm.tasks.humanoid_bench import hand
from ezm.tasks.humanoid_bench.servo import Servo

ROBOTS = ("h1", "h1hand")
_HIDDEN = 3
"""A group of geoms that MuJoCo does not draw."""


_Servos = dict[str, tuple[float, float, float]]
"""Stiffness, damping and force limit of each joint's servo."""

_LEG: _Servos = {
    "hip_yaw": (200, 5, 200),
    "hip_roll": (200, 5, 200),
    "hip_pitch": (200, 5, 200),
    "knee": (300, 6, 300),
    "ankle": (40, 2, 40),
}
_ARM: _Servos = {
    "shoulder_pitch": (100, 2, 40),
    "shoulder_roll": (100, 2, 40),
    "shoulder_yaw": (100, 2, 18),
    "elbow": (100, 2, 18),
}
_WRIST: _Servos = {"wrist_yaw": (100, 2, 18)}
_TORSO: _Servos = {"torso": (300, 6, 200)}

_H1_MESHES = (
    "pelvis",
    "torso_link",
    *(
        f"{side}_{link}_link"
        for side in ("left", "right")
        for link in (
            *("hip_roll", "hip_pitch", "knee", "ankle"),
            *("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow"),
        )
    ),
)
"""Links of H1 that collide as the hull of their mesh. The hip yaw links are cylinders in the original too."""


def robot(name: str, meshes: Path | None = None) -> mujoco.MjSpec:
    """Returns the editable model of a robot, without a floor.

    Args:
        name: ``h1`` or ``h1hand``.
        meshes: a folder with the meshes anywhere below it, named as in MuJoCo Menagerie's ``unitree_h1`` and
            ``shadow_hand``. None: primitives.

    Raises:
        UserError: an unknown robot, or meshes that are not below the folder.
    """
    if name not in ROBOTS:
        raise UserError(f"robot {name!r}: unknown; there are {', '.join(ROBOTS)}")
    spec = mujoco.MjSpec.from_file(str(Path(__file__).with_name("h1.xml")))
    spec.modelname = name
    arm = _ARM
    if name == "h1hand":
        arm = _ARM | _WRIST
        for side in ("left", "right"):
            hand.attach(spec, side)
    for side in ("left", "right"):
        _drive(spec, side + "_", _LEG)
    _drive(spec, "", _TORSO)
    for side in ("left", "right"):
        _drive(spec, side + "_", arm)
    if name == "h1hand":
        for side in ("left", "right"):
            hand.drive(spec, side)
    if meshes is not None:
        shapes = {link: (link, f"{link}.stl", 1.0) for link in _H1_MESHES}
        if name == "h1hand":
            shapes |= hand.MESHES
        _collide_as_meshes(spec, meshes, shapes)
    return spec


def _drive(spec: mujoco.MjSpec, prefix: str, servos: _Servos) -> None:
    for joint, values in servos.items():
        Servo(prefix + joint, *values).add(spec)


def _collide_as_meshes(
    spec: mujoco.MjSpec, folder: Path, shapes: dict[str, tuple[str, str, float]]
) -> None:
    """Replaces the primitives of each body in ``shapes`` by the mesh (mesh name, file name, scale)."""
    if not folder.is_dir():
        raise UserError(f"meshes={folder}: no such directory")
    files = {path.name: path for path in sorted(folder.rglob("*")) if path.is_file()}
    missing = sorted({file for _, file, _ in shapes.values()} - set(files))
    if missing:
        raise UserError(
            f"meshes={folder}: {', '.join(missing)} not found below it; "
            "unpack MuJoCo Menagerie's unitree_h1 (and shadow_hand) there"
        )
    known: set[str] = set()
    for body_name, (mesh, file, scale) in shapes.items():
        if mesh not in known:
            known.add(mesh)
            spec.add_mesh(name=mesh, file=str(files[file].resolve()), scale=[scale] * 3)
        body = spec.body(body_name)
        old = list(body.geoms)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=mesh,
            material=old[0].material,
            group=old[0].group,
            solref=old[0].solref,
            solimp=old[0].solimp,
        )
        for geom in old:  # they stay, without contact and not drawn
            geom.contype, geom.conaffinity, geom.group = 0, 0, _HIDDEN
