"""Inputs of the rewards, copied out of the simulators of one task's environments."""

from __future__ import annotations

import numpy as np

from ezm.tasks.humanoid_bench.environment import Environment, Layout
from ezm.tasks.humanoid_bench.rewards import Record


class Readings:
    """Arrays for B environments of one task. Several threads may write rows at once.

    Args:
        layout: of the task.
        count: B.
    """

    def __init__(self, layout: Layout, count: int) -> None:
        self._layout = layout
        self._root = np.zeros((count, 3))
        self._velocity = np.zeros((count, layout.robot_velocities))
        self._sites = np.zeros((count, layout.model.nsite, 3))
        self._torso, self._pelvis = np.zeros((count, 9)), np.zeros((count, 9))
        self._pelvis_position, self._pelvis_quaternion = np.zeros((count, 3)), np.zeros((count, 4))
        self._com_velocity = np.zeros((count, 3))
        self._force = np.zeros((count, layout.action_size))
        self._chair = np.zeros((count, 3))
        self._obstacle, self._sphere, self._floor = np.zeros((3, count), bool)
        self._goal, self._stage = np.zeros((count, 3)), np.zeros(count, int)
        head, imu, left_foot, right_foot, left_hand = layout.sites
        self.record = Record(
            root_position=self._root,
            robot_velocity=self._velocity,
            com_velocity=self._com_velocity,
            head=self._sites[:, head],
            imu=self._sites[:, imu],
            left_foot=self._sites[:, left_foot],
            right_foot=self._sites[:, right_foot],
            left_hand=self._sites[:, left_hand],
            torso_up=self._torso[:, 8],
            pelvis_position=self._pelvis_position,
            pelvis_quaternion=self._pelvis_quaternion,
            pelvis_up=self._pelvis[:, 8],
            actuator_force=self._force,
            chair_position=self._chair,
            obstacle_contact=self._obstacle,
            sphere_touched=self._sphere,
            floor_touched=self._floor,
            goal=self._goal,
            stage=self._stage,
        )
        """Views of these arrays."""

    def __reduce__(self) -> tuple[object, ...]:
        return Readings, (self._layout, len(self._root))  # every row is written before it is read

    def read(self, row: int, environment: Environment) -> None:
        """Copies one environment's present state into a row."""
        self._root[row] = environment.qpos[:3]
        self._velocity[row] = environment.qvel[: self._layout.robot_velocities]
        self._sites[row] = environment.site_positions
        self._torso[row] = environment.torso_rotation
        self._pelvis[row] = environment.pelvis_rotation
        self._pelvis_position[row] = environment.pelvis_position
        self._pelvis_quaternion[row] = environment.pelvis_quaternion
        self._com_velocity[row] = environment.com_velocity
        self._force[row] = environment.actuator_force
        if environment.chair_position is not None:
            self._chair[row] = environment.chair_position
        if self._layout.is_reach:
            self._goal[row] = environment.goal
        if self._layout.is_maze:
            self._stage[row] = environment.stage
        if self._layout.balances:
            self._sphere[row], self._floor[row] = environment.balance_contacts()
        elif self._layout.has_obstacles:
            self._obstacle[row] = environment.touches_obstacle()
