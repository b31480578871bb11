"""What a run is compared with: random actions, SAC after as many environment steps, a benchmark's success bar."""

from __future__ import annotations

import json
from pathlib import Path

from ezm.evaluation.figures import Reference, Rows, evaluations, tasks_of
from ezm.evaluation.statistics import mean_interval
from ezm.tasks.humanoid_bench import NAMES, success_bar

RECORDED = Path(__file__).with_name("recorded.json")
"""SAC's returns: suite -> task -> {"sac": mean return, "steps": environment steps per task}."""


def reference(suite: str, metrics: Rows, steps: int) -> Reference:
    """Returns to stand beside a run's own.

    Args:
        suite: the run's suite by name.
        metrics: its rows; they hold the evaluation of random actions.
        steps: environment steps per task of the whole run. SAC recorded at any other number of
            steps is left out: it would be no fair comparison.

    Returns:
        task -> {"random": mean return, "sac": mean return, "bar": HumanoidBench's success bar}, any of
        them may be missing.
    """
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    found: dict[str, dict[str, float]] = {}
    for task in tasks_of(metrics):
        found[task] = {}
        random = evaluations(metrics, task, "random")
        if random:
            found[task]["random"] = mean_interval(random[max(random)]).mean
        sac = recorded.get(suite, {}).get(task)
        if sac is not None and sac["steps"] == steps:
            found[task]["sac"] = sac["sac"]
        if task in NAMES:
            found[task]["bar"] = success_bar(task)
    return found
