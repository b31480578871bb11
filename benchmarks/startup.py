"""How long it takes from a command to its first useful step: compiling once, and with what was compiled before.

``python -m benchmarks.startup`` starts each command in a process of its own, twice, with a cache of compiled programs that is
empty at first, and stops it behind its first update (train), search (eval) or action (planner). Importing ``ezm`` is timed too.
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
from ezm.errors import UserError

# Each leaves the process behind its first useful step, without the seconds that ending it takes.
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
sys.exit(main(["train", SUITE, "--out", NEW]))
""",
    "eval": """
import sys
from ezm.platform import prepare_jax
prepare_jax("cpu")
from ezm.training.actor import Actor
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
    """Seconds of one command."""

    command: str
    first: float
    second: float
    """With the programs that the first start compiled."""


@dataclass(frozen=True)
class Options:
    """Time the start of ezm's commands."""

    suite: str = "cartpole"
    """What is trained."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def seconds(program: str, folder: Path, number: int, suite: str) -> float:
    """Of one start, in a fresh process with the folder's cache."""
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
    """A row for each command."""
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
    """A run for the commands that need one, compiled into a cache of its own."""
    arguments = ["train", suite, "--steps", "210", "--final-episodes", "1", "--out", folder / "run"]
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
    """The rows."""
    shown = Table(title="seconds to the first useful step", title_justify="left")
    for head in ("command", "first start", "second"):
        shown.add_column(head, justify="left" if head == "command" else "right")
    for row in rows:
        shown.add_row(row["command"], f"{row['first']:.1f}", f"{row['second']:.1f}")
    return shown


def main(options: Options) -> None:
    """Print the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
