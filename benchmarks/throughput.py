"""Speed of training: the library's engine against a straightforward engine of the same algorithm.

``python -m benchmarks.throughput`` trains each preset with both engines, in separate processes that take turns. They
act and learn in the preset's ratio, without evaluations, logs and checkpoints. The straightforward version is
``benchmarks/straightforward.py``. Random steps fill the replay first. Compilation, and one step of the loop before each
turn, are not timed.

On a GPU it also prints the used share of the device's peak in matrix products, and the time for HumanoidBench's Medium
suite.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command import Flag, command
from benchmarks.straightforward import Straightforward
from ezm.acting.actor import Actor
from ezm.acting.load import suite_of
from ezm.agent import build
from ezm.agent.learning import Normalizer
from ezm.agent.learning.normalizer import RunningStatistics
from ezm.agent.search_policy import ActingParameters
from ezm.config import TrainConfig
from ezm.config.presets import defaults
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.experience import Replay
from ezm.runs.machine import machine, peak_memory
from ezm.tasks import ParallelTasks, Suite
from ezm.training.pipeline import Pipeline

SUITES = {"cpu": "cartpole", "paper": "h1"}
"""Suite for timing each preset."""
FILLED = 2_000
"""Number of random steps per task that fill the replay first."""
MEDIUM_STEPS = 850_000
"""Steps per task of the published results on the Medium suite."""
_NORMALIZER_EVERY = 25


class Row(TypedDict):
    """Medians over the turns."""

    preset: str
    variant: str
    updates_per_s: float
    env_steps_per_s: float
    """Environment steps per second of all tasks together."""
    peak_memory_mib: float
    """Peak resident memory of the process, compilation included."""


@dataclass(frozen=True)
class Options:
    """Time the training."""

    preset: str = "all"
    """The preset: cpu, paper or all."""
    suite: str | None = None
    """The suite. The default is cartpole with cpu, and h1 with paper."""
    seconds: float = 60.0
    """Approximate seconds for all turns of one variant. A turn has at least one update."""
    turns: int = 3
    """Turns of each variant."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table. Everything else goes to standard error."""


class Engine(Protocol):
    """An implementation of acting and learning, with the replay and statistics that training fills."""

    @property
    def replay(self) -> Any: ...

    @property
    def statistics(self) -> RunningStatistics: ...

    def step(
        self, normalizer: Normalizer, observation: np.ndarray, task: np.ndarray, updates: int
    ) -> np.ndarray:
        """Makes ``updates`` updates, and returns an action for each observation."""
        ...


class _Parts(NamedTuple):
    replay: Replay
    statistics: RunningStatistics
    step: Callable[[Normalizer, np.ndarray, np.ndarray, int], np.ndarray]


def _ours(config: TrainConfig, suite: Suite) -> Engine:
    """Returns the library's engine, driven as in ``ezm.training.trainer``.

    Actions come from the parameters before the updates.
    """
    agent = build(config, suite)
    capacity = min(config.replay.capacity, max(config.steps, 2 * FILLED))
    replay = Replay(
        suite.num_tasks,
        suite.observation_size,
        suite.action_size,
        replace(config.replay, capacity=capacity),
        window=config.loss.unroll + config.loss.n_step,
        states=config.loss.unroll + 1,
        root_actions=agent.learner.config.kept_actions,
    )
    pipeline = Pipeline(agent.learner, agent.state, replay, np.random.default_rng(config.seed))
    actor = Actor(agent.learner, config.seed)

    def step(
        normalizer: Normalizer, observation: np.ndarray, task: np.ndarray, updates: int
    ) -> np.ndarray:
        state = pipeline.acting
        parameters = ActingParameters(state.model, normalizer, state.q_range, state.updates)
        action, searches = actor.explore(parameters, observation, task, np.zeros(len(task), bool))
        if updates:
            pipeline.step(normalizer, updates)
        assert searches is not None  # both presets act with the search
        replay.store(task, replay.rows[task] - 1, searches, pipeline.updates)
        return np.asarray(action)

    return _Parts(replay, agent.statistics, step)


