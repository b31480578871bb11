"""How fast training is: the library's engine against a straightforward one of the same algorithm.

``python -m benchmarks.throughput`` trains each preset with both, in processes of their own that take turns: acting and
learning in the preset's ratio, evaluations, logs and checkpoints left out. The straightforward version is
``benchmarks/straightforward.py``. Before that the replay is filled with random steps. What is compiled, and one step
of the loop before each turn, are not timed.

On a GPU it also says which share of the device's peak in matrix products is used, and how long the Medium suite of
HumanoidBench would take.
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
from ezm.config import TrainConfig
from ezm.errors import UserError
from ezm.learning import Normalizer, build
from ezm.learning.normalizer import RunningStatistics
from ezm.presets import defaults
from ezm.replay import Replay
from ezm.tasks import ParallelTasks, Suite
from ezm.training.actor import Actor
from ezm.training.machine import machine, peak_memory
from ezm.training.pipeline import Pipeline
from ezm.training.runs import suite_of
from ezm.validation import check

SUITES = {"cpu": "cartpole", "paper": "h1"}
"""What each preset is timed on."""
FILLED = 2_000
"""Random steps per task in the replay beforehand."""
MEDIUM_STEPS = 850_000
"""Per task, of the published results on the Medium suite."""
_NORMALIZER_EVERY = 25


class Row(TypedDict):
    """Medians over the turns."""

    preset: str
    variant: str
    updates_per_s: float
    env_steps_per_s: float
    """Of all tasks together."""
    peak_memory_mib: float
    """Resident memory of the process, compilation included."""


@dataclass(frozen=True)
class Options:
    """Time the training."""

    preset: str = "all"
    """cpu, paper or all."""
    suite: str | None = None
    """Default: cartpole with cpu, h1 with paper."""
    seconds: float = 60.0
    """For all turns of one variant, about; at least one update a turn."""
    turns: int = 3
    """Of each variant."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table; the rest to the standard error."""


class Engine(Protocol):
    """What training does in turn, and what it fills."""

    @property
    def replay(self) -> Any: ...

    @property
    def statistics(self) -> RunningStatistics: ...

    def step(
        self, normalizer: Normalizer, observation: np.ndarray, task: np.ndarray, updates: int
    ) -> np.ndarray:
        """So many updates, and an action for each observation."""
        ...


class _Parts(NamedTuple):
    replay: Replay
    statistics: RunningStatistics
    step: Callable[[Normalizer, np.ndarray, np.ndarray, int], np.ndarray]


def _ours(config: TrainConfig, suite: Suite) -> Engine:
    """The library's engine, driven as ``ezm.training.trainer`` does: actions are those of the parameters before the
    updates.
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
        action, searches = actor.explore(pipeline.state, normalizer, observation, task)
        if updates:
            if not pipeline.compiled:
                pipeline.compile(normalizer, updates)
            pipeline.step(normalizer, updates)
        assert searches is not None  # both presets act with the search
        replay.store(task, replay.rows[task] - 1, searches, pipeline.updates)
        return np.asarray(action)

    return _Parts(replay, agent.statistics, step)


def _on_device(config: TrainConfig, suite: Suite) -> Engine:
    """The same, with the replay's rows on the device."""
    return _ours(replace(config, replay=replace(config.replay, device=True)), suite)


def _uncached(config: TrainConfig, suite: Suite) -> Engine:
    """The same, which searches every state of every batch anew."""
    return _ours(replace(config, loss=replace(config.loss, reanalyze_ratio=1.0)), suite)


VARIANTS: dict[str, Callable[[TrainConfig, Suite], Engine]] = {
    "ours": _ours,
    "rows on the device": _on_device,
    "uncached": _uncached,
    "straightforward": Straightforward,
    "straightforward, mixed": partial(Straightforward, precision="auto"),
}
"""Mixed: in the precision that ours has."""


