"""One environment: MuJoCo's state of a robot in a scene, its randomness, and the quantities that rewards read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np

from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.humanoid_bench.models import PHYSICS_STEPS, model
from ezm.tasks.rendering import Renderer

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_EXPLOSIONS = slice(
    int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1
)
_NOISE = 0.01
SITES = ("head", "imu", "left_foot", "right_foot", "left_hand")
"""Sites whose positions rewards read, in the order of :attr:`Layout.sites`."""

# The kinds of geoms that contacts distinguish.
_ROBOT, _FLOOR, _OBSTACLE, _BOARD, _SPHERE = range(5)


class Layout:
    """Indices into a compiled model: sizes, addresses, and the kinds of its geoms."""

    def __init__(self, robot: str, task: str, meshes: Path | None) -> None:
        self.robot, self.task, self.meshes = robot, task, meshes
        self.model = compiled = model(robot, task, meshes)
        self.robot_velocities = compiled.nv
        self.quaternions = []
        for joint in range(compiled.njnt):
            if compiled.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
                self.quaternions.append(slice(*(compiled.jnt_qposadr[joint] + np.array([3, 7]))))
                if joint > 0:
                    first = int(compiled.jnt_dofadr[joint])
                    self.robot_velocities = min(self.robot_velocities, first)
        self.action_size = compiled.nu
        self.is_reach, self.is_maze = task == "reach", task == "maze"
        self.observation_size = compiled.nq + compiled.nv + (6 if self.is_reach else 0)
        low, high = compiled.actuator_ctrlrange.astype(np.float32).T
        self.control_low, self.control_span = low, high - low
        self.sites = np.array([compiled.site(name).id for name in SITES])
        self.torso = compiled.body("torso_link").id
        self.pelvis = compiled.body("pelvis").id
        self.chair = compiled.body("chair").id if task.startswith("sit") else None
        address = int(compiled.sensor("pelvis_subtreelinvel").adr[0])
        self.com_velocity = slice(address, address + 3)
        self.kinds = np.array([_kind(compiled.geom(i).name) for i in range(compiled.ngeom)])
        self.obstacles = self.kinds == _OBSTACLE
        self.has_obstacles = bool(self.obstacles.any())
        self.balances = task.startswith("balance")

    def __reduce__(self) -> tuple[object, ...]:
        return layout, (f"{self.robot}-{self.task}", self.meshes)

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """Maps actions in [-1, 1] to controls (..., A). float32 stays float32, as in the original."""
        return (actions + 1) / 2 * self.control_span + self.control_low


@lru_cache
def layout(name: str, meshes: Path | None = None) -> Layout:
    """Returns the layout of a task such as ``h1-walk``, which is built once.

    Raises:
        UserError: an unknown task, or missing meshes.
    """
    return Layout(*catalog.parse(name), meshes)


class Environment:
    """The state of one environment.

    Args:
        name: robot and task, e.g. ``h1-walk``.
        seed: fixes noise, poses and goals of all episodes. As in the original, the first draws of
            ``numpy.random.default_rng(seed)`` are the first episode's noise.
        protocol: see :data:`ezm.tasks.humanoid_bench.catalog.PROTOCOLS`.
        meshes: see :func:`ezm.tasks.humanoid_bench.robots.robot`.

    Raises:
        UserError: an unknown task or protocol, or missing meshes.
    """

    def __init__(
        self, name: str, seed: int, protocol: str = "benchmark", meshes: Path | None = None
    ) -> None:
        self.name = name
        self.falls_end = catalog.check_protocol(protocol) == "benchmark"
        self.layout = where = layout(name, meshes)
        self.model = where.model
        self.data = data = mujoco.MjData(where.model)
        self.random = np.random.default_rng(seed)
        self.goal = np.zeros(3)
        self.stage = 0
        self.diverged = False
        # Views of MuJoCo's own memory, made once: each costs a microsecond to make.
        self.qpos, self.qvel = data.qpos, data.qvel
        self.control = data.ctrl
        self._warnings = data.warning.number
        self.site_positions = data.site_xpos
        self.torso_rotation = data.xmat[where.torso]
        self.pelvis_rotation = data.xmat[where.pelvis]
        self.pelvis_position = data.xpos[where.pelvis]
        self.pelvis_quaternion = data.xquat[where.pelvis]
        self.com_velocity = data.sensordata[where.com_velocity]
        self.actuator_force = data.actuator_force
        self.chair_position = None if where.chair is None else data.xpos[where.chair]

    def __reduce__(self) -> tuple[object, ...]:
        # Views that are copied one by one would not show the copy's state.
        protocol = "benchmark" if self.falls_end else "paper"
        arguments = self.name, 0, protocol, self.layout.meshes
        return Environment, arguments, self.snapshot()

    def __setstate__(self, snapshot: object) -> None:
        self.restore(snapshot)

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
            self._place_anywhere()
        elif where.is_reach:
            self.goal = self.random.uniform([-2, -2, 0.2], [2, 2, 2])
        # MuJoCo normalises quaternions only at the first integration, but the original's MuJoCo did so at
        # once.
        for part in where.quaternions:
            data.qpos[part] /= np.linalg.norm(data.qpos[part])
        mujoco.mj_forward(compiled, data)

    def write_observation(self, out: np.ndarray) -> None:
        """Writes positions and velocities into ``out``, and for reach also the left hand's position and the goal."""
        nq, nv = self.model.nq, self.model.nv
        out[:nq] = self.qpos
        out[nq : nq + nv] = self.qvel
        if self.layout.is_reach:
            out[nq + nv : nq + nv + 3] = self.site_positions[self.layout.sites[4]]
            out[nq + nv + 3 : nq + nv + 6] = self.goal

    def picture(
        self, renderer: Renderer, camera: str | mujoco.MjvCamera | None = None
    ) -> np.ndarray:
        """Returns a picture, (height, width, 3) uint8, from the task's own camera or from ``camera``."""
        own = catalog.ENTRIES[self.layout.task].camera
        return renderer.render(
            self.data, camera or own, self.goal if self.layout.is_reach else None
        )

    def touches_obstacle(self) -> bool:
        """Returns whether the robot touches a barrier, a pole or a block. Nothing else can touch one."""
        return bool(self.layout.obstacles[self.data.contact.geom].any())

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

    def _place_anywhere(self) -> None:
        x, y = self.random.uniform(0.2, 0.4), self.random.uniform(-0.15, 0.15)
        yaw = self.random.uniform(-1.8, 1.8)
        self.data.qpos[:2] = x, y
        self.data.qpos[3:7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)


def _kind(geom: str) -> int:
    named = {"floor": _FLOOR, "board": _BOARD, "sphere": _SPHERE}
    return _OBSTACLE if geom.startswith("obstacle") else named.get(geom, _ROBOT)
