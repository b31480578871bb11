"""Recording of a run's learning curve: its evaluations go to ``benchmarks/recorded/learning-SUITE.jsonl``.

``python -m benchmarks.keep runs/RUN --method NAME --commit COMMIT`` reads the run's metrics. It appends a header with
the run's options and the machine, then a row for each task, evaluation and way of acting. Training episodes between two
evaluations become one row. A run that is kept again replaces its earlier rows.

With ``--agent agents/NAME`` it also writes the model and the statistics of observations to a new run folder. The
commands ``ezm eval`` and ``ezm watch`` read this folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.command import command
from benchmarks.learning import recorded_path
from benchmarks.results import Row, append
from ezm.acting.load import load_agent, suite_of
from ezm.config import TrainConfig, from_dict
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import is_own, read_metrics

ACTING = {"search": "search", "policy": "mean", "random": "random"}
"""Name of each evaluation mode in a recorded row, by its name in metrics.jsonl."""


@dataclass(frozen=True)
class Options:
    """Append a run's learning curve to the recorded ones."""

    run: tyro.conf.Positional[Path]
    """The folder of the run."""
    method: str
    """The recipe's name, for the rows."""
    commit: str
    """Commit of the code that trained the run."""
    note: str = ""
    """Text for the header, e.g. about other work on the machine."""
    agent: Path | None = None
    """A new folder for the agent of the latest checkpoint. None does not keep the agent."""


def rows(
    config: TrainConfig,
    repeats: Mapping[str, int],
    metrics: Sequence[Mapping[str, Any]],
    method: str,
) -> Iterator[Row]:
    """Yields a row for each task, evaluation and way of acting, curve by curve.

    Args:
        config: the run's.
        repeats: control steps of an agent step, by task.
        metrics: the run's rows, in order.
        method: the recipe's name, for the rows.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    episodes: dict[str, list[float]] = {}
    seen = 0

    def add(acting: str, task: str, step: int, seconds: float, returns: list[float]) -> None:
        found.setdefault((acting, task), []).append(
            {
                "suite": config.suite,
                "method": method,
                "seed": config.seed,
                "task": task,
                "steps_per_task": step,
                "seconds": round(seconds, 1),
                "return": round(float(np.mean(returns)), 2),
                "returns": [round(value, 1) for value in returns],
                "control_steps": step * repeats[task],
                "acting": acting,
                "protocol": config.protocol,
            }
        )

    for row in metrics:
        if row["kind"] == "episode" and is_own(row):
            episodes.setdefault(row["task"], []).append(row["return"])
        elif row["kind"] == "eval":
            if row["step"] > seen and row["mode"] != "random":
                seen = row["step"]
                for task, returns in episodes.items():
                    add("training", task, seen, row["seconds"], returns)
                episodes.clear()
            add(ACTING[row["mode"]], row["task"], row["step"], row["seconds"], row["returns"])
    for curve in found.values():
        yield from curve


def keep_agent(run: RunFolder, path: Path) -> None:
    """Writes the acting parameters of a run's latest checkpoint as the run folder ``path``.

    Raises:
        UserError: the run has no checkpoint, or the folder is not empty.
    """
    agent, step = load_agent(run)
    kept = RunFolder.create(path, run.config, run.tasks)
    kept.save_checkpoint(step, {"agent": agent.arrays()}, {"step": step})


def main(options: Options) -> None:
    """Appends the header and the rows, and keeps the agent if ``options`` ask for it."""
    run = RunFolder.open(options.run)
    config = from_dict(run.config)
    metrics = list(read_metrics(run.metrics_path))
    if not metrics:
        raise UserError(f"{run.path} has measured nothing yet: train it further first")
    updates = [row for row in metrics if row["kind"] == "train"]
    pace = updates[-1]["updates"] / updates[-1]["seconds"] if updates else 0.0
    header = {
        "method": options.method,
        "commit": options.commit,
        "machine": metrics[0]["machine"],
        "updates_per_second": round(pace, 1),
        "config": run.config,
    } | ({"note": options.note} if options.note else {})
    repeats = {task.name: task.action_repeat for task in suite_of(config).tasks}
    path = recorded_path(config.suite)
    append(path, [{"header": header}, *rows(config, repeats, metrics, options.method)])
    print(f"kept in {path}")
    if options.agent is not None:
        keep_agent(run, options.agent)
        print(f"kept in {options.agent}")


if __name__ == "__main__":
    command(main, Options, __doc__)
