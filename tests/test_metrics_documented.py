"""docs/metrics.md and what a run measures are the same columns, with the same TensorBoard tags."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ezm.config import named_values
from ezm.config.presets import PRESETS
from ezm.runs.metrics import read_metrics, scalars

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
TASKS = ("cartpole-balance", "cartpole-swingup")
OPTIONS = (
    "--steps=60 --random-steps=10 --evaluate-every=30 --evaluation-episodes=1 --final-episodes=1 "
    "--diagnose-every=50 --cross-task-episodes=0.5 --action-repeat=50 --updates-per-step=0.5 "
    "--model.latent-size=16 --model.bins=11 --planner.simulations=4 --planner.root-actions=4 "
    "--planner.policy-actions=2 --optimizer.batch-size=8 "
    # Parts that are switched off are columns too, and need not be compiled.
    "--planner.leaf-rollout=0 --loss.unroll=1 --loss.n-step=1 --loss.consistency-weight=0 "
    "--loss.path-weight=0 "
    "--model.q-heads=2 --loss.q.weight=0.5 --loss.actor.weight=1 --loss.actor.target-spread=0.3 "
    "--loss.reward-scaling"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a run that measures all there is, in a process of its own."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "EZM_CACHE": str(folder / "cache")}
    suite = "dmc:" + ",".join(TASKS)
    command = [sys.executable, "-m", "ezm", "train", suite, *OPTIONS.split()]
    done = subprocess.run(
        [*command, "--out", str(folder / "run")],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read_metrics(folder / "run" / "metrics.jsonl")


def documented() -> dict[str, dict[str, str]]:
    """The last cell of each column's line, by the heading above it and the column's name."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    heading = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif match := re.match(r"\| `([^`]+)` \|", line):
            found[heading][match[1]] = line.removesuffix("|").rpartition("|")[2]
    return found


def column(name: str) -> str:
    """A column as the page names it."""
    for task in TASKS:
        name = name.replace(task, "TASK")
    return re.sub("^time/.*", "time/SECTION", name)


def test_every_kind_and_column_is_documented_and_occurs(rows: list[dict[str, Any]]) -> None:
    page = documented()
    everywhere = set(page["What a run measures"])
    assert everywhere == {"kind", "step", "seconds"}
    measured: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        measured[row["kind"]] |= {column(name) for name in row} - everywhere
    kinds = {heading for heading in page if heading.islower()}
    assert kinds == set(measured)
    for kind in kinds:
        assert set(page[kind]) == measured[kind], kind


def test_every_row_has_all_columns_of_its_kind(rows: list[dict[str, Any]]) -> None:
    page = documented()
    for row in rows:
        assert {column(name) for name in row} == {*page[row["kind"]], "kind", "step", "seconds"}


def test_tags_are_as_documented(rows: list[dict[str, Any]]) -> None:
    tags = {column(tag) for row in rows for tag in scalars(row)}
    cells = [
        cell
        for kind in ("episode", "train", "eval", "diagnostic")
        for cell in documented()[kind].values()
    ]
    assert tags == {tag for cell in cells for tag in re.findall(r"`([^`]+)`", cell)}


def test_options_that_the_page_names_exist() -> None:
    """So that its advice can be followed."""
    config = PRESETS["cpu"]
    names = {"--resume", "--wandb", "--logdir"}
    names |= {f"--{name}" for name, *_ in named_values(config)}
    named = re.findall(r"`(?:[^`]* )?(--[a-z.-]+)", PAGE)
    assert len(named) > 10
    assert {option.replace(".no-", ".") for option in named} <= names
