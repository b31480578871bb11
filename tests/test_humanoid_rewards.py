"""HumanoidBench's rewards and terminations equal values worked out by hand from its formulas."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from dm_control.utils import rewards as dm_rewards
from hypothesis import given
from hypothesis import strategies as st

from ezm.tasks.humanoid_bench.rewards import (
    MAZE_CHECKPOINTS,
    REWARDS,
    Outcome,
    Record,
    below,
    gaussian,
    linear,
    outside,
    quadratic,
)

MARGIN = 0.4125  # of the standing height
ACTUATORS, VELOCITIES = 61, 75

# name: shape and the sigmoid with its value at the margin
SHAPES: dict[str, Any] = {
    "gaussian": (gaussian, 0.1),
    "linear": (linear, 0.0),
    "quadratic": (quadratic, 0.0),
}
values = st.lists(st.floats(-10, 10), min_size=1, max_size=4).map(np.array)
bounds = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted)
margins = st.floats(0.05, 5)
shapes = st.sampled_from(sorted(SHAPES))


def still(batch: int = 1, **changes: Any) -> Record:
    """Upright at the home pose without velocities, forces and contacts, hand at the goal; on no chair.

    A change is the value of one field, for every environment of the batch.
    """
    record: dict[str, Any] = {
        "root_position": [0, 0, 0.98],
        "robot_velocity": np.zeros(VELOCITIES),
        "com_velocity": [0, 0, 0],
        "head": [0, 0, 1.68],
        "imu": [0, 0, 1.26],
        "left_foot": [0, 0.2, 0.07],
        "right_foot": [0, -0.2, 0.07],
        "left_hand": [0.3, 0.2, 1.1],
        "torso_up": 1,
        "pelvis_position": [0, 0, 0.98],
        "pelvis_quaternion": [1, 0, 0, 0],
        "pelvis_up": 1,
        "actuator_force": np.zeros(ACTUATORS),
        "chair_position": [-0.25, 0, 0],
        "obstacle_contact": False,
        "sphere_touched": False,
        "floor_touched": False,
        "goal": [0.3, 0.2, 1.1],
        "stage": 0,
    }
    unknown = changes.keys() - record.keys()
    assert not unknown, unknown
    kinds = {"obstacle_contact": bool, "sphere_touched": bool, "floor_touched": bool, "stage": int}
    return Record(
        **{
            name: np.array([value] * batch, kinds.get(name, float))
            for name, value in (record | changes).items()
        }
    )


def reward(task: str, **changes: Any) -> float:
    return REWARDS[task](still(**changes)).reward.item()


def terminated(task: str, **changes: Any) -> bool:
    return REWARDS[task](still(**changes)).terminated.item()


def random_record(seed: int, batch: int) -> Record:
    rng = np.random.default_rng(seed)
    scale = {"actuator_force": 10.0, "head": 2.0}
    record = still(batch)
    changes: dict[str, Any] = {}
    for field in fields(Record):
        value = getattr(record, field.name)
        if value.dtype == bool:
            changes[field.name] = rng.random(batch) < 0.5
        elif field.name == "stage":
            changes[field.name] = rng.integers(0, 5, batch)
        else:
            noise = rng.normal(size=value.shape)
            changes[field.name] = value + scale.get(field.name, 0.5) * noise
    return replace(record, **changes)


# Tolerances.


@given(values, bounds, margins, shapes)
def test_tolerance_equals_dm_control(
    value: np.ndarray, bound: list[float], margin: float, name: str
) -> None:
    shape, at_margin = SHAPES[name]
    lower, upper = bound
    ours = shape(outside(value, lower, upper), margin)
    theirs = dm_rewards.tolerance(value, (lower, upper), margin, name, at_margin)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@given(values, st.floats(-5, 5), margins, shapes)
def test_tolerance_without_upper_bound_equals_dm_control(
    value: np.ndarray, lower: float, margin: float, name: str
) -> None:
    shape, at_margin = SHAPES[name]
    ours = shape(below(value, lower), margin)
    theirs = dm_rewards.tolerance(value, (lower, np.inf), margin, name, at_margin)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@given(values, margins, st.sampled_from(["gaussian", "quadratic"]))
def test_tolerance_around_zero_equals_dm_control(
    value: np.ndarray, margin: float, name: str
) -> None:
    """These shapes take a signed distance."""
    shape, at_margin = SHAPES[name]
    theirs = dm_rewards.tolerance(value, (0, 0), margin, name, at_margin)
    np.testing.assert_allclose(shape(value, margin), theirs, rtol=0, atol=1e-13)


# Standing and locomotion.


@pytest.mark.parametrize(
    ("task", "changes", "expected"),
    [
        ("stand", {}, 1.0),
        # Half of the margin below: 0.1 to the power of 1/4.
        ("stand", {"head": [0, 0, 1.65 - MARGIN / 2]}, 0.1**0.25),
        ("stand", {"torso_up": -0.05}, 0.5),
        ("stand", {"com_velocity": [2, 0, 0]}, (0.1 + 1) / 2),
        ("stand", {"actuator_force": np.full(ACTUATORS, 5.0)}, (4 + 0.75) / 5),
        ("stand", {"actuator_force": np.full(ACTUATORS, -40.0)}, 0.8),
        ("walk", {}, 1 / 6),
        ("walk", {"com_velocity": [-3, 0, 0]}, 1 / 6),
        ("walk", {"com_velocity": [0.5, 0, 0]}, 3.5 / 6),
        ("walk", {"com_velocity": [4, 1, 0]}, 1.0),
        ("run", {"com_velocity": [2.5, 0, 0]}, 3.5 / 6),
        ("run", {"com_velocity": [5, 0, 0], "torso_up": 0.8}, 1.8 / 1.9),
        ("hurdle", {"com_velocity": [5, 0, 0], "torso_up": 0.8}, 1.0),
        ("hurdle", {"com_velocity": [5, 0, 0], "obstacle_contact": True}, 0.1),
        ("stair", {}, 1 / 6),
        # High up: only the height above the feet counts. Each foot counts by itself.
        (
            "stair",
            {"head": [0, 0, 3], "left_foot": [0, 0, 1.8], "right_foot": [0, 0, 1.8]},
            1 / 6,
        ),
        ("stair", {"left_foot": [0, 0, 0.48 + 0.45]}, 0.1 / 6),
        ("stair", {"right_foot": [0, 0, 0.48 + 0.45]}, 0.1 / 6),
        ("slide", {"com_velocity": [1, 0, 0], "torso_up": 0.5}, 1.0),
        ("pole", {}, 0.5 + 0.5 / 6),
        ("pole", {"com_velocity": [0.5, 0, 0]}, 1.0),
        ("pole", {"com_velocity": [0.5, 0, 0], "obstacle_contact": True}, 0.1),
    ],
)
def test_locomotion_known_values(task: str, changes: dict[str, Any], expected: float) -> None:
    assert reward(task, **changes) == pytest.approx(expected, abs=1e-12)


def test_crawl_known_value() -> None:
    """Head 0.68 too high, imu 0.26; the pelvis' quaternion is (0.25, 0, -0.65, 0) off its target."""
    orientation = 0.1 ** (0.25**2 + 0.65**2)
    expected = 0.1 + 0.25 * 0.1 ** (0.68**2) + 0.4 / 6 + 0.25 * orientation
    assert reward("crawl") == pytest.approx(expected, abs=1e-12)
    terms = REWARDS["crawl"](still()).terms
    assert terms["crawling"].item() == pytest.approx(0.1 ** (0.26**2), abs=1e-12)
    low = REWARDS["crawl"](still(imu=[0, 0, 0.1], head=[0, 0, 0.2], com_velocity=[0.5, 0, 0])).terms
    assert low["crawling"].item() == pytest.approx(0.1 ** (0.5**2), abs=1e-12)
    assert low["crawling_head"].item() == pytest.approx(0.1 ** (0.4**2), abs=1e-12)
    assert low["move"].item() == pytest.approx(3.5 / 6, abs=1e-12)


