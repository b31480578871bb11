"""Rewards and terminations of HumanoidBench (Sferrazza et al., 2024) as functions of arrays.

They follow github.com/carlosferrazza/humanoid-bench at commit 791405f. A task has the same reward for every robot.
All functions take a batch of B environments. They run at every control step, where numpy's overhead per call
outweighs the arithmetic, so they make few calls. Metres, seconds, newtons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# The maze's checkpoints, and the direction to move in at each stage. Stage 0 is the start.
MAZE_CHECKPOINTS = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 6.0], [6.0, 6.0], [6.0, 6.0]])
MAZE_DIRECTIONS = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
_LAST_STAGE = len(MAZE_CHECKPOINTS) - 1

_STAND_HEIGHT = 1.65  # of the head
_BOARD_HEIGHT = 0.37  # of the balance board's centre
# As in the original, it does not have unit length, and is compared entry by entry.
_CRAWL_QUATERNION = np.array([0.75, 0.0, 0.65, 0.0])
_LN_MARGIN = math.log(0.1)  # a gaussian tolerance falls to 0.1 at its margin


@dataclass(frozen=True)
class Record:
    """Inputs of the rewards and terminations of one task, for B environments.

    The original reads MuJoCo's derived quantities without a forward pass after the last physics step, so they belong
    to that step's start, 2 ms earlier. Fields called fresh belong to its end.
    """

    root_position: np.ndarray
    """(B, 3), fresh: ``qpos[0:3]``."""
    robot_velocity: np.ndarray
    """(B, V), fresh: the robot's part of ``qvel``."""
    com_velocity: np.ndarray
    """(B, 3), velocity of the whole robot's centre of mass, world frame."""
    head: np.ndarray
    imu: np.ndarray
    left_foot: np.ndarray
    right_foot: np.ndarray
    left_hand: np.ndarray
    """(B, 3), position of this site, and so the four fields above."""
    torso_up: np.ndarray
    """(B,), the zz entry of the torso's rotation matrix: 1 when upright."""
    pelvis_position: np.ndarray
    """(B, 3), of the body frame."""
    pelvis_quaternion: np.ndarray
    """(B, 4), w x y z, in the world frame."""
    pelvis_up: np.ndarray
    """(B,), the zz entry of the pelvis' rotation matrix."""
    actuator_force: np.ndarray
    """(B, A), after clipping to the force range."""
    obstacle_contact: np.ndarray
    """(B,) bool: whether anything touches a barrier (hurdle), a pole (pole) or a block (maze)."""
    sphere_touched: np.ndarray
    """(B,) bool: whether anything but floor and board touches the sphere, balance only."""
    floor_touched: np.ndarray
    """(B,) bool: whether anything but the sphere touches the floor, balance only."""
    goal: np.ndarray
    """(B, 3), the goal of the left hand, world frame, reach only."""
    stage: np.ndarray
    """(B,) int, 0 to 4, before this evaluation, maze only."""
    chair_position: np.ndarray | None = None
    """(B, 3), of the body frame, sit only."""


class Outcome(NamedTuple):
    """Reward and termination of B environments."""

    reward: np.ndarray
    """(B,). The original reports it a second time, as the term ``per_timestep_reward``."""
    terminated: np.ndarray
    """(B,) bool. A terminating step has its ordinary reward."""
    terms: dict[str, np.ndarray]
    """(B,) each, named as in the original."""
    stage: np.ndarray | None = None
    """(B,) int, the maze's new stage."""


# dm_control's ``tolerance`` has two parts here: the distance of a value to its bounds, and the shape of the
# fall from 1 with that distance. Gaussians are 0.1 at the margin, the other shapes 0.


def below(value: np.ndarray, lower: float) -> np.ndarray:
    """Returns the distance to the bounds [lower, inf)."""
    return np.maximum(lower - value, 0.0)


