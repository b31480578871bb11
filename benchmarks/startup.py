"""Time from a command to its first useful step, with compilation and with programs that were compiled before.

``python -m benchmarks.startup`` starts each command twice, in separate processes, with a cache of compiled programs
that is empty at first. It stops the command after its first update (train), search (eval) or action (planner).
Importing ``ezm`` is timed too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.config.presets import defaults
from ezm.errors import UserError

# Each exits right after its first useful step, without the seconds of an orderly shutdown.
_PROGRAMS = {
    "import ezm": """
import ezm, sys
jax = sys.modules.get("jax")
assert jax is None or not jax._src.xla_bridge._backends, "a device was initialised"
""",
    "train": """
import sys
from ezm.platform import prepare_jax
prepare_jax("cpu")
import jax
from ezm.training.pipeline import Pipeline
step = Pipeline.step
def first(self, *arguments):
    jax.block_until_ready(step(self, *arguments))
    import os; os._exit(0)
Pipeline.step = first
from ezm.cli import main
sys.exit(main(["train", SUITE, "--preset", "cpu", "--out", NEW]))
""",
    "eval": """
import sys
from ezm.platform import prepare_jax
prepare_jax("cpu")
from ezm.acting.actor import Actor
act = Actor.act
def first(self, *arguments, **keywords):
    act(self, *arguments, **keywords)
    import os; os._exit(0)
Actor.act = first
from ezm.cli import main
sys.exit(main(["eval", RUN]))
""",
    "planner": """
from ezm.platform import prepare_jax
prepare_jax("cpu")
import numpy as np
from ezm.control import Planner
planner = Planner.load(RUN)
task = planner.suite.tasks[0]
planner.act(np.zeros(task.observation_size, np.float32), task.name)
import os; os._exit(0)
""",
}


class Row(TypedDict):
    """Seconds of a command's first and second start."""

    command: str
    first: float
    second: float
    """Seconds with the programs that the first start compiled."""


@dataclass(frozen=True)
class Options:
    """Time the start of ezm's commands."""

    suite: str = "cartpole"
    """The suite to train."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def seconds(program: str, folder: Path, number: int, suite: str) -> float:
    """Returns the seconds of one start, in a fresh process with the folder's cache."""
    names = {"SUITE": suite, "NEW": str(folder / f"new-{number}"), "RUN": str(folder / "run")}
    text = "\n".join(f"{name} = {value!r}" for name, value in names.items()) + program
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "EZM_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"the start failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - started


def measure(options: Options) -> Iterator[Row]:
    """Yields a row for each command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _train_a_little(options.suite, folder)
        for number, (command, program) in enumerate(_PROGRAMS.items()):
            first, second = (
                round(seconds(program, folder, 2 * number + again, options.suite), 2)
                for again in (0, 1)
            )
            yield Row(command=command, first=first, second=second)


def _train_a_little(suite: str, folder: Path) -> None:
    """Makes a run for the commands that need a run, with a separate cache."""
    steps = defaults("cpu", suite).random_steps + 10
    arguments = ["train", suite, "--preset", "cpu", "--steps", steps, "--final-episodes", "1"]
    arguments += ["--out", folder / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "ezm", *map(str, arguments)],
        env={**os.environ, "EZM_CACHE": str(folder / "other-cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"training failed: {done.stderr.strip().splitlines()[-1]}")


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of the rows."""
    shown = Table(title="seconds to the first useful step", title_justify="left")
    for head in ("command", "first start", "second"):
        shown.add_column(head, justify="left" if head == "command" else "right")
    for row in rows:
        shown.add_row(row["command"], f"{row['first']:.1f}", f"{row['second']:.1f}")
    return shown


def main(options: Options) -> None:
    """Prints the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
