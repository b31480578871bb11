"""Learning speed of ezm on a suite, compared with SAC and with ezm on each task alone.

``python -m benchmarks.learning cartpole --record`` trains every method with several seeds on the
same tasks, with the same action repeat and the same number of environment steps per task. It prints
the final returns and the areas under the learning curves. The option ``--report`` prints them for
recorded runs.

Methods:

- ``random``: random actions.
- ``ezm``: one agent for all tasks.
- ``ezm-alone``: an agent for each task.
- ``sac-single``, ``tqc-single``, ``crossq-single``: a model-free agent for each task, with sbx's own settings.
- ``sac-multi``, ``tqc-multi``, ``crossq-multi``: one model-free agent for all tasks, with a one-hot of the task.
- ``-tuned`` after a name of SAC: the settings that learned fastest on cartpole. ``-simba``: SimBa's networks.

Every agent makes as many updates per environment step of its tasks as its multi-task twin. So the
agents of one method cost together as much as the twin.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from rich.console import Console

from benchmarks.command import Flag, command
from benchmarks.outsiders import SETTINGS, train
from benchmarks.picture import draw
from benchmarks.results import RANDOM, CurveKey, Curves, Row, append, read, recorded_steps, tables
from ezm.acting.evaluate import Evaluator, random_policy
from ezm.acting.load import suite_of
from ezm.config import named_values
from ezm.config.presets import defaults
from ezm.errors import UserError
from ezm.runs.metrics import read_metrics
from ezm.tasks import Suite

Default = Literal[
    "random", "sac-single", "sac-single-tuned", "sac-multi", "sac-multi-tuned", "ezm", "ezm-alone"
]
Method = (
    Default
    | Literal["sac-single-simba", "tqc-single", "tqc-single-simba"]
    | Literal["crossq-single", "crossq-single-simba"]
    | Literal["sac-multi-simba", "tqc-multi", "tqc-multi-simba"]
    | Literal["crossq-multi", "crossq-multi-simba"]
)
ALL: tuple[Method, ...] = typing.get_args(Default)

MODEL_FREE = ("sac", "tqc", "crossq")

RECORDED = Path(__file__).parent / "recorded"
RANDOM_EPISODES = 20


class Budget(NamedTuple):
    """Agent steps per task of a run, and between two evaluations."""

    steps: int
    every: int


BUDGETS = {"cartpole": Budget(3_000, 500), "walker": Budget(20_000, 2_000)}
OTHER_BUDGET = Budget(10_000, 1_000)


@dataclass(frozen=True)
class Options:
    """Compare how fast methods learn a suite."""

    suite: tyro.conf.Positional[str]
    """The suite, as for `ezm train`."""
    methods: tuple[Method, ...] = ALL
    seeds: int = 3
    """Seeds 0 to seeds - 1."""
    steps: int | None = None
    """Agent steps per task. The default is 3000 for cartpole, 20000 for walker, 10000 for others."""
    every: int | None = None
    """Steps between evaluations. The default is 500 for cartpole, 2000 for walker, 1000 for others."""
    episodes: int = 10
    """Episodes per task and evaluation."""
    record: Flag = False
    """Append to benchmarks/recorded/learning-SUITE.jsonl, and skip runs that are there."""
    again: Flag = False
    """With --record: repeat recorded runs and replace them."""
    report: Flag = False
    """Run nothing, and print the recorded rows."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of tables."""
    picture: Path | None = None
    """A PNG file for a picture of the learning curves."""
    keep: Path | None = None
    """Folder to keep EZ-M's run folders in. Runs that an earlier call left unfinished there are resumed."""
    note: str = ""
    """Text to keep with the recorded rows, e.g. about other work on the machine."""


class Run(NamedTuple):
    """One agent to train."""

    method: str
    """One of ``Method``, or another name for the rows."""
    seed: int
    suite: Suite
    """The tasks to learn."""
    spec: str
    """The name of these tasks for `ezm train`."""
    share: float
    """Fraction of the whole suite's tasks."""


