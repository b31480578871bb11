"""A run that is killed, stopped or broken off goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ezm.runs.folder import RunFolder

SUITE = "dmc:cartpole-swingup,dmc:reacher-easy,hb:h1-stand"
OPTIONS = (
    "--steps=90 --random-steps=20 --evaluate-every=30 --evaluation-episodes=1 --final-episodes=1 "
    "--checkpoint-every=20 --updates-per-step=1.47 --model.latent-size=16 --model.projector-size=16 "
    "--model.bins=11 --model.task-embedding-size=4 --model.action-code-size=8 "
    "--planner.simulations=4 --planner.root-actions=4 --planner.policy-actions=2 "
    "--optimizer.batch-size=6 --action-repeat=50 --replay.alpha=0.7 "
    "--model.q-heads=2 --model.head-norm=batch --model.trunk=concatenated --model.neutral-start --loss.q.weight=0.5 --loss.q.target=q "
    "--loss.actor.weight=1 --loss.actor.scale=task --loss.actor.target-spread=0.3 --loss.reward-scaling "
    "--planner.refine.actions=1 --planner.mppi.rounds=1 --planner.mppi.samples=4 --noise=0.3 --optimizer.schedule-steps=60 "
    "--planner.interior-spread=2 --early-episode-steps=7"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    cache = tmp_path_factory.mktemp("cache")
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, also for children
    yield {
        **os.environ,
        "EZM_CACHE": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    signal.signal(signal.SIGHUP, before)


def command(run: Path, others: Sequence[str] = ()) -> list[str]:
    """Begin the run, or go on with it where it has been begun."""
    ezm = [sys.executable, "-m", "ezm", "train"]
    if (run / "config.json").exists():
        return [*ezm, "--resume", str(run), *others]
    return [*ezm, SUITE, *OPTIONS.split(), "--out", str(run), *others]


def finish(run: Path, environment: dict[str, str], *others: str) -> None:
    done = subprocess.run(
        command(run, others), env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def stop(
    run: Path,
    environment: dict[str, str],
    rows: int,
    seconds: float,
    signal: signal.Signals,
    *others: str,
) -> int:
    """Send a signal some seconds after so many rows have been measured; returns the exit code."""
    process = subprocess.Popen(
        command(run, others), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < rows:
        assert process.poll() is None, "the run ended before it was stopped"
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal)
    return process.wait()


def measured(run: Path) -> list[dict[str, Any]]:
    """All metrics but those of the wall clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k != "seconds" and not k.startswith("time/")}
        for row in rows
    ]


def leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(place), np.asarray(leaf)


def assert_same(run: Path, other: Path) -> None:
    """The same metrics and the same last checkpoint, bit for bit.

    The environments' states are pickles, whose bytes depend on more than what they hold.
    """
    assert measured(run) == measured(other)
    ours, theirs = (RunFolder.open(each).latest_checkpoint() for each in (run, other))
    assert ours is not None and theirs is not None and ours.step == theirs.step == 90
    for each in (ours, theirs):
        del each.arrays["environments"], each.arrays["evaluation"]
    arrays, others = dict(leaves(ours.arrays)), dict(leaves(theirs.arrays))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    meta = [{k: v for k, v in each.meta.items() if k != "seconds"} for each in (ours, theirs)]
    assert meta[0] == meta[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(run, environment)
    return run


@pytest.mark.slow
def test_two_runs_are_the_same(whole: Path, environment: dict[str, str], tmp_path: Path) -> None:
    finish(tmp_path / "run", environment)
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    kills: int, whole: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Where the run begins, between checkpoints, in the midst of one, in the last evaluation: wherever it hits."""
    rng, run = random.Random(kills), tmp_path / "run"
    total = len(measured(whole))
    for _ in range(kills):
        stop(run, environment, rng.randrange(total - 3), rng.uniform(0.0, 0.1), signal.SIGKILL)
    finish(run, environment)
    assert_same(run, whole)


def stopped_between_checkpoints(
    run: Path,
    whole: Path,
    environment: dict[str, str],
    step: int,
    by: signal.Signals,
    *others: str,
) -> None:
    """At a step without a checkpoint of its own, with a batch drawn ahead."""
    rows = next(i for i, row in enumerate(measured(whole), start=1) if row["step"] > step)
    assert stop(run, environment, rows, 0.0, by, *others) == 130
    steps = RunFolder.open(run).checkpoint_steps()
    assert steps[-1] >= step and steps[-1] % 20, steps


def test_stopped_by_ctrl_c(whole: Path, environment: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_between_checkpoints(run, whole, environment, 42, signal.SIGINT)
    finish(run, environment)
    assert_same(run, whole)


def test_stopped_by_other_signals_while_rows_move_to_the_device_and_back(
    whole: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """The run on the host was the same, bit for bit: where rows are decides nothing."""
    run = tmp_path / "run"
    for step, by, option in (
        (42, signal.SIGTERM, "--replay.device"),
        (66, signal.SIGHUP, "--replay.no-device"),
    ):
        stopped_between_checkpoints(run, whole, environment, step, by, option)
        assert RunFolder.open(run).config["replay"]["device"] == (option == "--replay.device")
    finish(run, environment, "--replay.device")
    assert_same(run, whole)