def test_crawl_counts_inside_the_tunnel_only() -> None:
    assert reward("crawl", imu=[0, -1, 0.8]) > 0
    assert reward("crawl", imu=[0, -1.001, 0.8]) == 0
    assert reward("crawl", imu=[0, 1.001, 0.8]) == 0


def test_crawl_tells_a_quaternion_from_its_negative() -> None:
    """They are the same orientation; the original compares the entries."""
    positive = reward("crawl", pelvis_quaternion=[0.75, 0, 0.65, 0])
    negative = reward("crawl", pelvis_quaternion=[-0.75, 0, -0.65, 0])
    far = 0.1 ** (4 * (0.75**2 + 0.65**2))
    assert positive - negative == pytest.approx(0.25 * (1 - far), abs=1e-12)


# Maze.


def at_checkpoint(number: int, stage: int, **changes: Any) -> Outcome:
    x, y = MAZE_CHECKPOINTS[number]
    return REWARDS["maze"](still(pelvis_position=[x + 0.2, y, 0.98], stage=stage, **changes))


@pytest.mark.parametrize(
    ("stage", "new", "bonus"), [(0, 1, 100), (1, 2, 200), (2, 3, 300), (3, 4, 400), (4, 4, 0)]
)
def test_maze_stages(stage: int, new: int, bonus: float) -> None:
    outcome = at_checkpoint(stage, stage)
    assert outcome.stage is not None
    assert outcome.stage.tolist() == [new]
    assert outcome.terms["stage_convert_reward"].tolist() == [bonus]
    assert outcome.terms["success_subtasks"].tolist() == [new]
    assert not outcome.terminated.item()