def plan(suite: Suite, options: Options) -> list[Run]:
    """Returns all runs that ``options`` ask for."""
    runs = []
    for method in options.methods:
        for seed in range(options.seeds):
            if method == "ezm-alone" or "-single" in method:
                share = 1 / suite.num_tasks
                runs += [
                    Run(method, seed, suite.only(task.name), task.source, share)
                    for task in suite.tasks
                ]
            else:
                runs.append(Run(method, seed, suite, suite.name, 1.0))
    return runs


def execute(run: Run, budget: Budget, episodes: int, keep: Path | None = None) -> Iterator[Row]:
    """Trains, and yields a row for each task at each evaluation. :class:`Options` explains ``keep``."""
    if run.method == RANDOM:
        return run_random(run)
    if run.method.startswith(MODEL_FREE):
        return run_outsider(run, budget, episodes)
    return run_ezm(run, budget, episodes, network_options(run.suite.name, run.spec), keep)


def network_options(suite: str, task: str) -> tuple[str, ...]:
    """Returns the options with which `ezm train` gives a task of the suite alone the networks of the suite."""
    usual = {name: value for name, value, _ in named_values(defaults("cpu", task))}
    return tuple(
        word
        for name, value, _ in named_values(defaults("cpu", suite))
        if name.startswith("model.") and value != usual[name]
        for word in (f"--{name}", str(value))
    )


def run_random(run: Run) -> Iterator[Row]:
    """Yields the returns of uniformly random actions."""
    start = time.perf_counter()
    evaluator = Evaluator(run.suite, RANDOM_EPISODES, run.seed)
    returns = evaluator.run(random_policy(run.suite, run.seed), RANDOM_EPISODES)
    evaluator.close()
    for task, values in zip(run.suite.task_names, returns, strict=True):
        yield _row(run, task, 0, time.perf_counter() - start, float(np.mean(values)))


def settings_name(method: str) -> str:
    """Returns the key of a model-free method in ``SETTINGS``."""
    return method.replace("-single", "").replace("-multi", "")


def run_outsider(run: Run, budget: Budget, episodes: int) -> Iterator[Row]:
    """Trains a model-free agent on all tasks of the run at once.

    Raises:
        UserError: sbx is not installed.
    """
    if importlib.util.find_spec("sbx") is None:
        raise UserError(f"method {run.method} needs sbx: pip install 'ezm-rl[benchmarks]'")
    settings = SETTINGS[settings_name(run.method)]
    for evaluation in train(run.suite, run.seed, *budget, episodes, settings):
        for task, values in zip(run.suite.tasks, evaluation.returns, strict=True):
            mean = float(np.mean(values))
            row = _row(run, task.name, evaluation.steps, evaluation.seconds, mean)
            row["returns"] = [round(value, 1) for value in values]
            row["control_steps"] = evaluation.steps * task.action_repeat
            yield row


