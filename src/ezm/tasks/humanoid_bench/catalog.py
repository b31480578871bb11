"""The 23 tasks of the paper: their names, success bars and suites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ezm.errors import UserError
from ezm.tasks.spec import nearest

EPISODE_STEPS = 1000
"""Control steps until truncation, 20 s."""
PROTOCOLS = ("benchmark", "paper")
"""``benchmark``: a fall ends the episode, as in HumanoidBench. ``paper``: episodes go on after a fall, as in the
paper's evaluation."""


@dataclass(frozen=True)
class Entry:
    """One task, whatever the robot."""

    success_bar: float
    """Undiscounted return from which HumanoidBench counts an episode as solved."""
    camera: str = "cam_default"
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Of one control step."""


ENTRIES: dict[str, Entry] = {
    "stand": Entry(800),
    "walk": Entry(700),
    "run": Entry(700),
    "stair": Entry(700),
    "crawl": Entry(700),
    "pole": Entry(700),
    "slide": Entry(700),
    "hurdle": Entry(700, "cam_hurdle"),
    "maze": Entry(1200, "cam_maze", (0.0, 401.0)),
    "sit_simple": Entry(750),
    "sit_hard": Entry(750),
    "balance_simple": Entry(800),
    "balance_hard": Entry(800),
    "reach": Entry(12000, reward_range=(-20.0, 20.0)),
}
_H1_TASKS = tuple(ENTRIES)[:9]

SUITES: dict[str, tuple[str, ...]] = {
    "h1": tuple(f"h1-{task}" for task in _H1_TASKS),
    "h1hand": tuple(f"h1hand-{task}" for task in ENTRIES),
}
"""The paper's Medium and Hard tasks."""
NAMES: tuple[str, ...] = SUITES["h1"] + SUITES["h1hand"]


class Name(NamedTuple):
    """``h1-walk`` taken apart."""

    robot: str
    task: str


def parse(name: str) -> Name:
    """Robot and task of a name such as ``h1-walk``.

    Raises:
        UserError: there is no such task.
    """
    if name not in NAMES:
        robot, _, task = name.partition("-")
        if robot not in SUITES:
            raise UserError(
                f"HumanoidBench task {name!r}: unknown robot {robot!r}{nearest(robot, SUITES)}; "
                f"there are {', '.join(SUITES)}"
            )
        known = [full.partition("-")[2] for full in SUITES[robot]]
        raise UserError(
            f"HumanoidBench task {name!r}: {robot} has no task {task!r}{nearest(task, known)}; "
            f"it has {', '.join(known)}"
        )
    robot, _, task = name.partition("-")
    return Name(robot, task)


def success_bar(name: str) -> float:
    """The return from which an episode of ``h1-walk`` and the like counts as solved.

    Raises:
        UserError: there is no such task.
    """
    return ENTRIES[parse(name).task].success_bar


def check_protocol(protocol: str) -> str:
    """``protocol`` itself.

    Raises:
        UserError: it is not one of :data:`PROTOCOLS`.
    """
    if protocol not in PROTOCOLS:
        raise UserError(
            f"protocol {protocol!r}: unknown{nearest(protocol, PROTOCOLS)}; "
            f"choose {' or '.join(PROTOCOLS)}"
        )
    return protocol
