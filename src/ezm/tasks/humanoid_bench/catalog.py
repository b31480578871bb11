"""The 23 tasks of the paper: their names, success bars and suites."""

from __future__ import annotations

from dataclasses import dataclass

from ezm.errors import UserError, nearest

EPISODE_STEPS = 1000
"""Control steps until truncation, 20 s."""
PROTOCOLS = ("benchmark", "paper")
"""``benchmark``: a fall ends the episode, as in HumanoidBench. ``paper``: episodes go on after a fall, as in the
paper's evaluation."""


@dataclass(frozen=True)
class Entry:
    """One task, for any robot."""

    reward: str
    """One line about the reward. :mod:`ezm.tasks.humanoid_bench.rewards` has the formula."""
    success_bar: float
    """Undiscounted return from which HumanoidBench counts an episode as solved."""
    camera: str = "cam_default"
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Range of one control step's reward."""


ENTRIES: dict[str, Entry] = {
    "stand": Entry("calm servos x head at 1.65 m x upright x not moving", 800),
    "walk": Entry("calm servos x head at 1.65 m x upright x 1 m/s forward", 700),
    "run": Entry("calm servos x head at 1.65 m x upright x 5 m/s forward", 700),
    "stair": Entry("calm servos x head 1.2 m above the feet x upright x 1 m/s forward", 700),
    "crawl": Entry(
        "a tenth for calm servos, the rest for height, speed and pose, in the tunnel", 700
    ),
    "pole": Entry("half for standing, half for 0.5 m/s forward; a tenth when touching a pole", 700),
    "slide": Entry("as stair, up and down slopes", 700),
    "hurdle": Entry("as run, over hurdles; a tenth when touching a barrier", 700, "cam_hurdle"),
    "maze": Entry(
        "standing, speed and nearness to the next corner; 100 to 400 for each; a tenth when touching a block",
        1200,
        "cam_maze",
        (0.0, 401.0),
    ),
    "sit_simple": Entry("calm servos x sitting on the chair, upright x not moving", 750),
    "sit_hard": Entry("as sit_simple; the chair can be pushed, the robot starts turned away", 750),
    "balance_simple": Entry("as stand, on a board that tilts on a sphere", 800),
    "balance_hard": Entry("as stand, on a board on a sphere that rolls", 800),
    "reach": Entry(
        "5 for an upright pelvis, 5 within 1 m and 10 within 5 cm of the goal, less fast motion",
        12000,
        reward_range=(-20.0, 20.0),
    ),
}
_H1_TASKS = tuple(ENTRIES)[:9]

SUITES: dict[str, tuple[str, ...]] = {
    "h1": tuple(f"h1-{task}" for task in _H1_TASKS),
    "h1hand": tuple(f"h1hand-{task}" for task in ENTRIES),
}
"""The paper's Medium and Hard tasks."""
NAMES: tuple[str, ...] = SUITES["h1"] + SUITES["h1hand"]

_RANDOM_RETURNS = (
    *(15.9, 3.9, 3.0, 5.1, 271.4, 22.1, 5.2, 3.3, 107.3),
    *(19.9, 5.1, 3.8, 6.9, 313.0, 23.9, 6.3, 4.3, 107.7, 12.9, 4.5, 14.8, 14.5, -538.0),
)
RANDOM_RETURNS = dict(zip(NAMES, _RANDOM_RETURNS, strict=True))
"""Measured mean returns of uniformly random actions, 50 episodes each, protocol ``benchmark``, robots of primitives."""


def parse(name: str) -> tuple[str, str]:
    """Splits a name such as ``h1-walk`` into robot and task.

    Raises:
        UserError: there is no such task.
    """
    robot, _, task = name.partition("-")
    if robot not in SUITES:
        raise UserError(
            f"HumanoidBench task {name!r}: unknown robot {robot!r}{nearest(robot, SUITES)}; "
            f"there are {', '.join(SUITES)}"
        )
    if name not in NAMES:
        known = [full.partition("-")[2] for full in SUITES[robot]]
        raise UserError(
            f"HumanoidBench task {name!r}: {robot} has no task {task!r}{nearest(task, known)}; "
            f"it has {', '.join(known)}"
        )
    return robot, task


def success_bar(name: str) -> float:
    """Returns the return from which an episode of a task such as ``h1-walk`` counts as solved.

    Raises:
        UserError: there is no such task.
    """
    return ENTRIES[parse(name)[1]].success_bar


def check_protocol(protocol: str) -> str:
    """Returns ``protocol``, or raises a :class:`UserError` where it is not one of :data:`PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise UserError(
            f"protocol {protocol!r}: unknown{nearest(protocol, PROTOCOLS)}; "
            f"choose {' or '.join(PROTOCOLS)}"
        )
    return protocol
