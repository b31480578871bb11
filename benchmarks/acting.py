"""Comparison of ways of acting in evaluations: the returns of one checkpoint under each.

``python -m benchmarks.acting RUN --episodes 20`` prints the mean and the 95 % interval of each task's return. All ways
of acting see the same episodes' starts. They are:

- the policy's mean,
- a sample of the policy,
- the search as in training,
- the search among near candidates,
- the search with the policy's mean among its candidates,
- the search with 64 candidates,
- the search near the policy after MPPI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.acting.actor import Actor
from ezm.acting.evaluate import derived_seed, episodes
from ezm.acting.load import load_agent
from ezm.config import MppiConfig, PlannerConfig
from ezm.runs.folder import RunFolder
from ezm.statistics.intervals import mean_interval


@dataclass(frozen=True)
class Options:
    """Compare ways of acting with one checkpoint."""

    run: tyro.conf.Positional[Path]
    """The folder of a run."""
    episodes: int = 20
    """Episodes of each task for each way of acting."""
    seed: int = 0
    """Seed of the episodes and of the search."""
    leaf_rollout: tuple[int, ...] = ()
    """Leaf rollouts for further variants of the search as in training."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def ways(planner: PlannerConfig, leaf_rollouts: Sequence[int]) -> dict[str, Any]:
    """Returns the ways of acting by name: an acting mode, or the planner of a search."""
    training = replace(planner, evaluation_spread=None)
    near = replace(training, policy_actions=1, spread=0.3)
    found: dict[str, Any] = {
        "mean": "policy",
        "sample": "sample",
        "search as in training": training,
        "search, near (spread 0.3)": near,
        "search, mean among": replace(training, include_mean=True),
        "search, 64 candidates": replace(training, root_actions=64, simulations=64),
        "MPPI 3 x 64, search near": replace(
            near, mppi=MppiConfig(rounds=3, samples=64), include_mean=True, leaf_rollout=1
        ),
    }
    for steps in leaf_rollouts:
        found[f"search, leaf rollout {steps}"] = replace(training, leaf_rollout=steps)
    return found


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Yields a row for each task and way of acting."""
    agent, step = load_agent(RunFolder.open(options.run))
    learner, suite = agent.learner, agent.suite
    for name, way in ways(learner.config.planner, options.leaf_rollout).items():
        mode: Any = way if isinstance(way, str) else "search"
        planner = learner.config.planner if isinstance(way, str) else way
        changed = replace(learner, config=replace(learner.config, planner=planner))
        actor = Actor(changed, 0)
        act = actor.policy(agent.parameters, mode)
        for index, task in enumerate(suite.task_names):
            actor.reseed(derived_seed(options.seed, task))
            returns = episodes(suite, index, act, options.episodes, options.seed).returns
            yield {
                "step": step,
                "task": task,
                "acting": name,
                "returns": [float(value) for value in returns],
            }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Makes a table with a row for each way of acting and a column for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    shown = Table("acting", *tasks)
    for acting in dict.fromkeys(row["acting"] for row in rows):
        of = {row["task"]: row["returns"] for row in rows if row["acting"] == acting}
        shown.add_row(acting, *(str(mean_interval(of[task])) for task in tasks))
    return shown


def main(options: Options) -> None:
    """Prints the table."""
    show(list(measure(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