def _on_device(config: TrainConfig, suite: Suite) -> Engine:
    """Returns the library's engine with the replay's rows on the device."""
    return _ours(replace(config, replay=replace(config.replay, device=True)), suite)


def _uncached(config: TrainConfig, suite: Suite) -> Engine:
    """Returns the library's engine with every state of every batch reanalysed."""
    return _ours(replace(config, loss=replace(config.loss, reanalyze_ratio=1.0)), suite)


VARIANTS: dict[str, Callable[[TrainConfig, Suite], Engine]] = {
    "ours": _ours,
    "rows on the device": _on_device,
    "uncached": _uncached,
    "straightforward": Straightforward,
    "straightforward, mixed": partial(Straightforward, precision="auto"),
}
"""Engines by name. The mixed version has the precision of ours."""


class Training:
    """An engine in its environments. After ``__init__`` its replay is filled, and nothing is compiled."""

    def __init__(self, engine: Engine, config: TrainConfig, suite: Suite) -> None:
        self.updates = self.steps = 0
        """Updates, and steps per task, after the steps that filled the replay."""
        self._engine, self._config = engine, config
        self._environments = ParallelTasks(suite, config.seed)
        self._rng = np.random.default_rng(config.seed)
        for task, observation in enumerate(self._environments.reset()):
            self._begin(task, observation)
        for _ in range(FILLED):
            action = self._rng.uniform(-1.0, 1.0, (suite.num_tasks, suite.action_size))
            self._take(action.astype(np.float32) * suite.action_mask)
        self._normalizer = engine.statistics.normalizer()

    def step(self) -> None:
        """Makes the updates that are due, and an environment step of every task.

        The last update may still be under way when this returns.
        """
        self.steps += 1
        owed = int(self.steps * self._config.updates_per_step) - self.updates
        observation, tasks = self._environments.observation, self._environments.task_ids
        self._take(self._engine.step(self._normalizer, observation, tasks, owed))
        self.updates += owed
        if self.steps % _NORMALIZER_EVERY == 0:
            self._normalizer = self._engine.statistics.normalizer()

    def turn(self, seconds: float) -> Turn:
        """Makes steps until the seconds have passed and there was an update. The first step is not timed.

        Other threads' work for the next update is therefore as advanced at the beginning as at the end.
        """
        self.step()
        updates, steps = self.updates, self.steps
        start = time.perf_counter()
        while self.updates == updates or time.perf_counter() < start + seconds:
            self.step()
        taken = time.perf_counter() - start
        env_steps = (self.steps - steps) * len(self._environments.task_ids)
        return Turn(self.updates - updates, env_steps, taken, peak_memory())

    def close(self) -> None:
        self._environments.close()

    def _take(self, action: np.ndarray) -> None:
        result = self._environments.step(action)
        for task in range(len(action)):
            following, reward = result.next_observation[task], float(result.reward[task])
            ends = bool(result.terminated[task]), bool(result.truncated[task])
            self._engine.replay.add(task, action[task], reward, following, *ends)
            self._engine.statistics.add(task, following)
            if any(ends):
                self._begin(task, result.observation[task])

    def _begin(self, task: int, observation: np.ndarray) -> None:
        self._engine.replay.begin(task, observation)
        self._engine.statistics.add(task, observation)


class Turn(NamedTuple):
    """Measurements of one turn."""

    updates: int
    env_steps: int
    seconds: float
    peak_memory_mib: float


class Gpu(NamedTuple):
    """The device's peak rates, and the operations of our update."""

    bfloat16: float
    float32: float
    """Peak floating-point operations per second, in matrix products of this precision."""
    update_flops: float


class Start(NamedTuple):
    """A worker's message before its first turn."""

    machine: dict[str, Any]
    seconds: float
    """Seconds until everything was compiled and the first update was done."""
    gpu: Gpu | None
    """Figures of the GPU, from the variant "ours" on a GPU only."""