class Training:
    """An engine in its environments. Once it is built its replay is filled, and nothing is compiled."""

    def __init__(self, engine: Engine, config: TrainConfig, suite: Suite) -> None:
        self.updates = self.steps = 0
        """Steps: per task, behind those that filled the replay."""
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
        """The updates that the fixed ratio owes, and an environment step of every task.

        The last update may still be under way when it ends.
        """
        self.steps += 1
        owed = int(self.steps * self._config.updates_per_step) - self.updates
        observation, tasks = self._environments.observation, self._environments.task_ids
        self._take(self._engine.step(self._normalizer, observation, tasks, owed))
        self.updates += owed
        if self.steps % _NORMALIZER_EVERY == 0:
            self._normalizer = self._engine.statistics.normalizer()

    def turn(self, seconds: float) -> Turn:
        """Steps until the seconds have passed and there was an update. The first one is not timed.

        What another thread does for the next update is then as far as it is at the end.
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
    """What one turn came to."""

    updates: int
    env_steps: int
    seconds: float
    peak_memory_mib: float


class Gpu(NamedTuple):
    """What the device can do, and what our update asks of it."""

    bfloat16: float
    float32: float
    """Floating-point operations per second, in matrix products."""
    update_flops: float


class Start(NamedTuple):
    """What a worker says before its first turn."""

    machine: dict[str, Any]
    seconds: float
    """Until everything was compiled and the first update done."""
    gpu: Gpu | None
    """Of ours, where there is one."""


def config_of(preset: str, suite: str | None) -> TrainConfig:
    """The preset as ``ezm train SUITE --preset PRESET`` has it."""
    suite = suite or SUITES[preset]
    return replace(defaults(preset, suite), suite=suite)


def work(pipe: Connection, variant: str, config: TrainConfig) -> None:
    """A variant's process: sends a :class:`Start`, then a :class:`Turn` for each number of seconds received."""
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
        with suppress(BrokenPipeError):  # it failed, and has said so
            self._pipe.send(None)
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise UserError(f"{self._label} failed: see above") from error


# -- the device's limits -------------------------------------------------------------------


def hours(config: TrainConfig, steps: int, updates_per_s: float) -> float:
    """Hours of training for so many steps per task, at that many updates a second."""
    return config.updates_by(steps) / updates_per_s / 3600


def share_of_peak(update_flops: float, updates_per_s: float, peak: float) -> float:
    """Which part of ``peak`` operations a second the updates make up."""
    return update_flops * updates_per_s / peak


def measure_gpu(config: TrainConfig, suite: Suite, engine: Engine) -> Gpu:
    """The device's peak, and the operations of one update with the targets of its whole batch.

    They are counted before the compiler changes anything: on a GPU, compiled matrix products are calls of a library,
    which the analysis takes for nothing (jax issue 22249). Passes of a loop count once; our search has none there.
    """
    agent = build(config, suite)
    normalizer = engine.statistics.normalizer()
    batch, _ = engine.replay.sample(np.random.default_rng(0), config.optimizer.batch_size)
    learner, state = agent.learner, agent.state
    targets = jax.jit(learner.make_targets).lower(state, normalizer, batch, jnp.int32(0))
    update = jax.jit(learner.update).lower(state, normalizer, batch, targets.out_info)
    analyses: list[Any] = [program.cost_analysis() for program in (targets, update)]
    flops = sum(float(analysis["flops"]) for analysis in analyses)
    return Gpu(matmul_peak(jnp.bfloat16), matmul_peak(jnp.float32), flops)


def matmul_peak(kind: Any, size: int = 8192, products: int = 16, repeats: int = 5) -> float:
    """Operations a second of products of large square matrices: the fastest of some chains."""

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
    """A row for each preset and variant; ``note`` takes a line of what else is worth knowing.

    Raises:
        UserError: an unknown preset or suite, or numbers that make no turn.
    """
    if options.preset not in (*SUITES, "all"):
        raise UserError(f"--preset {options.preset}: there are {', '.join(SUITES)} and all")
    if options.turns < 1 or not options.seconds > 0:
        raise UserError("--turns must be at least 1 and --seconds greater than 0")
    # Two processes share a GPU: neither may take all of its memory.
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
    """What the turns came to."""
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
    """How much of the device is used, and how long the Medium suite would take."""
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
    """The rows, with the ratio of ours to the straightforward version's pace."""
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
    """Print the table that ``options`` describe."""
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
