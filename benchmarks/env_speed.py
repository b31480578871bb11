"""Control steps per second of HumanoidBench's tasks, against the limit that the physics alone sets.

``python -m benchmarks.env_speed`` steps a batch of environments of each task with uniformly random actions, and resets
an environment when its episode ends. These steps (*ours*) include observations, rewards with all terms, terminations
and resets, as in training. The limit is a *bare loop* that holds the same actions with the same models and calls
``mj_step``. Apart from that it only puts a fallen robot back to its start. The two take turns, in one thread each. The
environments also run in more threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import mujoco
import numpy as np
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.errors import UserError
from ezm.tasks.humanoid_bench import NAMES, Batch
from ezm.tasks.humanoid_bench.environment import layout
from ezm.tasks.humanoid_bench.models import PHYSICS_STEPS

ORIGINAL = {"h1-stand": 2743, "h1-hurdle": 1568, "h1hand-stand": 624}
"""The original's control steps per second of one core with MuJoCo 3.1.6, on another machine."""


class Row(TypedDict):
    """Medians over the turns, in control steps per second."""

    task: str
    threads: int
    ours: float
    bare_loop: float
    """The physics alone, in one thread."""
    original: float | None


@dataclass(frozen=True)
class Options:
    """Time the environments."""

    tasks: tuple[str, ...] = NAMES
    """Robot and task, such as h1-walk. The default is all 23."""
    environments: int = 32
    steps: int = 25
    """Steps of every environment, in one turn."""
    turns: int = 5
    threads: tuple[int, ...] = ()
    """Numbers of threads. The default is 1, 2 and so on, up to the number of cores."""
    meshes: str | None = None
    """A folder with the robots' collision meshes. The default is primitives."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


class Ours:
    """A batch of environments of one task."""

    def __init__(self, task: str, options: Options, threads: int) -> None:
        names = [task] * options.environments
        self._batch = Batch.of(names, seed=0, meshes=options.meshes, threads=threads)
        self._batch.reset()

    def run(self, actions: np.ndarray) -> None:
        """Takes the actions, (steps, environments, A)."""
        for action in actions:
            self._batch.step(action)
            if self._batch.terminated.any():
                self._batch.reset(np.flatnonzero(self._batch.terminated))


class Bare:
    """The same physics, without anything else."""

    def __init__(self, task: str, options: Options) -> None:
        batch = Batch.of([task] * options.environments, seed=0, meshes=options.meshes)
        batch.reset()
        self._layout = batch.environments[0].layout
        self._batch = batch
        self._datas = [environment.data for environment in batch.environments]
        self._starts = [environment.qpos.copy() for environment in batch.environments]
        self._lowest = 0.8 if self._layout.balances else 0.2

    def run(self, actions: np.ndarray) -> None:
        """Takes the actions, (steps, environments, A)."""
        model, lowest = self._layout.model, self._lowest
        for action in actions:
            controls = self._layout.controls(action)
            for data, control, start in zip(self._datas, controls, self._starts, strict=True):
                data.ctrl[:] = control
                mujoco.mj_step(model, data, PHYSICS_STEPS)
                if data.qpos[2] < lowest:
                    mujoco.mj_resetData(model, data)
                    data.qpos[:] = start


def measure(options: Options) -> Iterator[Row]:
    """Yields a row for each task and number of threads.

    Raises:
        UserError: a task is unknown, or a number is below 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = options.threads or tuple(range(1, (cores or 1) + 1))
    if min(options.environments, options.steps, options.turns, *threads) < 1:
        raise UserError("--environments, --steps, --turns and --threads must be at least 1")
    rng = np.random.default_rng(0)
    for task in options.tasks:
        programs: dict[int, Ours | Bare] = {
            number: Ours(task, options, number) for number in threads
        }
        programs[0] = Bare(task, options)
        size = layout(task).action_size
        shape = (options.steps, options.environments, size)
        taken: dict[int, list[float]] = {number: [] for number in programs}
        for _ in range(options.turns + 1):
            actions = rng.uniform(-1, 1, shape).astype(np.float32)
            for number, program in programs.items():
                start = time.perf_counter()
                program.run(actions)
                taken[number].append(time.perf_counter() - start)
        steps = options.steps * options.environments
        # The first turn, which starts from standing, is not counted.
        rates = {number: steps / float(np.median(each[1:])) for number, each in taken.items()}
        for number in threads:
            yield Row(
                task=task,
                threads=number,
                ours=round(rates[number], 1),
                bare_loop=round(rates[0], 1),
                original=ORIGINAL.get(task),
            )


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of the rows with their ratios."""
    title = f"control steps per second, MuJoCo {mujoco.__version__}"
    shown = Table(title=title, title_justify="left")
    for head in (
        "task",
        "threads",
        "ours",
        "bare loop",
        "ours / bare",
        "/ one thread",
        "/ original",
    ):
        shown.add_column(head, justify="left" if head == "task" else "right")
    one = {row["task"]: row["ours"] for row in rows if row["threads"] == 1}
    for row in rows:
        alone, original = one.get(row["task"]), row["original"]
        shown.add_row(
            row["task"],
            str(row["threads"]),
            f"{row['ours']:,.0f}",
            f"{row['bare_loop']:,.0f}",
            f"{row['ours'] / row['bare_loop']:.2f}",
            f"{row['ours'] / alone:.2f}" if alone else "",
            f"{row['ours'] / original:.2f}" if original else "",
        )
    return shown


def main(options: Options) -> None:
    """Prints the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
