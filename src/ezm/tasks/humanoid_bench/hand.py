"""The Shadow hand E3M5, 24 joints and 20 servos, at the end of an H1 arm.

The left hand is the right hand mirrored in x. The few values that are not mirrored (a box of the palm) are the
original's. Lengths in m, masses in kg.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import mujoco

_Numbers = Sequence[float]
_ORIGIN = (0, 0, 0)
_SAME = (1, 0, 0, 0)
_HALF = 1 / sqrt(2)
_TURNED = (_HALF, 0, 0, _HALF)
"""Principal axes of inertia of most links."""
_ACROSS = (_HALF, 0, _HALF, 0)
"""A cylinder's axis along x."""
_BOX, _CAPSULE = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
_CYLINDER, _SPHERE = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_SPHERE

_FINGERS = ("FF", "MF", "RF", "LF")
_TIPS = {f"{side}h_{finger.lower()}distal" for side in "lr" for finger in _FINGERS}
MESHES = {tip: ("fingertip", "f_distal_pst.obj", 0.001) for tip in sorted(_TIPS)} | {
    f"{side}h_thdistal": ("thumbtip", "th_distal_pst.obj", 0.001) for side in "lr"
}
"""Links that collide as the hull of a mesh in the original: body, mesh, file, scale (the files are in mm)."""

_BEND = {"J4": (1, 1), "J3": (1, 1), "J0": (0.5, 1)}
SERVOS: dict[str, tuple[float, float]] = {
    "WRJ2": (10, 10),
    "WRJ1": (8, 5),
    "THJ5": (0.4, 3),
    "THJ4": (1, 2),
    "THJ3": (0.5, 1),
    "THJ2": (1.5, 1),
    "THJ1": (1, 1),
    **{finger + joint: servo for finger in _FINGERS[:3] for joint, servo in _BEND.items()},
    "LFJ5": (1, 1),
    **{"LF" + joint: servo for joint, servo in _BEND.items()},
}
"""Stiffness and force limit of each servo, in the order of the actions. J0 is a tendon, which bends the two outer
joints of a finger together."""
TENDON_RANGE = [0, 3.1415]