def outside(value: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Returns the distance to the bounds [lower, upper]."""
    return np.maximum(np.maximum(lower - value, value - upper), 0.0)


def gaussian(distance: np.ndarray, margin: float) -> np.ndarray:
    """Falls from 1 at distance 0 to 0.1 at ``margin``. The distance's sign is ignored."""
    return np.exp(distance * distance * (_LN_MARGIN / margin**2))


def linear(distance: np.ndarray, margin: float) -> np.ndarray:
    """Falls from 1 at distance 0 to 0 at ``margin``, and stays 0. The distance must not be negative."""
    return np.maximum(1.0 - distance / margin, 0.0)


def quadratic(distance: np.ndarray, margin: float) -> np.ndarray:
    """Falls from 1 at distance 0 to 0 at ``margin``, and stays 0. The distance's sign is ignored."""
    return np.maximum(1.0 - distance * distance / margin**2, 0.0)


# Factors that several tasks share.


def small_control(record: Record) -> np.ndarray:
    """(B,) in [0.8, 1]: 1 without actuator forces."""
    force = record.actuator_force
    return 0.8 + np.add.reduce(quadratic(force, 10.0), axis=-1) * (0.2 / force.shape[-1])


def standing(record: Record, height: float = _STAND_HEIGHT) -> np.ndarray:
    """(B,) in [0, 1]: 1 from this head height on."""
    return gaussian(below(record.head[:, 2], height), 0.4125)


def standing_on_feet(record: Record) -> np.ndarray:
    """(B,) in [0, 1]: 1 when the head is at least 1.2 m above both feet, at any height of the ground."""
    head = record.head[:, 2]
    left = below(head - record.left_foot[:, 2], 1.2)
    right = below(head - record.right_foot[:, 2], 1.2)
    return gaussian(left, 0.45) * gaussian(right, 0.45)


def upright(record: Record, least: float, margin: float = 1.9) -> np.ndarray:
    """(B,) in [0, 1]: 1 from this uprightness of the torso on."""
    return linear(below(record.torso_up, least), margin)


def move(record: Record, speed: float) -> np.ndarray:
    """(B,) in [1/6, 1]: 1 from this speed along x on, 1/6 without speed."""
    return (5.0 * linear(below(record.com_velocity[:, 0], speed), speed) + 1.0) / 6.0


def dont_move(record: Record) -> np.ndarray:
    """(B,) in [0, 1]: 1 without horizontal velocity."""
    still = gaussian(record.com_velocity[:, :2], 2.0)
    return (still[:, 0] + still[:, 1]) / 2.0


def collision_discount(record: Record) -> np.ndarray:
    """(B,): 0.1 for environments with contact at an obstacle, 1 for the others."""
    return np.where(record.obstacle_contact, 0.1, 1.0)


def _lower_than(record: Record, height: float) -> np.ndarray:
    """(B,) bool: whether the root is lower than ``height``."""
    return record.root_position[:, 2] < height


def _standing(
    record: Record, stands: np.ndarray, straight: np.ndarray, **last: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns calm servos x standing x upright x the ``last`` factor, (B,), and the terms by name."""
    terms = {
        "stand_reward": stands * straight,
        "small_control": small_control(record),
        "standing": stands,
        "upright": straight,
        **last,
    }
    (factor,) = last.values()
    return terms["small_control"] * terms["stand_reward"] * factor, terms


# The tasks.


def stand(record: Record) -> Outcome:
    """Rewards standing still. Ends when the root is below 0.2."""
    stands = standing(record)
    reward, terms = _standing(record, stands, upright(record, 0.9), dont_move=dont_move(record))
    return Outcome(reward, _lower_than(record, 0.2), terms)


def balance(record: Record) -> Outcome:
    """Rewards standing still on the board. Ends when the root is below 0.8, something but floor and board touches the
    sphere, or something but the sphere touches the floor."""
    stands = standing(record, _STAND_HEIGHT + _BOARD_HEIGHT)
    reward, terms = _standing(record, stands, upright(record, 0.9), dont_move=dont_move(record))
    ended = _lower_than(record, 0.8) | record.sphere_touched | record.floor_touched
    return Outcome(reward, ended, terms)


def walk(record: Record, speed: float = 1.0) -> Outcome:
    """Rewards moving at ``speed`` or more. Ends when the root is below 0.2."""
    stands = standing(record)
    reward, terms = _standing(record, stands, upright(record, 0.9), move=move(record, speed))
    return Outcome(reward, _lower_than(record, 0.2), terms)


def run(record: Record) -> Outcome:
    """Rewards moving at 5 m/s or more. Ends when the root is below 0.2."""
    return walk(record, 5.0)


def hurdle(record: Record) -> Outcome:
    """Rewards running over hurdles. Touching a barrier costs 9/10 of the reward. Ends when the root is below 0.2."""
    reward, terms = _standing(
        record, standing(record), upright(record, 0.8), move=move(record, 5.0)
    )
    terms["wall_collision_discount"] = collision_discount(record)
    return Outcome(reward * terms["wall_collision_discount"], _lower_than(record, 0.2), terms)


def stair(record: Record) -> Outcome:
    """Rewards walking up and down stairs or slides. Ends when the torso's uprightness is below 0.1."""
    stands = standing_on_feet(record)
    reward, terms = _standing(record, stands, upright(record, 0.5), move=move(record, 1.0))
    return Outcome(reward, record.torso_up < 0.1, terms)


def pole(record: Record) -> Outcome:
    """Rewards walking between poles. Touching a pole costs 9/10 of the reward. Ends when the root is below 0.5."""
    _, terms = _standing(record, standing(record), upright(record, 0.9), move=move(record, 0.5))
    terms["collision_discount"] = collision_discount(record)
    standing_part = 0.5 * terms["small_control"] * terms["stand_reward"]
    reward = (standing_part + 0.5 * terms["move"]) * terms["collision_discount"]
    return Outcome(reward, _lower_than(record, 0.5), terms)


def crawl(record: Record) -> Outcome:
    """Rewards crawling through a tunnel at 1 m/s or more. Never ends."""
    terms = {
        "crawling": gaussian(outside(record.imu[:, 2], 0.6, 1.0), 1.0),
        "crawling_head": gaussian(outside(record.head[:, 2], 0.6, 1.0), 1.0),
        "small_control": small_control(record),
        "move": move(record, 1.0),
        "in_tunnel": (np.abs(record.imu[:, 1]) <= 1.0).astype(float),
    }
    orientation = gaussian(_length(record.pelvis_quaternion - _CRAWL_QUATERNION), 1.0)
    reward = (
        0.1 * terms["small_control"]
        + 0.25 * np.minimum(terms["crawling"], terms["crawling_head"])
        + 0.4 * terms["move"]
        + 0.25 * orientation
    ) * terms["in_tunnel"]
    return Outcome(reward, np.zeros(len(reward), bool), terms)


def maze(record: Record) -> Outcome:
    """Rewards reaching four checkpoints in turn, with a bonus for each. Ends when the root is below 0.2."""
    to_checkpoint = record.pelvis_position[:, :2] - MAZE_CHECKPOINTS[record.stage]
    reached = (_length(to_checkpoint) < 0.4) & (record.stage < _LAST_STAGE)
    stage = record.stage + reached

    velocity_error = np.abs(record.com_velocity[:, :2] - 2.0 * MAZE_DIRECTIONS[stage])
    heading = linear(velocity_error[:, 0], 1.0) * linear(velocity_error[:, 1], 1.0)
    heading = np.where(stage == _LAST_STAGE, 1.0, heading)
    distance = _length(record.imu[:, :2] - MAZE_CHECKPOINTS[stage])
    terms = {
        "stand_reward": standing(record) * upright(record, 0.9),
        "small_control": small_control(record),
        "move": (5.0 * heading + 1.0) / 6.0,
        "wall_collision_discount": collision_discount(record),
        "stage_convert_reward": 100.0 * stage * reached,
        "checkpoint_proximity_reward": gaussian(distance, 1.0),
        "success_subtasks": stage.astype(float),
    }
    reward = (
        0.2 * terms["stand_reward"] * terms["small_control"]
        + 0.4 * terms["move"]
        + 0.4 * terms["checkpoint_proximity_reward"]
    ) * terms["wall_collision_discount"] + terms["stage_convert_reward"]
    return Outcome(reward, _lower_than(record, 0.2), terms, stage)


def sit(record: Record) -> Outcome:
    """Rewards sitting on the chair. Ends when the root is below 0.5."""
    assert record.chair_position is not None
    from_chair = record.root_position - record.chair_position
    ahead = gaussian(outside(from_chair[:, 0], -0.19, 0.19), 0.2)
    on_chair = ahead * gaussian(from_chair[:, 1], 0.1)
    terms = {
        "small_control": small_control(record),
        "dont_move": dont_move(record),
        "sitting": gaussian(outside(record.root_position[:, 2], 0.68, 0.72), 0.2),
        "upright": upright(record, 0.95, margin=0.9),
        "sitting_posture": gaussian(outside(record.head[:, 2] - record.imu[:, 2], 0.35, 0.45), 0.3),
    }
    place = 0.5 * terms["sitting"] + 0.5 * on_chair
    terms["sit_reward"] = place * terms["upright"] * terms["sitting_posture"]
    reward = terms["small_control"] * terms["sit_reward"] * terms["dont_move"]
    return Outcome(reward, _lower_than(record, 0.5), terms)


def reach(record: Record) -> Outcome:
    """Rewards holding the left hand at the goal. The reward is at most 20 a step and may be negative. Never ends."""
    distance = _length(record.left_hand - record.goal)
    terms = {
        "hand_dist": distance,
        "healthy_reward": 5.0 * record.pelvis_up,
        "motion_penalty": np.add.reduce(record.robot_velocity * record.robot_velocity, axis=-1),
        "reward_close": 5.0 * (distance < 1.0),
        "reward_success": 10.0 * (distance < 0.05),
    }
    reward = (
        terms["healthy_reward"]
        - 0.0001 * terms["motion_penalty"]
        + terms["reward_close"]
        + terms["reward_success"]
    )
    return Outcome(reward, np.zeros(len(reward), bool), terms)


def _length(vector: np.ndarray) -> np.ndarray:
    """Returns the Euclidean lengths (B,) of vectors (B, n)."""
    return np.sqrt(np.add.reduce(vector * vector, axis=-1))


REWARDS: dict[str, Callable[[Record], Outcome]] = {
    "stand": stand,
    "walk": walk,
    "run": run,
    "stair": stair,
    "slide": stair,
    "crawl": crawl,
    "pole": pole,
    "hurdle": hurdle,
    "maze": maze,
    "sit_simple": sit,
    "sit_hard": sit,
    "balance_simple": balance,
    "balance_hard": balance,
    "reach": reach,
}
