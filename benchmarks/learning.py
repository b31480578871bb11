"""How fast ezm learns a suite, against SAC and against ezm on each task alone.

``python -m benchmarks.learning cartpole --record`` trains every method with several seeds on the
same tasks, with the same action repeat and as many environment steps per task, and prints what they
reach and the area under their learning curves; ``--report`` prints that of the recorded runs.

Methods: ``random`` actions; ``ezm``, one agent for all; ``ezm-alone``, an agent for each task; and the model-free
agents of :mod:`benchmarks.outsiders`. ``sac-single`` is an agent for each task, ``sac-multi`` one agent for all, with a one-hot
of the task. Both have sbx's own settings, or ``-tuned`` those that learned fastest on cartpole, or ``-simba`` networks.
Every agent makes as many updates per environment step of its tasks as its multi-task twin: the
agents of one method together cost what that twin costs.
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
from ezm.errors import UserError
from ezm.evaluation.evaluate import Evaluator, random_policy
from ezm.presets import defaults
from ezm.tasks import Suite
from ezm.training.metrics import read_metrics
from ezm.training.runs import suite_of

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
    """Agent steps per task: of a run, and between two evaluations."""

    steps: int
    every: int


BUDGETS = {"cartpole": Budget(3_000, 500), "walker": Budget(20_000, 2_000)}
_WIDE = ("--model.latent-size", "128")
EZM_OPTIONS: dict[str, tuple[str, ...]] = {
    "cartpole": ("--model.task-embedding-scale", "0.01"),
    "walker": _WIDE,
    "mixed": _WIDE,
}
"""For each task of a suite alone too: what `ezm train` gives the suite of itself (``CPU_SIZES``)."""
OTHER_BUDGET = Budget(10_000, 1_000)


@dataclass(frozen=True)
class Options:
    """Compare how fast methods learn a suite."""

    suite: tyro.conf.Positional[str]
    """As for `ezm train`."""
    methods: tuple[Method, ...] = ALL
    seeds: int = 3
    """Seeds 0 to seeds - 1."""
    steps: int | None = None
    """Agent steps per task; default: 3000 for cartpole, 20000 for walker, 10000 for others."""
    every: int | None = None
    """Steps between evaluations; default: 500 for cartpole, 2000 for walker, 1000 for others."""
    episodes: int = 10
    """Per task and evaluation."""
    record: Flag = False
    """Append to benchmarks/recorded/learning-SUITE.jsonl, and leave out runs that are there."""
    again: Flag = False
    """With --record: run and replace recorded runs."""
    report: Flag = False
    """Run nothing: print what is recorded."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of tables."""
    picture: Path | None = None
    """Draw the learning curves into this PNG file too."""
    keep: Path | None = None
    """Keep EZ-M's run folders here, and go on with those that an earlier call left unfinished."""
    note: str = ""
    """Kept with the recorded rows, e.g. what else the machine was doing."""


class Run(NamedTuple):
    """One agent to train."""

    method: str
    """One of ``Method``, or the name that the rows are to carry."""
    seed: int
    suite: Suite
    """The tasks that it learns."""
    spec: str
    """The same, as `ezm train` wants it."""
    share: float
    """Of the tasks of the whole suite."""


def plan(suite: Suite, options: Options) -> list[Run]:
    """All runs that ``options`` ask for."""
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
    """Train, and yield a row for each task at each evaluation. ``keep``: see :class:`Options`."""
    if run.method == RANDOM:
        return run_random(run)
    if run.method.startswith(MODEL_FREE):
        return run_outsider(run, budget, episodes)
    return run_ezm(run, budget, episodes, EZM_OPTIONS.get(run.suite.name, ()), keep)


def run_random(run: Run) -> Iterator[Row]:
    """Uniformly random actions."""
    start = time.perf_counter()
    evaluator = Evaluator(run.suite, RANDOM_EPISODES, run.seed)
    returns = evaluator.run(random_policy(run.suite, run.seed), RANDOM_EPISODES)
    evaluator.close()
    for task, values in zip(run.suite.task_names, returns, strict=True):
        yield _row(run, task, 0, time.perf_counter() - start, float(np.mean(values)))


def run_outsider(run: Run, budget: Budget, episodes: int) -> Iterator[Row]:
    """A model-free agent on all tasks of the run at once.

    Raises:
        UserError: sbx is not installed.
    """
    if importlib.util.find_spec("sbx") is None:
        raise UserError(f"method {run.method} needs sbx: pip install 'ezm-rl[benchmarks]'")
    settings = SETTINGS[run.method.replace("-single", "").replace("-multi", "")]
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
    """``ezm train`` with the preset "cpu" and ``changes``, acting with the search in evaluations.

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
    """What the run in the folder ``out`` has reached with the search; nothing without a folder."""
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
    """What the rows behind it were measured with."""
    from ezm.training.machine import machine

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
    outsiders = {method.replace("-single", "").replace("-multi", "") for method in methods}
    for name in sorted(outsiders & SETTINGS.keys()):
        content[name] = dataclasses.asdict(SETTINGS[name])
    if note:
        content["note"] = note
    return {"header": content}


def compare(options: Options, console: Console) -> list[Row]:
    """Do the runs that are missing; return the rows of all that were asked for.

    Raises:
        UserError: an option out of range, or a run failed; the runs before it are recorded.
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
    """The file with a suite's recorded learning curves."""
    return RECORDED / f"learning-{_file_name(suite)}.jsonl"


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def main(options: Options) -> None:
    """Print the comparison that ``options`` describe."""
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
