"""One environment: MuJoCo's state of a robot in a scene, its randomness, and the quantities that rewards read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np

from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.humanoid_bench.models import PHYSICS_STEPS, model
from ezm.tasks.humanoid_bench.rewards import Record
from ezm.tasks.rendering import Renderer

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_EXPLOSIONS = slice(
    int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1
)
_NOISE = 0.01

# The kinds of geoms that contacts distinguish.
_ROBOT, _FLOOR, _OBSTACLE, _BOARD, _SPHERE = range(5)
_SITES = ("head", "imu", "left_foot", "right_foot", "left_hand")
"""Sites whose positions rewards read."""


class Layout:
    """Indices into the compiled model of a task such as ``h1-walk``: sizes, addresses, and the kinds of its geoms.

    Raises:
        UserError: an unknown task, or missing meshes.
    """

    def __init__(self, name: str, meshes: Path | None = None) -> None:
        robot, self.task = catalog.parse(name)
        self.model = compiled = model(robot, self.task, meshes)
        self.is_reach, self.balances = self.task == "reach", self.task.startswith("balance")
        self.action_size = compiled.nu
        self.observation_size = compiled.nq + compiled.nv + (6 if self.is_reach else 0)
        low, high = compiled.actuator_ctrlrange.astype(np.float32).T
        self.control_low, self.control_span = low, high - low
        free = np.flatnonzero(compiled.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
        self.quaternions = [slice(start + 3, start + 7) for start in compiled.jnt_qposadr[free]]
        # The robot's joints come first, its free joint before all others.
        self.robot_velocities = int([*compiled.jnt_dofadr[free[1:]], compiled.nv][0])
        self.torso = compiled.body("torso_link").id
        self.pelvis = compiled.body("pelvis").id
        self.kinds = np.array([_kind(compiled.geom(i).name) for i in range(compiled.ngeom)])
        self.obstacles = self.kinds == _OBSTACLE
        self.has_obstacles = bool(self.obstacles.any())

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """Maps actions in [-1, 1] to controls (..., A). float32 stays float32, as in the original."""
        return (actions + 1) / 2 * self.control_span + self.control_low


layout = lru_cache(Layout)
"""Returns the layout of a task, which is built once."""


class Environment:
    """The state of one environment.

    Args:
        name: robot and task, e.g. ``h1-walk``.
        seed: fixes noise, poses and goals of all episodes. As in the original, the first draws of
            ``numpy.random.default_rng(seed)`` are the first episode's noise.
        protocol: see :data:`ezm.tasks.humanoid_bench.catalog.PROTOCOLS`.
        meshes: see :func:`ezm.tasks.humanoid_bench.models.robot`.

    Raises:
        UserError: an unknown task or protocol, or missing meshes.
    """

    def __init__(
        self, name: str, seed: int, protocol: str = "benchmark", meshes: Path | None = None
    ) -> None:
        self.name, self._meshes = name, meshes
        self.falls_end = catalog.check_protocol(protocol) == "benchmark"
        self.layout = where = layout(name, meshes)
        self.model = where.model
        self.data = data = mujoco.MjData(where.model)
        self.random = np.random.default_rng(seed)
        self.goal = np.zeros(3)
        self.stage = 0
        self.diverged = False
        # Views of MuJoCo's own memory, made once: each costs a microsecond to make.
        self.qpos, self.qvel, self.control = data.qpos, data.qvel, data.ctrl
        self._warnings = data.warning.number
        self.readings = {
            "root_position": self.qpos[:3],
            "robot_velocity": self.qvel[: where.robot_velocities],
            "com_velocity": data.sensor("pelvis_subtreelinvel").data,
            **{site: data.site(site).xpos for site in _SITES},
            "torso_up": data.xmat[where.torso, 8, ...],
            "pelvis_position": data.xpos[where.pelvis],
            "pelvis_quaternion": data.xquat[where.pelvis],
            "pelvis_up": data.xmat[where.pelvis, 8, ...],
            "actuator_force": data.actuator_force,
        }
        """Views by the name of their field in :class:`ezm.tasks.humanoid_bench.rewards.Record`."""
        if where.task.startswith("sit"):
            self.readings["chair_position"] = data.body("chair").xpos

    def __reduce__(self) -> tuple[object, ...]:
        # Views that are copied one by one would not show the copy's state.
        protocol = "benchmark" if self.falls_end else "paper"
        return Environment, (self.name, 0, protocol, self._meshes), self.snapshot()

    def record(self, count: int) -> Record:
        """Returns the record of ``count`` environments of this task, to be filled by :meth:`read`."""
        obstacle, sphere, floor = np.zeros((3, count), bool)
        return Record(
            **{name: np.zeros((count, *view.shape)) for name, view in self.readings.items()},
            obstacle_contact=obstacle,
            sphere_touched=sphere,
            floor_touched=floor,
            goal=np.zeros((count, 3)),
            stage=np.zeros(count, int),
        )

    def read(self, record: Record, row: int) -> None:
        """Copies the present state into a row of a record. Several threads may write rows at once."""
        for name, view in self.readings.items():
            getattr(record, name)[row] = view
        record.goal[row], record.stage[row] = self.goal, self.stage
        if self.layout.balances:
            record.sphere_touched[row], record.floor_touched[row] = self.balance_contacts()
        elif self.layout.has_obstacles:
            # Nothing but the robot can touch an obstacle.
            record.obstacle_contact[row] = self.layout.obstacles[self.data.contact.geom].any()

    def advance(self, control: np.ndarray) -> None:
        """Holds the controls (A,) for one control step.

        As in the original, no forward pass follows. The quantities that MuJoCo derives from the state (sites,
        rotations, forces, contacts) therefore belong to the start of the last physics step, 2 ms ago.
        """
        self.control[:] = control
        mujoco.mj_step(self.model, self.data, PHYSICS_STEPS)
        # When the state explodes, MuJoCo warns and continues from its reference state.
        self.diverged = bool(self._warnings[_EXPLOSIONS].any())

    def reset(self) -> None:
        """Begins an episode: the home pose, noise in every position, then the task's own random draws."""
        compiled, data, where = self.model, self.data, self.layout
        mujoco.mj_resetDataKeyframe(compiled, data, 0)
        data.qpos += self.random.uniform(-_NOISE, _NOISE, compiled.nq)
        self.stage, self.diverged = 0, False
        if where.task == "sit_hard":
            x, y = self.random.uniform(0.2, 0.4), self.random.uniform(-0.15, 0.15)
            yaw = self.random.uniform(-1.8, 1.8)
            data.qpos[:2], data.qpos[3:7] = (x, y), (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        elif where.is_reach:
            self.goal = self.random.uniform([-2, -2, 0.2], [2, 2, 2])
        # MuJoCo normalises quaternions only at the first integration, but the original's MuJoCo did so at
        # once.
        for part in where.quaternions:
            data.qpos[part] /= np.linalg.norm(data.qpos[part])
        mujoco.mj_forward(compiled, data)

    def write_observation(self, out: np.ndarray) -> None:
        """Writes positions and velocities into ``out``, and for reach also the left hand's position and the goal."""
        nq, size = self.model.nq, self.layout.observation_size
        if self.layout.is_reach:
            out[size - 6 : size - 3], out[size - 3 : size] = self.readings["left_hand"], self.goal
            size -= 6
        out[:nq], out[nq:size] = self.qpos, self.qvel

    def picture(
        self, renderer: Renderer, camera: str | mujoco.MjvCamera | None = None
    ) -> np.ndarray:
        """Returns a picture, (height, width, 3) uint8, from the task's own camera or from ``camera``."""
        goal = self.goal if self.layout.is_reach else None
        return renderer.render(self.data, camera or catalog.ENTRIES[self.layout.task].camera, goal)

    def balance_contacts(self) -> tuple[bool, bool]:
        """Returns whether anything but floor and board touches the sphere, and whether anything but the sphere
        touches the floor."""
        kinds = self.layout.kinds[self.data.contact.geom]
        sphere, floor = (kinds == _SPHERE).any(1), (kinds == _FLOOR).any(1)
        supported = sphere & (floor | (kinds == _BOARD).any(1))
        return bool((sphere & ~supported).any()), bool((floor & ~sphere).any())

    def snapshot(self) -> object:
        """Returns all that determines the future."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        random = self.random.bit_generator.state
        return state, random, self.goal.copy(), self.stage

    def restore(self, snapshot: object) -> None:
        """Goes back to a snapshot of an environment of the same task."""
        assert isinstance(snapshot, tuple)
        state, random, goal, self.stage = snapshot
        self.random.bit_generator.state = random
        self.goal, self.diverged = goal.copy(), False
        self._warnings[:] = 0
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        mujoco.mj_forward(self.model, self.data)
        # The forward pass overwrites the solver's warm start, so the state is set once more.
        mujoco.mj_setState(self.model, self.data, state, _STATE)

    __setstate__ = restore


def _kind(geom: str) -> int:
    named = {"floor": _FLOOR, "board": _BOARD, "sphere": _SPHERE}
    return _OBSTACLE if geom.startswith("obstacle") else named.get(geom, _ROBOT)
