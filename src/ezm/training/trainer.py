"""The training run: acting and learning in a fixed ratio, recorded in a run folder."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ezm
from ezm.acting.actor import Actor
from ezm.acting.collector import Collector, Experience
from ezm.acting.diagnostics import Diagnostic
from ezm.acting.evaluate import Act, Evaluator, Mode, random_policy
from ezm.acting.load import take_over
from ezm.agent import build
from ezm.agent.learning import Normalizer
from ezm.agent.search_policy import ActingParameters
from ezm.config import TrainConfig
from ezm.errors import Diverged, UserError
from ezm.experience import Replay, RowSizes
from ezm.platform import at_interrupt
from ezm.runs.folder import Checkpoint, RunFolder
from ezm.runs.machine import machine
from ezm.runs.metrics import MetricsLogger
from ezm.tasks import ParallelTasks, Suite
from ezm.training.display import Display
from ezm.training.memory import Memory, has_own_memory, planned, size
from ezm.training.pipeline import Pipeline, Updates
from ezm.training.sink import ReplaySink

_NORMALIZER_EVERY = 25  # steps per task between two refreshes of the normaliser
EVALUATED: tuple[Mode, ...] = ("search", "policy")
"""Modes of acting in evaluations. The difference shows what the search adds to the policy."""
_LOG_EVERY = 50  # steps per task between two rows of losses


class Trainer:
    """One run: its agent, replay, environments and counters.

    Args:
        config: the whole configuration.
        suite: the tasks to train on.
        run: the (locked) folder that records the run.
        metrics: logs the figures.
        display: shows the progress.
    """

    def __init__(
        self,
        config: TrainConfig,
        suite: Suite,
        run: RunFolder,
        metrics: MetricsLogger,
        display: Display,
    ):
        self.config, self.suite, self.run = config, suite, run
        self.metrics, self.display = metrics, display
        self.agent = build(config, suite)
        rows = replay_rows(config, suite)
        self.memory = memory_of(config, suite, self.agent.state.model.num_parameters())
        """Memory that the run will take."""
        self.replay = Replay(
            suite.num_tasks,
            suite.observation_size,
            suite.action_size,
            replace(config.replay, capacity=rows),
            window=config.loss.unroll + config.loss.n_step,
            states=config.loss.unroll + 1,
            root_actions=config.kept_actions,
        )
        self.rng = np.random.default_rng(config.seed)
        self.step = 0  # environment steps per task
        self._seconds_before = 0.0
        self._stop = False
        self._ready = False
        """Whether all programs are compiled."""
        self._checkpoint: Checkpoint | None = None
        """The checkpoint to resume from, until the run has resumed."""

    # -- the run ---------------------------------------------------------------------------

    def train(self) -> bool:
        """Trains to the configured number of steps. Returns False if Ctrl-C stopped the run earlier.

        Whatever ends the loop, the run's state is saved first. An exception may come in the middle of a step, so the
        environments are then not saved, and a resumed run begins new episodes.

        Raises:
            UserError: an environment failed, or a checkpoint cannot be written.
            Diverged: a loss, a gradient or an action is not finite. The saved state is the last finite state.
        """
        self._started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(at_interrupt(self._stop_soon))
            self._open(stack)
            stack.callback(self._pipeline.close)
            stack.callback(self._compiling.result)
            try:
                self._loop()
                self.save()
            except Diverged as error:
                raise self._keep_what_was_finite(error) from None
            except BaseException:
                self.save(environments=False)
                raise
            if self._stop:
                return False
            self._evaluate(self.config.final_episodes, modes=EVALUATED)
        return True

    def _open(self, stack: ExitStack) -> None:
        config = self.config
        self._actor = Actor(self.agent.learner, config.seed)
        self._evaluation_actor = Actor(self.agent.learner, config.seed + 1, evaluating=True)
        self._diagnostic = Diagnostic(
            self.agent.learner.policy, self.suite, on_hang=self._save_at_hang
        )
        self._pipeline = Pipeline(self.agent.learner, self.agent.state, self.replay, self.rng)
        self.agent.state = self._pipeline.state
        self._normalizer = self.agent.statistics.normalizer()
        # Compiling runs in parallel with the creation of environments and the random steps.
        thread = stack.enter_context(ThreadPoolExecutor(1, "ezm-compile"))
        self._compiling = thread.submit(self._compile)
        # With this seed, an environment that cannot be restored does not repeat its first episode.
        seed = config.seed + 1_000_003 * self.step
        self._environments = ParallelTasks(
            self.suite,
            seed,
            step_limit=config.step_limit or None,
            on_hang=self._save_at_hang,
        )
        stack.callback(self._environments.close)
        self._evaluator = Evaluator(
            *(self.suite, config.evaluation_episodes, seed + 10_007),
            step_limit=config.step_limit or None,
            on_hang=self._save_at_hang,
        )
        stack.callback(self._evaluator.close)
        if self.step == 0:
            self._describe()
        self.display.announce(self.memory)
        if self.step == 0:
            self._evaluate(config.evaluation_episodes, modes=("random",))
        self._sink = ReplaySink(self.replay, self.agent.statistics, lambda: self._pipeline.updates)
        self._collector = Collector(config, self._environments, self._actor, self.rng, self.step)
        if self._checkpoint is None:
            self._collector.reset(self._sink)
        else:
            self._go_on(self._checkpoint)
            self._checkpoint = None

    def _loop(self) -> None:
        while self.step < self.config.steps and not self._stop:
            self._advance()

    def _advance(self) -> None:
        """Makes one step of every task and the updates due for it, and the evaluations and saves due after it."""
        config = self.config
        if not self._ready and self.step >= config.random_steps:
            self._get_ready()
        # Both use the same parameters. A device runs programs in the order of submission, so the search comes first.
        planned = self._collector.plan(self.latest())
        learned = self._learn()
        self._act(planned)
        self.step += 1
        if self.step % _NORMALIZER_EVERY == 0:
            self._normalizer = self.agent.statistics.normalizer()
        if learned is not None and self.step % _LOG_EVERY == 0:
            self._log_training(learned)
        self.display.update(self.step, self._pipeline.updates, self.seconds)
        if self.step % config.evaluate_every == 0 and self.step < config.steps:
            self._evaluate(config.evaluation_episodes, modes=EVALUATED)
        if config.diagnose_every and self.step % config.diagnose_every == 0:
            self._diagnose()
        if self.step % config.checkpoint_every == 0:
            self.save()

    def _compile(self) -> int:
        """Compiles the programs of learning, acting and evaluating. Returns the learner's working memory in bytes."""
        config, tasks = self.config, self.suite.num_tasks
        updates = max(1, config.updates_by(config.random_steps + 1))
        memory = self._pipeline.compile(self._normalizer, updates)
        for actor, copies, exploring in (
            (self._actor, 1, True),
            (self._evaluation_actor, config.evaluation_episodes, False),
        ):
            observation = np.zeros((tasks * copies, self.suite.observation_size), np.float32)
            task = np.tile(np.arange(tasks, dtype=np.int32), copies)
            actor.compile(self.latest(), observation, task, exploring=exploring)
        return memory

    def _get_ready(self) -> None:
        """Waits until the programs are compiled."""
        if not self._compiling.done():
            self.display.message("compiling (once; cached for later runs)")
        memory = self._compiling.result()
        self.display.message(f"learning takes {size(memory)} more")
        self.display.forget_rates()  # the rates so far were with random actions
        self._ready = True

    # -- one step --------------------------------------------------------------------------

    def _learn(self) -> Updates | None:
        """Starts the updates due for the coming step, and returns the last of them. None before learning begins."""
        if self.step < self.config.random_steps:
            return None
        pipeline, config = self._pipeline, self.config
        due = config.updates_by(self.step + 1)
        then = max(1, config.updates_by(self.step + 2) - due)
        learned = None
        while (owed := due - pipeline.updates) > 0:
            learned = pipeline.step(self._normalizer, owed, then)
        self.agent.state = pipeline.state
        return learned

    def latest(self) -> ActingParameters:
        """Returns the newest parameters. The trainer is its collector's source of parameters."""
        state = self.agent.state
        return ActingParameters(state.model, self._normalizer, state.q_range, state.updates)

    def _act(self, planned: Any) -> None:
        """Makes one step of every task and records it."""
        try:
            experience = self._collector.act(planned)
        except Diverged:
            self._pipeline.settle()  # names the update where that is the cause
            raise
        self._sink.add(experience)
        step = experience.step
        for e in np.flatnonzero(step.terminated | step.truncated).tolist():
            self._log_episode(experience, e)

    # -- figures ---------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, including evaluations and earlier parts of the run."""
        return self._seconds_before + time.monotonic() - self._started

    def _describe(self) -> None:
        model = self.agent.state.model
        parameters = model.num_parameters()
        self.metrics.log(
            "start",
            0,
            0.0,
            version=ezm.__version__,
            machine=machine(),
            suite=self.suite.name,
            tasks=list(self.suite.task_names),
            parameters=parameters,
        )
        config, tasks = self.config, self.suite.num_tasks
        self.display.message(
            f"{tasks} tasks, {parameters / 1e6:.2f}M parameters, {config.steps:,} steps per task"
        )
        self.display.message(
            f"each step learns W = {config.windows(tasks):g} windows per task in "
            f"G = {config.updates_per_step:g} gradient steps of batch {config.optimizer.batch_size}"
        )

    def _log_episode(self, experience: Experience, e: int) -> None:
        """Logs the episode that ended in environment ``e``."""
        indices = experience.task[e], experience.behaviour_task[e]
        name, policy = (self.suite.task_names[index] for index in indices)
        value, length = experience.step.episode_return[e], experience.step.episode_length[e]
        self.metrics.log(
            "episode",
            self.step + 1,
            self.seconds,
            task=name,
            policy=policy,
            **{
                "return": float(value),
                "length": int(length),
                "terminated": bool(experience.step.terminated[e]),
            },
        )
        if policy == name:
            self.display.episode(name, float(value))

    def _log_training(self, learned: Updates) -> None:
        values = {name: float(value[-1]) for name, value in learned.figures.items()}
        errors = learned.value_errors(self.suite.num_tasks)
        values["value_error"] = float(np.nanmean(errors))
        for name, error in zip(self.suite.task_names, errors, strict=True):
            values[f"priority/{name}"] = float(error)
        self.metrics.log("train", self.step, self.seconds, updates=self._pipeline.updates, **values)

    def _evaluate(self, episodes: int, modes: tuple[Mode, ...]) -> None:
        for mode in modes:
            returns = self._evaluator.run(self._policy(mode), episodes)
            for name, values in zip(self.suite.task_names, returns, strict=True):
                mean = float(np.mean(values))
                self.metrics.log(
                    "eval",
                    self.step,
                    self.seconds,
                    updates=self._pipeline.updates,
                    task=name,
                    mode=mode,
                    returns=[float(v) for v in values],
                    mean=mean,
                )
                if mode == "search":
                    self.display.evaluation(name, mean)

    def _diagnose(self) -> None:
        for task, name in enumerate(self.suite.task_names):
            figures = self._diagnostic(self.latest(), task, self.config.seed + self.step)
            if figures:
                self.metrics.log("diagnostic", self.step, self.seconds, task=name, **figures)

    def _policy(self, mode: Mode) -> Act:
        if mode == "random":
            return random_policy(self.suite, self.config.seed)
        return self._evaluation_actor.policy(self.latest(), mode)

    # -- keeping ---------------------------------------------------------------------------

    def save(self, *, environments: bool = True) -> None:
        """Writes a checkpoint of the run's whole state.

        Args:
            environments: whether to save their state. Without it, a resumed run begins new episodes.

        Raises:
            Diverged: the last update was not finite.
            UserError: the checkpoint cannot be written.
        """
        self._pipeline.settle()
        self.agent.state = self._pipeline.state
        arrays = {
            "agent": self.agent.arrays(),
            "replay": self.replay.state(),
            "pending": self._pipeline.pending(),
            "normalizer": {k: v for k, v in vars(self._normalizer).items() if v is not None},
            "acting": self._collector.state(),
        }
        if environments:
            arrays["environments"] = self._environments.state()
            arrays["evaluation"] = self._evaluator.state()
        meta = {
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.metrics.rows,
            "rng": self.rng.bit_generator.state,
            "acted": self._actor.steps,
            "evaluated": self._evaluation_actor.steps,
        }
        saved = self.run.save_checkpoint(self.step, arrays, meta)
        self.display.message(f"checkpoint: {size(saved.bytes)} in {saved.seconds:.1f} s")

    def _save_at_hang(self) -> None:
        if (
            self.step
        ):  # before the first step there is nothing to keep, and perhaps no collector yet
            self.save(environments=False)

    def _keep_what_was_finite(self, error: Diverged) -> Diverged:
        """Saves the learner as it was before the failed updates, and the batches of these updates."""
        kept = f"the agent before it is kept at step {self.step:,}"
        if (update := self._pipeline.diverged) is not None:
            batch = self.run.path / "diverged.npz"
            update.write(batch)
            kept += f", the batch in {batch}"
        self.save(environments=False)
        return Diverged(
            f"{error}: {kept}; begin a new run with a smaller --optimizer.learning-rate, or find what is wrong with "
            "the rewards"
        )

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Restores the state of actors, pipeline and environments."""
        saved, meta = checkpoint.arrays, checkpoint.meta
        self._actor.steps, self._evaluation_actor.steps = meta["acted"], meta["evaluated"]
        self._normalizer = Normalizer(**jax.tree.map(jnp.asarray, saved["normalizer"]))
        self._pipeline.resume(saved["pending"], self._normalizer)
        environments = saved.get("environments")
        if environments is not None:
            self._evaluator.load(saved["evaluation"])
        again = self._collector.load(saved["acting"], environments, self._sink)
        if again and environments is not None:
            names = ", ".join(self.suite.task_names[task] for task in again)
            self.display.message(f"new episodes of {names}, which cannot be restored")

    def restore(self) -> None:
        """Restores the run's latest checkpoint, or its beginning where it has none.

        Raises:
            UserError: the checkpoint cannot be read, has other networks, or holds only what acting needs.
        """
        checkpoint = self.run.latest_checkpoint()
        if checkpoint is None:
            self.metrics.truncate(0, -1)
            return
        if "replay" not in checkpoint.arrays:
            raise UserError(
                f"{self.run.path} cannot be trained further: its checkpoint holds what acting needs, and no replay; "
                "start a new run"
            )
        take_over(self.agent, checkpoint)
        self.replay.load(checkpoint.arrays.pop("replay"))
        self._checkpoint = checkpoint
        self.step = checkpoint.meta["step"]
        self._seconds_before = checkpoint.meta["seconds"]
        self.rng.bit_generator.state = checkpoint.meta["rng"]
        self.metrics.truncate(checkpoint.meta["rows"], self.step)

    def _stop_soon(self) -> None:
        self._stop = True
        self.display.message("stopping after this step (Ctrl-C again: at once)")


def replay_rows(config: TrainConfig, suite: Suite) -> int:
    """Returns the rows of each task's replay: the capacity, or fewer if the run cannot fill it.

    A run fills a row for each step, and another row at the end of each episode.
    """
    shortest = min(task.episode_steps or 1 for task in suite.tasks)
    return min(config.replay.capacity, config.steps + config.steps // shortest + 2)


def memory_of(config: TrainConfig, suite: Suite, parameters: int) -> Memory:
    """Returns the memory that a run with a model of ``parameters`` parameters takes."""
    sizes = RowSizes(suite.observation_size, suite.action_size, config.kept_actions)
    rows = suite.num_tasks * replay_rows(config, suite)
    places, content = (rows * size for size in Replay.bytes_per_row(sizes))
    if config.replay.device and has_own_memory():
        return planned(places, parameters, content)
    return planned(places + content, parameters)
