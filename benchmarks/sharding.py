"""Cost of splitting the learner over devices: times of its programs on virtual devices of the CPU.

``python -m benchmarks.sharding`` times the preset cpu with random data of the cartpole suite's size. Each number of
devices has a separate process, because XLA reads its flags once. Virtual devices share the same cores. So the times
show the cost of splitting, not the gain from more devices. Times are medians without compilation.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.acting.load import suite_of
from ezm.agent import build
from ezm.agent.learning.sharding import layout
from ezm.config.presets import defaults
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.experience import Replay
from ezm.training.pipeline import programs

SUITE = "cartpole"
FILLED = 500
"""Number of random transitions per task in the replay."""


class Row(TypedDict):
    devices: int
    update_ms: float
    targets_ms: float


@dataclass(frozen=True)
class Options:
    """Time the learner on several devices."""

    devices: tuple[int, ...] = (1, 2, 8)
    repeats: int = 30
    """Calls of each program."""
    inside: Flag = False
    """Measure in this process, for one number of devices. The benchmark starts its processes with this option."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Returns the median time of a call until its results are ready."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 2)


def row(devices: int, repeats: int) -> Row:
    """Returns the times in this process."""
    config = replace(defaults("cpu", SUITE), suite=SUITE, devices=devices)
    suite = suite_of(config)
    check(config, suite.num_tasks)
    agent = build(config, suite)
    loss, sizes = config.loss, (suite.observation_size, suite.action_size)
    window, kept = loss.unroll + loss.n_step, agent.learner.config.kept_actions
    small = replace(config.replay, capacity=2 * FILLED)
    replay = Replay(suite.num_tasks, *sizes, small, window, loss.unroll + 1, kept)
    rng = np.random.default_rng(0)
    for task in range(suite.num_tasks):
        replay.begin(task, rng.normal(size=sizes[0]))
        for _ in range(FILLED):
            action, observation = rng.uniform(-1, 1, sizes[1]), rng.normal(size=sizes[0])
            replay.add(task, action, rng.uniform(), observation, False, False)
    size = config.optimizer.batch_size
    batch, _ = replay.sample(rng, size, loss.reanalysed(size))
    state, normalizer = agent.state, agent.statistics.normalizer()
    where = layout(devices) if devices > 1 else None
    make_targets = programs(agent.learner, state, where)[0]
    update = jax.jit(agent.learner.update)
    if where is not None:
        state, normalizer = jax.device_put((state, normalizer), where.whole)
        batch = jax.device_put(batch, where.batch)
    leaves = jax.tree.leaves(replace(state, optimizer=None))
    targets = make_targets(leaves, normalizer, batch, jnp.int32(0))
    return Row(
        devices=devices,
        update_ms=milliseconds(lambda: update(state, normalizer, batch, targets), repeats),
        targets_ms=milliseconds(
            lambda: make_targets(leaves, normalizer, batch, jnp.int32(0)), repeats
        ),
    )


def apart(devices: int, repeats: int) -> Row:
    """Returns the times in a new process with ``devices`` devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    arguments = [f"--devices={devices}", f"--repeats={repeats}", "--inside", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sharding", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"the process with {devices} devices failed: see above")
    measured: Row = json.loads(done.stdout)
    return measured


def measure(options: Options) -> list[Row]:
    """Returns a row for each number of devices.

    Raises:
        UserError: there is nothing to measure, or a process failed.
    """
    if not options.devices or min(options.devices) < 1:
        raise UserError(f"--devices {options.devices}: numbers of devices, each at least 1")
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: must be at least 1")
    timed = row if options.inside else apart
    return [timed(devices, options.repeats) for devices in options.devices]


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title=f"the learner of preset cpu on {SUITE}", title_justify="left")
    for head in ("devices", "update, ms", "targets, ms"):
        shown.add_column(head, justify="right")
    for each in rows:
        cells = (each["update_ms"], each["targets_ms"])
        shown.add_row(str(each["devices"]), *(f"{cell:.1f}" for cell in cells))
    return shown


def main(options: Options) -> None:
    """Prints the table that ``options`` describe."""
    show(measure(options), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