def config_of(preset: str, suite: str | None) -> TrainConfig:
    """Returns the configuration of ``ezm train SUITE --preset PRESET``."""
    suite = suite or SUITES[preset]
    return replace(defaults(preset, suite), suite=suite)


def work(pipe: Connection, variant: str, config: TrainConfig) -> None:
    """Runs a variant's process. It sends a :class:`Start`, then a :class:`Turn` for each number of seconds received."""
    suite = suite_of(config)
    engine = VARIANTS[variant](config, suite)
    with closing(Training(engine, config, suite)) as training:
        start = time.perf_counter()
        while not training.updates:
            training.step()
        taken = time.perf_counter() - start
        gpu = None
        if variant == "ours" and jax.default_backend() == "gpu":
            gpu = measure_gpu(config, suite, engine)
        pipe.send(Start(machine(), taken, gpu))
        while (seconds := pipe.recv()) is not None:
            pipe.send(training.turn(seconds))


class Worker:
    """The parent's side of :func:`work`."""

    def __init__(self, variant: str, config: TrainConfig) -> None:
        self._label = f"{variant} with preset {config.preset} on {config.suite}"
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, variant, config), daemon=True)
        self._process.start()
        theirs.close()
        self.start: Start = self._receive()
        self.turns: list[Turn] = []

    def turn(self, seconds: float) -> None:
        self._pipe.send(seconds)
        self.turns.append(self._receive())

    def close(self) -> None:
        with suppress(BrokenPipeError):  # the process failed, and has said so
            self._pipe.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise UserError(f"{self._label} failed: see above") from error


# -- the device's limits -------------------------------------------------------------------


def hours(config: TrainConfig, steps: int, updates_per_s: float) -> float:
    """Returns the hours of training for ``steps`` steps per task, at ``updates_per_s`` updates per second."""
    return config.updates_by(steps) / updates_per_s / 3600


def share_of_peak(update_flops: float, updates_per_s: float, peak: float) -> float:
    """Returns the updates' operations per second as a fraction of ``peak``."""
    return update_flops * updates_per_s / peak


def measure_gpu(config: TrainConfig, suite: Suite, engine: Engine) -> Gpu:
    """Returns the device's peak, and the operations of one update with its targets, reanalysis included.

    Operations are counted before compilation. On a GPU, compiled matrix products are library calls, which the analysis
    counts as nothing (jax issue 22249). The passes of a loop count once, but our search has no loop there.
    """
    agent = build(config, suite)
    normalizer = engine.statistics.normalizer()
    size = config.optimizer.batch_size
    reanalysed = config.loss.reanalysed(size)
    batch, _ = engine.replay.sample(np.random.default_rng(0), size, reanalysed)
    learner, state = agent.learner, agent.state
    targets = jax.jit(learner.make_targets).lower(state, normalizer, batch, jnp.int32(0))
    update = jax.jit(learner.update).lower(state, normalizer, batch, targets.out_info)
    analyses: list[Any] = [program.cost_analysis() for program in (targets, update)]
    flops = sum(float(analysis["flops"]) for analysis in analyses)
    return Gpu(matmul_peak(jnp.bfloat16), matmul_peak(jnp.float32), flops)


def matmul_peak(kind: Any, size: int = 8192, products: int = 16, repeats: int = 5) -> float:
    """Returns the operations per second in products of large square matrices, of the fastest of ``repeats`` chains."""

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        y = x
        for _ in range(products):
            y = y @ x
        return y

    x = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(kind)
    jax.block_until_ready(chain(x))
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(chain(x))
        taken.append(time.perf_counter() - start)
    return 2.0 * size**3 * products / min(taken)


# -- rows ----------------------------------------------------------------------------------


