"""Test that a run takes the memory that it announces, and does not grow.

``python -m benchmarks.memory`` trains the preset ``cpu`` on 23 made-up tasks with the sizes of HumanoidBench's tasks.
Nine have 51 observations and 19 actions, 14 have 151 and 61. A replay of 50,000 rows per task is filled three times,
with a checkpoint each time. Actions are random, and made-up searches are stored with them. The run learns at the end.
Programs are compiled, as in a first run. Cached programs take 0.6 GiB less.
The environments of the real suites add memory that ``ezm train`` counts as the process.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypedDict

import gymnasium
import numpy as np
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.errors import UserError

SIZES = [(51, 19)] * 9 + [(151, 61)] * 14
_EPISODE = 500
_LEARNED = 200
"""Number of steps at the end in which the agent learns."""


class Row(TypedDict):
    """The memory of the process at one moment."""

    moment: str
    steps: int
    """Steps per task."""
    resident_mib: float
    peak_mib: float
    of_announced: float
    """The peak as a fraction of the announced memory."""


@dataclass(frozen=True)
class Options:
    """Measure the memory of a run."""

    rows: int = 50_000
    """Replay rows per task."""
    turns: int = 3
    """Number of times that the replay is filled."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


class Noise(gymnasium.Env):
    """A minimal environment with observations from a table of random numbers."""

    reward_range = (0.0, 1.0)

    def __init__(self, observations: int, actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (observations,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self._table = np.random.default_rng(0).normal(size=(97, observations)).astype(np.float32)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._table[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._step += 1
        return self._table[self._step % 97], 0.5, False, False, {}


def _factory(sizes: tuple[int, int]) -> Callable[[], gymnasium.Env]:
    return lambda: gymnasium.wrappers.TimeLimit(Noise(*sizes), _EPISODE)


for _number, _sizes in enumerate(SIZES):
    globals()[f"task{_number:02d}"] = _factory(_sizes)


def _status() -> tuple[float, float]:
    """Returns the resident memory now and its peak so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    now, peak = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("VmRSS", "VmHWM"))
    return now / 1024, peak / 1024


def _run(options: Options, folder: Path, rows: Connection) -> None:
    """Makes the run in `folder`, as the target of a separate process, and sends its rows."""
    from ezm.config import to_dict
    from ezm.config.presets import defaults
    from ezm.config.validation import check
    from ezm.platform import prepare_jax

    os.environ["EZM_CACHE"] = str(folder / "cache")
    prepare_jax("cpu")
    from ezm.acting.load import suite_of
    from ezm.agent.batch import Searches
    from ezm.cli.progress import TrainingProgress
    from ezm.runs.folder import RunFolder
    from ezm.runs.metrics import MetricsLogger
    from ezm.training.trainer import Trainer

    steps = options.rows * options.turns + _LEARNED
    base = defaults("cpu", "h1hand")
    config = replace(
        base,
        suite=",".join(f"benchmarks.memory:task{number:02d}" for number in range(len(SIZES))),
        steps=steps,
        random_steps=steps - _LEARNED,
        action_repeat=1,
        evaluate_every=10 * steps,
        final_episodes=1,
        checkpoint_every=options.rows,
        replay=replace(base.replay, capacity=options.rows),
    )
    suite = suite_of(config)
    check(config, suite.num_tasks)
    root = (suite.num_tasks, config.planner.root_actions)
    one = np.ones(suite.num_tasks)
    searches = Searches(np.ones((*root, suite.action_size)), np.ones(root), one, one)

    class Watched(Trainer):
        def advance(self) -> None:
            # Random steps have no searches, so made-up searches are stored instead.
            tasks = np.arange(suite.num_tasks)
            self.replay.store(tasks, self.replay.rows[tasks] - 1, searches, 0)
            super().advance()

        def save(self, *, environments: bool = True) -> None:
            self.note(f"before checkpoint {self.step:,}")
            super().save(environments=environments)
            self.note("after it")

        def note(self, moment: str) -> None:
            now, peak = _status()
            announced = self.memory.total / 2**20
            rows.send(
                Row(
                    moment=moment,
                    steps=self.step,
                    resident_mib=round(now),
                    peak_mib=round(peak),
                    of_announced=round(peak / announced, 3),
                )
            )

    run = RunFolder.create(folder / "run", to_dict(config))
    with (
        MetricsLogger(run, tensorboard=False) as metrics,
        TrainingProgress(suite.task_names, steps) as progress,
    ):
        trainer = Watched(config, suite, run, metrics, progress)
        trainer.train()
        trainer.note("at the end")


def measure(options: Options) -> Iterator[Row]:
    """Yields a row before and after each checkpoint, and at the end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_run, args=(options, Path(folder), theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            while True:
                yield ours.recv()
        except EOFError:  # the process is done
            process.join()
    if process.exitcode:
        raise UserError(f"the run ended with exit code {process.exitcode}: see above")


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of the rows."""
    shown = Table(title="memory of a run", title_justify="left")
    for head in ("moment", "steps per task", "resident MiB", "peak MiB", "peak / announced"):
        shown.add_column(head, justify="left" if head == "moment" else "right")
    for row in rows:
        shown.add_row(
            row["moment"],
            f"{row['steps']:,}",
            f"{row['resident_mib']:,.0f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['of_announced']:.2f}",
        )
    return shown


def main(options: Options) -> None:
    """Prints the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
