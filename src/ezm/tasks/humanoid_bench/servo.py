"""A position servo on a joint or a tendon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco


@dataclass(frozen=True)
class Servo:
    """``force = clip(stiffness (control - length) - damping velocity, -limit, limit)`` (HumanoidBench's position
    actuators).

    By default, the actuator has the name of its joint. Its control has the joint's range.
    """

    joint: str
    stiffness: float
    """N m / rad."""
    damping: float
    """N m s / rad."""
    limit: float
    """N m."""

    def add(self, spec: mujoco.MjSpec, name: str | None = None) -> None:
        """Adds the servo to a model, after the existing actuators."""
        self._add(spec, name or self.joint, mujoco.mjtTrn.mjTRN_JOINT, spec.joint(self.joint).range)

    def add_to_tendon(self, spec: mujoco.MjSpec, name: str, control_range: Sequence[float]) -> None:
        """Adds the servo to a model, on a tendon called ``joint``."""
        self._add(spec, name, mujoco.mjtTrn.mjTRN_TENDON, control_range)

    def _add(
        self, spec: mujoco.MjSpec, name: str, kind: mujoco.mjtTrn, control_range: Sequence[float]
    ) -> None:
        spec.add_actuator(
            name=name,
            target=self.joint,
            trntype=kind,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            gainprm=[self.stiffness] + [0] * 9,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            biasprm=[0, -self.stiffness, -self.damping] + [0] * 7,
            ctrllimited=True,
            ctrlrange=control_range,
            forcelimited=True,
            forcerange=[-self.limit, self.limit],
        )