class Hand:
    """A wrist that turns and a hand, at the arm of ``side`` (``left`` or ``right``) of a model.

    H1's massless body ``{side}_hand`` becomes the wrist.
    """

    def __init__(self, spec: mujoco.MjSpec, side: str) -> None:
        self.spec, self.side, self.prefix = spec, side, f"{side[0]}h_"
        self.sign = 1 if side == "right" else -1
        """Sign of x, which points from the middle of a right hand to its thumb."""

    def build(self) -> None:
        """Adds wrist and hand to the model, without servos."""
        s = self.sign
        wrist = self._wrist()
        palm = self._palm(wrist)
        self._finger(palm, "FF", (0.033 * s, 0, 0.095), -s)
        self._finger(palm, "MF", (0.011 * s, 0, 0.099), -s)
        self._finger(palm, "RF", (-0.011 * s, 0, 0.095), s)
        metacarpal = self._body(palm, "lfmetacarpal", (-0.033 * s, 0, 0.02071))
        self._inertia(metacarpal, 0.03, 0.04, (1.638e-5, 1.45e-5, 4.272e-6))
        self._joint(metacarpal, "LFJ5", (0.573576, 0, 0.819152 * s), (0, 0.785398))
        self._geom(metacarpal, _BOX, (0.011, 0.012, 0.025), (0.002 * s, 0, 0.033))
        self._finger(metacarpal, "LF", (0, 0, 0.06579), s)
        self._thumb(palm)
        exclude, prefix = self.spec.add_exclude, self.prefix
        exclude(bodyname1=f"{self.side}_elbow_link", bodyname2=f"{prefix}wrist")
        exclude(bodyname1=f"{prefix}thproximal", bodyname2=f"{prefix}thmiddle")

    def _wrist(self) -> mujoco.MjsBody:
        s = self.sign
        arm = self.spec.body(f"{self.side}_hand")
        arm.pos, arm.quat = (0.169, 0, -0.02912), (0, _HALF, 0, _HALF)
        self._inertia(arm, 0.001, 0.001, (1e-5, 1e-5, 1e-5), _SAME)
        yaw, default = f"{self.side}_wrist_yaw", self.spec.find_default("robot")
        arm.add_joint(default, name=yaw, axis=(0, 0, -s), range=(-0.15, 1.57))
        wrist = self._body(arm, "wrist", (0.01, 0, 0.15301), _TURNED)
        self._inertia(wrist, 0.1, 0.029, (6.4e-5, 4.38e-5, 3.5e-5), (0.5, 0.5, 0.5, 0.5))
        self._joint(wrist, "WRJ2", (0, s, 0), (-0.523599, 0.174533), "wrist")
        self._geom(wrist, _CYLINDER, (0.011, 0.005), (-0.026 * s, 0, 0.034), _ACROSS)
        self._geom(wrist, _CYLINDER, (0.011, 0.005), (0.031 * s, 0, 0.034), _ACROSS)
        for x, z, tilt in ((-0.021, 0.011, 0.38268411), (0.026, 0.01, -0.38268411)):
            turn = (0.92387925 * s, 0, tilt, 0)
            self._geom(wrist, _BOX, (0.0135, 0.009, 0.005), (x * s, 0, z), turn)
        return wrist

    def _palm(self, wrist: mujoco.MjsBody) -> mujoco.MjsBody:
        s = self.sign
        palm = self._body(wrist, "palm", (0, 0, 0.034))
        self._inertia(palm, 0.3, 0.035, (0.0005287, 0.0003581, 0.000191))
        self._joint(palm, "WRJ1", (1, 0, 0), (-0.698132, 0.488692), "wrist")
        heel = 0.012 if self.side == "right" else 0.0112
        tilt = (0.987241, 0.0990545, 0.0124467, 0.124052 * s)
        for size, position, turn in (
            ((0.031, 0.0035, 0.049), (0.011 * s, 0.0085, 0.038), _SAME),
            ((0.018, 0.0085, 0.049), (-0.002 * s, -0.0035, 0.038), _SAME),
            ((0.013, 0.0085, 0.005), (0.029 * s, -0.0035, 0.082), _SAME),
            ((0.013, 0.007, 0.009), (0.0265 * s, -0.001, 0.07), tilt),
            ((0.0105, 0.0135, heel), (0.0315 * s, -0.0085, 0.001), _SAME),
            ((0.011, 0.0025, 0.015), (0.0125 * s, -0.015, 0.004), (0.971338 * s, 0, 0, -0.237703)),
            ((0.009, 0.012, 0.002), (0.011 * s, 0, 0.089), _SAME),
            ((0.01, 0.012, 0.02), (-0.03 * s, 0, 0.009), _SAME),
        ):
            self._geom(palm, _BOX, size, position, turn)
        return palm

    def _finger(self, parent: mujoco.MjsBody, name: str, position: _Numbers, spread: float) -> None:
        """Adds a finger's knuckle, proximal, middle and distal link. ``spread`` is the sign of the knuckle's axis."""
        low = name.lower()
        knuckle = self._body(parent, f"{low}knuckle", position)
        self._inertia(knuckle, 0.008, 0, (3.2e-7, 2.6e-7, 2.6e-7), (0.5, 0.5, -0.5, 0.5))
        self._joint(knuckle, f"{name}J4", (0, spread, 0), (-0.349066, 0.349066))
        self._geom(knuckle, _CYLINDER, (0.009, 0.009), _ORIGIN, _ACROSS)
        proximal = self._body(knuckle, f"{low}proximal")
        self._inertia(proximal, 0.03, 0.0225, (1e-5, 9.8e-6, 1.8e-6))
        self._joint(proximal, f"{name}J3", (1, 0, 0), (-0.261799, 1.5708))
        self._geom(proximal, _CAPSULE, (0.009, 0.02), (0, 0, 0.025))
        middle = self._body(proximal, f"{low}middle", (0, 0, 0.045))
        self._inertia(middle, 0.017, 0.0125, (2.7e-6, 2.6e-6, 8.7e-7))
        self._joint(middle, f"{name}J2", (1, 0, 0), (0, 1.5708))
        self._geom(middle, _CAPSULE, (0.009, 0.0125), (0, 0, 0.0125))
        distal = self._body(middle, f"{low}distal", (0, 0, 0.025))
        self._inertia(distal, 0.013, 0.0130769, (1.28092e-6, 1.12092e-6, 5.3e-7))
        self._joint(distal, f"{name}J1", (1, 0, 0), (0, 1.5708))
        self._geom(distal, _CAPSULE, (0.0083, 0.0065), (0, 0, 0.0168))
        tendon = self.spec.add_tendon(name=f"{self.prefix}{name}J0")
        for joint in ("J2", "J1"):
            tendon.wrap_joint(self.prefix + name + joint, 1)

    def _thumb(self, palm: mujoco.MjsBody) -> None:
        s = self.sign
        turn = (0.92388, 0, 0.382683, 0) if s > 0 else (0, -0.382683, 0, 0.92388)
        base = self._body(palm, "thbase", (0.034 * s, -0.00858, 0.029), turn)
        self._inertia(base, 0.01, 0, (1.6e-7, 1.6e-7, 1.6e-7), _SAME)
        self._joint(base, "THJ5", (0, 0, -s), (-1.0472, 1.0472))
        self._geom(base, _SPHERE, (0.013,), _ORIGIN)
        proximal = self._body(base, "thproximal")
        self._inertia(proximal, 0.04, 0.019, (1.36e-5, 1.36e-5, 3.13e-6), _SAME)
        self._joint(proximal, "THJ4", (s, 0, 0), (0, 1.22173))
        self._geom(proximal, _CAPSULE, (0.0105, 0.009), (0, 0, 0.02))
        hub = self._body(proximal, "thhub", (0, 0, 0.038))
        self._inertia(hub, 0.005, 0, (1e-6, 1e-6, 3e-7), _SAME)
        self._joint(hub, "THJ3", (s, 0, 0), (-0.20944, 0.20944))
        self._geom(hub, _SPHERE, (0.011,), _ORIGIN)
        middle = self._body(hub, "thmiddle")
        self._inertia(middle, 0.02, 0.016, (5.1e-6, 5.1e-6, 1.21e-6), _SAME)
        self._joint(middle, "THJ2", (0, -1, 0), (-0.698132, 0.698132))
        self._geom(middle, _CAPSULE, (0.009, 0.009), (0, 0, 0.012))
        self._geom(middle, _SPHERE, (0.01,), (0, 0, 0.03))
        distal = self._body(middle, "thdistal", (0, 0, 0.032), (_HALF, 0, 0, -_HALF))
        self._inertia(distal, 0.017, 0.0145588, (2.37794e-6, 2.27794e-6, 1e-6))
        self._joint(distal, "THJ1", (1, 0, 0), (-0.261799, 1.5708))
        self._geom(distal, _CAPSULE, (0.0099, 0.0064), (0, 0.0014, 0.0185))

    def _body(
        self,
        parent: mujoco.MjsBody,
        name: str,
        position: _Numbers = _ORIGIN,
        turn: _Numbers = _SAME,
    ) -> mujoco.MjsBody:
        return parent.add_body(name=self.prefix + name, pos=position, quat=turn)

    def _inertia(
        self,
        body: mujoco.MjsBody,
        mass: float,
        height: float,
        principal: _Numbers,
        turn: _Numbers = _TURNED,
    ) -> None:
        """Sets a body's mass and inertia, with the centre of mass at ``height`` along z."""
        body.explicitinertial = True
        body.mass, body.ipos, body.iquat, body.inertia = mass, (0, 0, height), turn, principal

    def _joint(
        self, body: mujoco.MjsBody, name: str, axis: _Numbers, limits: _Numbers, kind: str = "hand"
    ) -> None:
        """Adds a joint with the damping, armature and friction of the class ``kind`` in ``h1.xml``."""
        default = self.spec.find_default(kind)
        body.add_joint(default, name=self.prefix + name, axis=axis, range=limits)

    def _geom(
        self,
        body: mujoco.MjsBody,
        shape: int,
        size: _Numbers,
        position: _Numbers,
        turn: _Numbers = _SAME,
    ) -> None:
        size, default = [*size, 0, 0][:3], self.spec.find_default("hand")
        body.add_geom(default, type=shape, size=size, pos=position, quat=turn)
