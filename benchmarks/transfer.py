"""Do our robots of primitives fall as the robots of meshes do, and as the recorded robots did?

``python -m benchmarks.transfer DIR`` lets HumanoidBench's robots hold their home pose, or move at random, from many
reset poses. It does so with primitives and with the meshes below DIR, and compares how long the robots stand. If the
recordings below DIR have such a rollout from an ordinary reset, it repeats the rollout with both, and compares them
with the recording. A fall means that the pelvis sinks below 0.5 m or, on the balance board, that an episode ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import mujoco
import numpy as np
import tyro
from rich.table import Table

from benchmarks.command import Flag, command, show
from benchmarks.parity import Recording, meshes_below, recordings
from ezm.errors import UserError
from ezm.tasks.humanoid_bench import Environment
from ezm.tasks.humanoid_bench.models import hold_action

CONTROL_STEP = 0.02
"""Duration of a control step, in seconds."""
FALLEN = 0.5
"""Height of the root below which a robot has fallen, in m."""
LONGER = 25
"""Control steps that a repeated rollout may outlast the recorded fall before it counts as standing."""

Kind = Literal["hold", "uniform"]


@dataclass(frozen=True)
class Options:
    """Compare fall times."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Folder with recordings and the robots' meshes."""
    tasks: tuple[str, ...] = ("h1-stand", "h1hand-stand", "h1-stair", "h1hand-balance_hard")
    seeds: int = 100
    """Number of reset poses for each task, kind of action and kind of robot."""
    limit: int = 500
    """Control steps after which a robot counts as standing."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


class Start(NamedTuple):
    """A recorded rollout from an ordinary reset."""

    qpos: np.ndarray
    qvel: np.ndarray
    warmstart: np.ndarray
    actions: np.ndarray
    """Recorded actions, (T, A)."""
    fall: int | None
    """Control steps until the recorded fall. None if the recording ends before a fall."""


def fallen(environment: Environment) -> bool:
    """Returns whether the robot has fallen, or has fallen off the board."""
    if environment.layout.balances:
        return bool(environment.qpos[2] < 0.8) or any(environment.balance_contacts())
    return bool(environment.qpos[2] < FALLEN)


def fall(environment: Environment, action: Callable[[int], np.ndarray], limit: int) -> int | None:
    """Returns the control steps until a fall, or None if the robot stands after ``limit``."""
    for step in range(limit):
        environment.advance(environment.layout.controls(action(step)))
        if fallen(environment):
            return step + 1
    return None


def fall_times(task: str, kind: Kind, meshes: Path | None, seeds: int, limit: int) -> np.ndarray:
    """Returns the seconds until the fall for each seed, (seeds,). Without a fall, they are the seconds of ``limit``."""
    environment = Environment(task, 0, meshes=meshes)
    held = hold_action(environment.model)
    times = np.empty(seeds)
    for seed in range(seeds):
        environment.random = np.random.default_rng(seed)
        environment.reset()
        rng = np.random.default_rng([seed, 1])
        if kind == "hold":
            steps = fall(environment, lambda _: held, limit)
        else:
            actions = rng.uniform(-1, 1, (limit, len(held)))
            steps = fall(environment, actions.__getitem__, limit)
        times[seed] = CONTROL_STEP * (limit if steps is None else steps)
    return times


def starts(recording: Recording, kind: Kind) -> Iterator[Start]:
    """Yields the recorded rollouts of this kind."""
    rollouts, steps = recording.part("rollout_"), recording.steps.recorded
    number = recording.meta["kinds"].index(kind)
    for index in np.flatnonzero(~rollouts["handset"] & (rollouts["kind"] == number)):
        rows = steps["rollout"] == index
        below = steps["qpos_after"][rows][:, 2] < FALLEN
        ended = bool(steps["terminated"][rows].any())
        yield Start(
            rollouts["reset_qpos"][index],
            rollouts["reset_qvel"][index],
            rollouts["warmstart"][index],
            steps["action"][rows],
            int(below.argmax()) + 1 if below.any() else len(below) if ended else None,
        )


def repeat(task: str, start: Start, meshes: Path | None) -> int | None:
    """Returns the control steps until the fall from a recorded start, or None if the robot stands.

    After a recorded fall, the last action is held for :data:`LONGER` further steps.
    """
    environment = Environment(task, 0, meshes=meshes)
    environment.reset()
    environment.qpos[:], environment.qvel[:] = start.qpos, start.qvel
    mujoco.mj_forward(environment.model, environment.data)
    environment.data.qacc_warmstart[:] = start.warmstart
    last = len(start.actions) - 1
    longer = 0 if start.fall is None else LONGER
    return fall(environment, lambda step: start.actions[min(step, last)], last + 1 + longer)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Yields a row for each task and kind of action.

    Raises:
        UserError: there are no recordings or meshes, a task is unknown, or a number is below 1.
    """
    if min(options.seeds, options.limit) < 1:
        raise UserError("--seeds and --limit must be at least 1")
    meshes = meshes_below(options.directory)
    if meshes is None:
        raise UserError(f"{options.directory}: no meshes below it; unpack Menagerie's unitree_h1")
    recorded = {each.name: each for each in recordings(options.directory)}
    kinds: tuple[Kind, ...] = ("hold", "uniform")
    for task in options.tasks:
        for kind in kinds:
            there = fall_times(task, kind, meshes, options.seeds, options.limit)
            here = fall_times(task, kind, None, options.seeds, options.limit)
            repeated = [
                [
                    _seconds(start.fall),
                    _seconds(repeat(task, start, meshes)),
                    _seconds(repeat(task, start, None)),
                ]
                for start in (starts(recorded[task], kind) if task in recorded else ())
            ]
            yield {
                "task": task,
                "action": kind,
                "seeds": options.seeds,
                "meshes": _summary(there),
                "primitives": _summary(here),
                "difference_of_means": round(float(here.mean() / there.mean() - 1), 4),
                "within_10_percent": round(float((np.abs(here / there - 1) <= 0.1).mean()), 4),
                "recorded_meshes_primitives": repeated,
            }


def _seconds(steps: int | None) -> float | None:
    return None if steps is None else round(CONTROL_STEP * steps, 2)


def _summary(times: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(times, (25, 50, 75))
    names = ("mean", "quarter", "median", "three_quarters")
    values = (times.mean(), low, middle, high)
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Makes a table of the rows, in words."""
    shown = Table(title="seconds until the fall: mean [quartiles]", title_justify="left")
    for head in ("task", "action", "meshes", "primitives", "means", "same seed within 10 %"):
        shown.add_column(head)
    shown.add_column("recorded / meshes / primitives")
    for row in rows:
        shown.add_row(
            row["task"],
            row["action"],
            *(_words(row[kind]) for kind in ("meshes", "primitives")),
            f"{row['difference_of_means']:+.1%}",
            f"{row['within_10_percent']:.0%}",
            ", ".join(
                " / ".join("-" if each is None else f"{each:.2f}" for each in start)
                for start in row["recorded_meshes_primitives"]
            ),
        )
    return shown


def _words(summary: dict[str, float]) -> str:
    mean, low, middle, high = (f"{value:.2f}" for value in summary.values())
    return f"{mean} [{low} {middle} {high}]"


def main(options: Options) -> None:
    """Prints the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
