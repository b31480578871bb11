"""Fingerprints of short trainings, to show that a change of the code does not change learning.

``python -m benchmarks.golden`` trains cartpole, walker and h1-stand for 300 updates each with a fixed seed. It
prints a digest of the trained parameters and a digest of the recorded losses and returns. Two commits learn
alike on one machine if both digests agree. Digests of different processors differ, and digests of different
numbers of cores may differ. ``taskset -c 0`` fixes the number of cores.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import tyro

from benchmarks.command import command
from ezm.acting.load import load_agent
from ezm.config.presets import defaults
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import read_metrics

UPDATES = 300


@dataclass(frozen=True)
class Options:
    """Train briefly and print digests of parameters and metrics."""

    suites: tyro.conf.Positional[tuple[str, ...]] = ("cartpole", "walker", "h1-stand")
    """Suites, as for `ezm train`."""


def digests(suite: str) -> tuple[str, str]:
    """Returns the digests of the parameters and of the metrics after :data:`UPDATES` updates."""
    config = defaults("cpu", suite)
    steps = config.random_steps + round(UPDATES / config.updates_per_step)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        arguments = [suite, "--preset", "cpu", "--steps", str(steps)]
        arguments += ["--final-episodes", "1", "--out", str(out)]
        subprocess.run(
            [sys.executable, "-m", "ezm", "train", *arguments], check=True, stdout=sys.stderr
        )
        run = RunFolder.open(out)
        agent, _ = load_agent(run)
        metrics = list(read_metrics(run.metrics_path))
    parameters = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(agent.state.model, eqx.is_inexact_array)):
        parameters.update(np.asarray(leaf).tobytes())
    learned = hashlib.sha256()
    for row in metrics:
        if row["kind"] in ("train", "episode"):
            kept = {k: v for k, v in row.items() if k != "seconds" and not k.startswith("time/")}
            learned.update(json.dumps(kept, sort_keys=True).encode())
    return parameters.hexdigest()[:16], learned.hexdigest()[:16]


def main(options: Options) -> None:
    """Prints a line for each suite."""
    for suite in options.suites:
        parameters, metrics = digests(suite)
        print(f"{suite:12} parameters {parameters}  metrics {metrics}", flush=True)


if __name__ == "__main__":
    command(main, Options, __doc__)