def test_maze_checkpoints_come_in_order() -> None:
    """The second one is no use before the first, and an old one no use again."""
    for stage, number in [(0, 1), (2, 1), (1, 0)]:
        outcome = at_checkpoint(number, stage)
        assert outcome.stage is not None and outcome.stage.item() == stage
        assert outcome.terms["stage_convert_reward"].item() == 0


@pytest.mark.parametrize(("distance", "stage"), [(0.39, 1), (0.41, 0)])
def test_maze_checkpoint_is_reached_within(distance: float, stage: int) -> None:
    """The pelvis' distance over ground counts, not the height."""
    outcome = REWARDS["maze"](still(pelvis_position=[0, -distance, 0.98]))
    assert outcome.stage is not None and outcome.stage.item() == stage


def test_maze_reward_at_the_start() -> None:
    """Stage 1 at once; its checkpoint is 3 m away, so the proximity is 0.1 to the power of 9."""
    common = 0.2 + 0.4 / 6 + 0.4 * 1e-9
    assert reward("maze") == pytest.approx(100 + common, abs=1e-12)
    assert reward("maze", obstacle_contact=True) == pytest.approx(100 + 0.1 * common, abs=1e-12)


@pytest.mark.parametrize(
    ("stage", "velocity", "expected"),
    [
        (1, [2, 0, 0], 1.0),
        (1, [1.5, -0.5, 0], (5 * 0.25 + 1) / 6),
        (1, [3, 0, 0], 1 / 6),
        (2, [2, 0, 0], 1 / 6),
        (2, [0, 2, 0], 1.0),
        (4, [0, 0, 0], 1.0),
    ],
)
def test_maze_move(stage: int, velocity: list[float], expected: float) -> None:
    """2 m/s in the stage's direction; at the goal any velocity will do."""
    record = still(
        stage=stage,
        com_velocity=velocity,
        pelvis_position=[9, 9, 1],
    )
    assert REWARDS["maze"](record).terms["move"].item() == pytest.approx(expected, abs=1e-12)


def test_maze_move_in_the_new_direction() -> None:
    """At the step that reaches the second checkpoint, the third one's direction counts."""
    outcome = at_checkpoint(1, 1, com_velocity=[0, 2, 0])
    assert outcome.terms["move"].item() == pytest.approx(1.0, abs=1e-12)


# Sit, balance, reach.


def test_sit_known_values() -> None:
    seated = {"root_position": [-0.1, 0, 0.7], "imu": [0, 0, 1.28]}
    assert reward("sit_simple", **seated) == pytest.approx(1.0, abs=1e-12)
    assert reward("sit_hard", **seated, torso_up=0.5) == pytest.approx(0.5, abs=1e-12)
    # 0.1 m beside the seat, 0.2 m too low: 0.1 each, halved and added.
    beside = seated | {"root_position": [-0.25, 0.1, 0.48]}
    assert reward("sit_simple", **beside) == pytest.approx(0.1, abs=1e-12)
    bent = seated | {"head": [0, 0, 1.28]}
    assert reward("sit_simple", **bent) == pytest.approx(0.1 ** ((0.35 / 0.3) ** 2), abs=1e-12)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ([-0.25 + 0.19, 0, 0.72], 1.0),
        ([-0.25 - 0.19, 0, 0.68], 1.0),
        ([-0.25 + 0.39, 0, 0.7], 0.5 + 0.05),
        ([-0.25 - 0.39, 0, 0.7], 0.5 + 0.05),
        ([-0.25, 0, 0.92], 0.05 + 0.5),
    ],
)
def test_sit_place(position: list[float], expected: float) -> None:
    """The bounds of seat and height, and 0.1 at 0.2 m from them."""
    outcome = REWARDS["sit_hard"](still(root_position=position, imu=[0, 0, 1.28]))
    assert outcome.terms["sit_reward"].item() == pytest.approx(expected, abs=1e-12)