def measure(options: Options, note: Callable[[str], None]) -> Iterator[Row]:
    """Yields a row for each preset and variant. ``note`` receives a line with further information.

    Raises:
        UserError: a preset or suite is unknown, or the numbers make no turn.
    """
    if options.preset not in (*SUITES, "all"):
        raise UserError(f"--preset {options.preset}: there are {', '.join(SUITES)} and all")
    if options.turns < 1 or not options.seconds > 0:
        raise UserError("--turns must be at least 1 and --seconds greater than 0")
    # Several processes share a GPU, so none may take all of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("MUJOCO_GL", "disabled")
    for preset in SUITES if options.preset == "all" else (options.preset,):
        config = config_of(preset, options.suite)
        check(config, suite_of(config).num_tasks)
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(closing(Worker(name, config))) for name in VARIANTS
            }
            note(f"{preset} on {config.suite}: {json.dumps(workers['ours'].start.machine)}")
            for _ in range(options.turns):
                for worker in workers.values():
                    worker.turn(options.seconds / options.turns)
            rows = [row_of(preset, name, worker.turns) for name, worker in workers.items()]
        for row, worker in zip(rows, workers.values(), strict=True):
            note(f"{row['variant']}: {_describe(worker)}")
            yield row
        if (gpu := workers["ours"].start.gpu) is not None:
            for line in gpu_notes(config, rows, gpu):
                note(line)


def row_of(preset: str, variant: str, turns: Sequence[Turn]) -> Row:
    """Returns the row of the turns: medians of their rates, and the peak memory."""
    return Row(
        preset=preset,
        variant=variant,
        updates_per_s=_rounded([turn.updates / turn.seconds for turn in turns]),
        env_steps_per_s=_rounded([turn.env_steps / turn.seconds for turn in turns]),
        peak_memory_mib=round(turns[-1].peak_memory_mib, 1),
    )


def _rounded(rates: list[float]) -> float:
    return float(f"{np.median(rates):.4g}")


def _describe(worker: Worker) -> str:
    updates, seconds = ([turn[i] for turn in worker.turns] for i in (0, 2))
    return (
        f"{sum(updates)} updates timed, in turns of {', '.join(f'{s:.1f}' for s in seconds)} s; "
        f"{worker.start.seconds:.1f} s for compilation and the first update"
    )


def gpu_notes(config: TrainConfig, rows: Sequence[Row], gpu: Gpu) -> Iterator[str]:
    """Yields lines on the used share of the device, and on the time for the Medium suite."""
    ours = next(row for row in rows if row["variant"] == "ours")
    for name, peak in (("bfloat16", gpu.bfloat16), ("float32", gpu.float32)):
        share = share_of_peak(gpu.update_flops, ours["updates_per_s"], peak)
        yield (
            f"ours: {gpu.update_flops:.3g} operations an update are {share:.2%} of the peak of "
            f"{peak / 1e12:.4g} Tflop/s in products of {name} matrices"
        )
    for row in rows:
        projected = hours(config, MEDIUM_STEPS, row["updates_per_s"])
        yield f"{row['variant']}: {projected:.1f} h for {MEDIUM_STEPS:,} steps per task"


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of the rows, with the ratio of our pace to the straightforward version's pace."""
    shown = Table(title="training, evaluations left out", title_justify="left")
    heads = ("preset", "variant", "updates / s", "env steps / s", "peak MiB", "ratio")
    for head in heads:
        shown.add_column(head, justify="left" if head in heads[:2] else "right")
    plain = {row["preset"]: row for row in rows if row["variant"] == "straightforward"}
    for row in rows:
        shown.add_row(
            row["preset"],
            row["variant"],
            f"{row['updates_per_s']:.4g}",
            f"{row['env_steps_per_s']:.4g}",
            f"{row['peak_memory_mib']:,.0f}",
            f"{row['updates_per_s'] / plain[row['preset']]['updates_per_s']:.2f}",
        )
    return shown


def main(options: Options) -> None:
    """Prints the table that ``options`` describe."""
    console = Console(stderr=options.json)

    def note(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    rows = []
    for row in measure(options, note):
        rows.append(row)
        if options.json:
            print(json.dumps(row), flush=True)
    if not options.json:
        console.print(table(rows))


if __name__ == "__main__":
    command(main, Options, __doc__)
