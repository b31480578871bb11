"""Compiled models: a robot in a task's scene.

The robots are Unitree H1 (``h1.xml``), and H1 with two Shadow hands (``hand.py``). Everything that physics reads equals
HumanoidBench's compiled models: inertias, joints, servos, sites and sensors. Only the collision shapes differ. They are
our own primitives, fitted to the links. With ``meshes`` they are the convex hulls of the links' own meshes, as in the
original.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np

from ezm.errors import UserError
from ezm.tasks.humanoid_bench import hand
from ezm.tasks.humanoid_bench.catalog import SUITES
from ezm.tasks.humanoid_bench.scenes import SCENES

PHYSICS_STEPS = 10
"""Physics steps of 2 ms in a control step, so 50 Hz."""

_SIDES = ("left", "right")
_HOME = {"hip_pitch": -0.4, "knee": 0.8, "ankle": -0.4}

# Stiffness in N m / rad, damping in N m s / rad and force limit in N m of each joint's servo.
_LEG = {
    "hip_yaw": (200, 5, 200),
    "hip_roll": (200, 5, 200),
    "hip_pitch": (200, 5, 200),
    "knee": (300, 6, 300),
    "ankle": (40, 2, 40),
}
_TORSO = (300, 6, 200)
_ARM = {
    "shoulder_pitch": (100, 2, 40),
    "shoulder_roll": (100, 2, 40),
    "shoulder_yaw": (100, 2, 18),
    "elbow": (100, 2, 18),
}
_WRIST = {"wrist_yaw": (100, 2, 18)}
# The hip yaw links are cylinders in the original too.
_MESHED = ("hip_roll", "hip_pitch", "knee", "ankle", *_ARM)
_H1_MESHES = [
    "pelvis",
    "torso_link",
    *(f"{side}_{link}_link" for side in _SIDES for link in _MESHED),
]
"""Links of H1 that collide as the hull of their mesh."""
_HIDDEN = 3
"""A group of geoms that MuJoCo does not draw."""


@lru_cache
def model(robot_name: str, task: str, meshes: Path | None = None) -> mujoco.MjModel:
    """Returns the model of a robot in a task's scene. It is built once and never written to.

    Its only keyframe is the pose in which an episode begins, before noise.

    Args:
        robot_name: ``h1`` or ``h1hand``.
        task: such as ``walk``.
        meshes: see :func:`robot`.

    Raises:
        UserError: an unknown robot, or missing meshes.
    """
    spec = robot(robot_name, meshes)
    if task in SCENES:
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


def robot(name: str, meshes: Path | None = None) -> mujoco.MjSpec:
    """Returns the editable model of a robot on a floor.

    Args:
        name: ``h1`` or ``h1hand``.
        meshes: a folder with the meshes anywhere below it, named as in MuJoCo Menagerie's ``unitree_h1`` and
            ``shadow_hand``. None: primitives.

    Raises:
        UserError: an unknown robot, or meshes that are not below the folder.
    """
    if name not in SUITES:
        raise UserError(f"robot {name!r}: unknown; there are {', '.join(SUITES)}")
    spec = mujoco.MjSpec.from_file(str(Path(__file__).with_name("h1.xml")))
    spec.modelname = name
    shapes = {link: (link, f"{link}.stl", 1.0) for link in _H1_MESHES}
    hands = _SIDES if name == "h1hand" else ()
    arm = _ARM | _WRIST if hands else _ARM
    shapes |= hand.MESHES if hands else {}
    for side in hands:
        hand.Hand(spec, side).build()
    servos = {f"{side}_{joint}": values for side in _SIDES for joint, values in _LEG.items()}
    servos["torso"] = _TORSO
    servos |= {f"{side}_{joint}": values for side in _SIDES for joint, values in arm.items()}
    for joint, values in servos.items():
        _servo(spec, joint, joint, *values)
    for side in hands:
        for joint, (stiffness, limit) in hand.SERVOS.items():
            _servo(spec, f"{side[0]}h_A_{joint}", f"{side[0]}h_{joint}", stiffness, 0, limit)
    if meshes is not None:
        _collide_as_meshes(spec, meshes, shapes)
    return spec


def _servo(
    spec: mujoco.MjSpec, name: str, target: str, stiffness: float, damping: float, limit: float
) -> None:
    """Adds HumanoidBench's position actuator to a joint or, where there is none called ``target``, to a tendon.

    Its force is ``clip(stiffness (control - length) - damping velocity, -limit, limit)``.
    """
    joint = spec.joint(target)
    spec.add_actuator(
        name=name,
        target=target,
        trntype=mujoco.mjtTrn.mjTRN_JOINT if joint else mujoco.mjtTrn.mjTRN_TENDON,
        gainprm=[stiffness] + [0] * 9,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        biasprm=[0, -stiffness, -damping] + [0] * 7,
        ctrlrange=joint.range if joint else hand.TENDON_RANGE,
        forcerange=[-limit, limit],
    )


def _home(compiled: mujoco.MjModel, task: str) -> np.ndarray:
    pose = compiled.qpos0.copy()
    pose[:3] = (-0.1, 0, 1.38) if task.startswith("balance") else (0, 0, 0.98)
    for side in _SIDES:
        for joint, angle in _HOME.items():
            pose[compiled.joint(f"{side}_{joint}").qposadr[0]] = angle
    return pose


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
    for body_name, (mesh, file, scale) in shapes.items():
        if spec.mesh(mesh) is None:
            spec.add_mesh(name=mesh, file=str(files[file].resolve()), scale=[scale] * 3)
        body = spec.body(body_name)
        old = list(body.geoms)
        kept = {name: getattr(old[0], name) for name in ("material", "group", "solref", "solimp")}
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh, **kept)
        for geom in old:  # they stay, without contact and not drawn
            geom.contype, geom.conaffinity, geom.group = 0, 0, _HIDDEN