def run_ezm(
    run: Run,
    budget: Budget,
    episodes: int,
    changes: Sequence[str] = (),
    keep: Path | None = None,
) -> Iterator[Row]:
    """Runs ``ezm train`` with the preset "cpu" and ``changes``, and yields the evaluations with the search.

    Raises:
        UserError: the training failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = (keep or Path(folder)) / _file_name(f"{run.method}-{run.spec}-{run.seed}")
        options = {
            "steps": budget.steps,
            "seed": run.seed,
            "updates-per-step": defaults("cpu", run.spec).updates_per_step * run.share,
            "evaluate-every": budget.every,
            "evaluation-episodes": episodes,
            "final-episodes": episodes,
            "out": out,
        }
        arguments = [run.spec, "--preset", "cpu"]
        arguments += [str(x) for name, value in options.items() for x in (f"--{name}", value)]
        arguments += changes
        if out.exists():
            arguments = ["--resume", str(out)]
        rows = _searched(run, out)
        if not rows or rows[-1]["steps_per_task"] < budget.steps:
            command = [sys.executable, "-m", "ezm", "train", *arguments]
            if subprocess.run(command, stdout=sys.stderr).returncode != 0:
                raise UserError(f"`{' '.join(command[1:])}` failed: see its message above")
            rows = _searched(run, out)
        yield from rows


def _searched(run: Run, out: Path) -> list[Row]:
    """Returns the evaluations with the search of the run in the folder ``out``, or none without a folder."""
    return [
        _row(run, row["task"], row["step"], row["seconds"], row["mean"])
        for row in read_metrics(out / "metrics.jsonl")
        if row["kind"] == "eval" and row["mode"] == "search"
    ]


def _row(run: Run, task: str, steps: int, seconds: float, value: float) -> Row:
    return {
        "suite": run.suite.name,
        "method": run.method,
        "seed": run.seed,
        "task": task,
        "steps_per_task": steps,
        "seconds": round(seconds, 1),
        "return": round(value, 2),
    }


def header(budget: Budget, episodes: int, note: str, methods: Sequence[str]) -> dict[str, object]:
    """Returns the header for the rows that follow it: machine, versions and settings."""
    from ezm.runs.machine import machine

    found = {}
    for package in ("ezm-rl", "sbx-rl", "stable_baselines3", "dm_control", "mujoco"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    content: dict[str, object] = {
        "machine": machine() | {"cores used": len(os.sched_getaffinity(0))},
        "versions": found,
        "methods": methods,
        "evaluation episodes": episodes,
        **budget._asdict(),
    }
    for name in sorted(set(map(settings_name, methods)) & SETTINGS.keys()):
        content[name] = dataclasses.asdict(SETTINGS[name])
    if note:
        content["note"] = note
    return {"header": content}


def compare(options: Options, console: Console) -> list[Row]:
    """Makes the missing runs, and returns the rows of all requested runs.

    Raises:
        UserError: an option is out of range, or a run failed. Earlier runs are recorded.
    """
    suite = suite_of(replace(defaults("cpu", options.suite), suite=options.suite))
    budget = BUDGETS.get(suite.name, OTHER_BUDGET)
    budget = Budget(options.steps or budget.steps, options.every or budget.every)
    if budget.every < 1 or budget.steps % budget.every or budget.steps < budget.every:
        raise UserError(f"--every {budget.every}: --steps {budget.steps} must be a multiple of it")
    if options.seeds < 1 or options.episodes < 1:
        raise UserError("--seeds and --episodes must be at least 1")
    path = recorded_path(suite.name)
    rows = read(path) if options.record and not options.again else []
    done = recorded_steps(rows)
    announced = False
    for run in plan(suite, options):
        needed = 0 if run.method == RANDOM else budget.steps
        keys = [CurveKey(run.method, run.seed, task) for task in run.suite.task_names]
        if all(done.get(key, -1) >= needed for key in keys):
            continue
        start = time.perf_counter()
        new = list(execute(run, budget, options.episodes, options.keep))
        if options.record:
            append(
                path,
                [
                    *(
                        []
                        if announced
                        else [header(budget, options.episodes, options.note, options.methods)]
                    ),
                    *new,
                ],
            )
            announced = True
        if options.json:
            for row in new:
                print(json.dumps(row), flush=True)
        rows += new
        last = ", ".join(f"{row['task']} {row['return']:.0f}" for row in new[-len(keys) :])
        seconds = time.perf_counter() - start
        console.print(f"{run.method} seed {run.seed}: {last} in {seconds:.0f} s", highlight=False)
    return [row for row in rows if row["method"] in options.methods or row["method"] == RANDOM]


def recorded_path(suite: str) -> Path:
    """Returns the path of the file with a suite's recorded learning curves."""
    return RECORDED / f"learning-{_file_name(suite)}.jsonl"


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def main(options: Options) -> None:
    """Prints the comparison that ``options`` describe."""
    if options.report:
        path = recorded_path(options.suite)
        rows = [row for row in read(path) if row["method"] in (*options.methods, RANDOM)]
        if not rows:
            raise UserError(f"nothing is recorded for {options.suite}: run it with --record first")
        if options.json:
            print("\n".join(map(json.dumps, rows)))
    else:
        rows = compare(options, Console(stderr=True))
    curves = Curves(rows, options.steps)
    if not options.json:
        for table in tables(curves):
            Console().print(table)
    if options.picture is not None:
        draw(curves, options.picture)


if __name__ == "__main__":
    command(main, Options, __doc__)