def test_sit_posture_stretched() -> None:
    terms = REWARDS["sit_hard"](still(head=[0, 0, 1.68], imu=[0, 0, 0.93])).terms
    assert terms["sitting_posture"].item() == pytest.approx(0.1, abs=1e-12)


def test_balance_stands_higher() -> None:
    assert reward("balance_simple", head=[0, 0, 2.02]) == pytest.approx(1.0, abs=1e-12)
    assert reward("balance_hard", head=[0, 0, 2.02 - MARGIN]) == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize(("distance", "bonus"), [(0.04, 15), (0.06, 5), (0.9, 5), (1.1, 0)])
def test_reach_known_values(distance: float, bonus: float) -> None:
    changes: dict[str, Any] = {
        "goal": [0.3 + distance, 0.2, 1.1],
        "pelvis_up": -0.2,
        "robot_velocity": np.full(VELOCITIES, 2.0),
    }
    assert reward("reach", **changes) == pytest.approx(-1 - 0.03 + bonus, abs=1e-12)
    terms = REWARDS["reach"](still(**changes)).terms
    assert terms["hand_dist"].item() == pytest.approx(distance, abs=1e-12)
    assert terms["motion_penalty"].item() == pytest.approx(300, abs=1e-12)


# Terminations.


@pytest.mark.parametrize(
    ("task", "height"),
    [
        *[(task, 0.2) for task in ("stand", "walk", "run", "hurdle", "maze")],
        *[(task, 0.5) for task in ("pole", "sit_simple", "sit_hard")],
        *[(task, 0.8) for task in ("balance_simple", "balance_hard")],
    ],
)
def test_termination_by_height(task: str, height: float) -> None:
    assert not terminated(task, root_position=[0, 0, height])
    assert terminated(task, root_position=[0, 0, height - 1e-9])


@pytest.mark.parametrize("task", ["stair", "slide"])
def test_termination_by_uprightness(task: str) -> None:
    assert not terminated(task, torso_up=0.1, root_position=[0, 0, -1])
    assert terminated(task, torso_up=0.1 - 1e-9)


@pytest.mark.parametrize("task", ["balance_simple", "balance_hard"])
@pytest.mark.parametrize("contact", ["sphere_touched", "floor_touched"])
def test_termination_by_contact(task: str, contact: str) -> None:
    assert not terminated(task)
    assert terminated(task, **{contact: True})


@pytest.mark.parametrize("task", ["crawl", "reach"])
def test_no_termination(task: str) -> None:
    assert not terminated(task, torso_up=-1, root_position=[0, 0, -1])


# All tasks.


@pytest.mark.parametrize("task", REWARDS)
def test_batch_equals_one_by_one(task: str) -> None:
    batch = 16
    record = random_record(0, batch)
    together = REWARDS[task](record)
    for i in range(batch):
        alone = REWARDS[task](
            Record(**{f.name: getattr(record, f.name)[i : i + 1] for f in fields(Record)})
        )
        np.testing.assert_allclose(together.reward[i], alone.reward[0], rtol=0, atol=1e-13)
        assert together.terminated[i] == alone.terminated[0]
        assert together.terms.keys() == alone.terms.keys()
        for name, term in together.terms.items():
            np.testing.assert_allclose(term[i], alone.terms[name][0], rtol=1e-13, atol=1e-13)
        assert (together.stage is None) == (alone.stage is None)
        if together.stage is not None and alone.stage is not None:
            assert together.stage[i] == alone.stage[0]


@pytest.mark.parametrize("task", REWARDS)
def test_shapes_and_arguments(task: str) -> None:
    """One float per environment for the reward and each term; the record stays as it was."""
    record, same = random_record(1, 3), random_record(1, 3)
    outcome = REWARDS[task](record)
    assert outcome.terminated.shape == (3,) and outcome.terminated.dtype == bool
    for array in [outcome.reward, *outcome.terms.values()]:
        assert array.shape == (3,) and array.dtype == np.float64
    for field in fields(Record):
        assert np.array_equal(getattr(record, field.name), getattr(same, field.name))
