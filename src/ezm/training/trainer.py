"""The training run: acting and learning in a fixed ratio, recorded in a run folder."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ezm.acting.actor import Actor
from ezm.acting.collector import Chosen, Collector
from ezm.acting.diagnostics import Diagnostic
from ezm.acting.evaluate import Evaluator, Mode, random_policy
from ezm.acting.load import take_over
from ezm.agent import build
from ezm.agent.learning import Normalizer
from ezm.agent.search_policy import ActingParameters
from ezm.config import TrainConfig
from ezm.errors import Diverged, UserError
from ezm.experience import Replay
from ezm.platform import at_interrupt
from ezm.runs.folder import Checkpoint, RunFolder
from ezm.runs.metrics import MetricsLogger
from ezm.tasks import ParallelTasks, Suite
from ezm.training.display import Display
from ezm.training.memory import memory_of, replay_rows, size
from ezm.training.pipeline import Pipeline, Updates
from ezm.training.recorder import Position, Recorder
from ezm.training.sink import ReplaySink
from ezm.training.timer import Timer

_NORMALIZER_EVERY = 25  # steps per task between two refreshes of the normaliser
_LOG_EVERY = 50  # steps per task between two rows of losses, or more where updates are rare
_STILL_ALIVE = 15  # seconds between two messages while the programs are compiled


class Trainer:
    """One run: its agent, replay, environments and counters. The caller has locked the folder ``run``."""

    # Made by opened().
    pipeline: Pipeline
    _collector: Collector
    _sink: ReplaySink

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
        self.timer = Timer()
        """Sections of the thread that trains."""
        self.agent = build(config, suite)
        self.memory = memory_of(config, suite, self.agent.state.model.num_parameters())
        """Memory that the run will take."""
        self.replay = Replay(
            suite.num_tasks,
            suite.observation_size,
            suite.action_size,
            replace(config.replay, capacity=replay_rows(config, suite)),
            window=config.loss.unroll + config.loss.n_step,
            states=config.loss.unroll + 1,
            root_actions=config.kept_actions,
        )
        self.rng = np.random.default_rng(config.seed)
        self.step = 0  # environment steps per task
        self._seconds_before = 0.0
        self._stop = False
        self._compiling: Future[int] | None = None
        """The compilation of the programs of learning and acting, until learning begins."""
        self._evaluation_programs: Future[None] | None = None
        """The compilation of the programs of evaluations, from the first update on."""
        self._evaluated: set[str] = set()
        """Modes of acting that the restored step has been evaluated with."""
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
        config = self.config
        with at_interrupt(self._stop_soon), self.opened():
            try:
                self._evaluate_what_is_due(but=self._evaluated)
                while self.step < config.steps and not self._stop:
                    self.advance()
                    self._evaluate_what_is_due()
                    if config.diagnose_every and self.step % config.diagnose_every == 0:
                        self._diagnose()
                    # The last step is saved below.
                    if self.step % config.checkpoint_every == 0 and self.step < config.steps:
                        with self.timer.section("saving"):
                            self.save()
                self.save()
            except Diverged as error:
                raise self._keep_what_was_finite(error) from None
            except BaseException:
                self.save(environments=False)
                raise
            if self._stop:
                return False
            self.evaluate(config.final_episodes)
        return True

    def advance(self) -> None:
        """Makes one step of every task and the updates due for it, and records episodes and losses."""
        config, section = self.config, self.timer.section
        if self._compiling is not None and self.step >= config.random_steps:
            self._await_programs(self._compiling)
        # Both use the same parameters. A device runs programs in the order of submission, so the search comes first.
        with section("search"):
            planned = self._collector.plan(self)
        learned = self._start_updates()
        with section("search"):
            chosen = self._choose(planned)
        with section("environments"):
            experience = self._collector.step(chosen)
        with section("replay"):
            self._sink.add(experience)
        self.step += 1
        if self.step % _NORMALIZER_EVERY == 0:
            self._normalizer = self.agent.statistics.normalizer()

        with section("metrics"):
            position = self.position
            self._recorder.episodes(position, experience)
            if learned is not None and self._losses_due():
                self._recorder.losses(position, learned)
            self.display.update(*position)

    def _evaluate_what_is_due(self, but: Collection[str] = ()) -> None:
        """Makes the evaluations of this step, except for the modes in ``but``."""
        config = self.config
        due: list[Mode] = []
        # The last step has its own, longer evaluation.
        if 0 < self.step < config.steps and self.step % config.evaluate_every == 0:
            due += ["search", "policy"]
        # The episodes of random actions come after the first update, so that learning begins soon.
        if self.step == min(config.random_steps + 1, config.steps):
            due.append("random")
        if modes := [mode for mode in due if mode not in but]:
            self.evaluate(config.evaluation_episodes, modes)

    def evaluate(self, episodes: int, modes: Sequence[Mode] = ("search", "policy")) -> None:
        """Records the returns of some episodes of each task, for each mode of acting.

        The difference between the default modes shows what the search adds to the policy.
        """
        position = self.position
        with self.timer.section("evaluation"):
            for mode in modes:
                if mode == "random":
                    act = random_policy(self.suite, self.config.seed)
                else:
                    self.await_evaluation_programs()
                    act = self._evaluating.policy(self.latest(), mode)
                self._recorder.evaluation(position, mode, self.evaluator.run(act, episodes))

    def await_evaluation_programs(self) -> None:
        """Waits for the programs of evaluations, which are compiled while learning begins."""
        if self._evaluation_programs is not None:
            self._evaluation_programs.result()

    @cached_property
    def evaluator(self) -> Evaluator:
        """The environments of evaluations, made at the first use, so that learning begins soon."""
        return self._make_evaluator()

    def _diagnose(self) -> None:
        """Records how well the agent ranks actions."""
        step, _, seconds = self.position
        with self.timer.section("evaluation"):
            for task, name in enumerate(self.suite.task_names):
                figures = self._diagnostic(self.latest(), task, self.config.seed + step)
                if figures:
                    self.metrics.log("diagnostic", step, seconds, task=name, **figures)

    def latest(self) -> ActingParameters:
        """Returns the newest parameters. The trainer is its collector's source of parameters."""
        state = self.pipeline.acting
        return ActingParameters(state.model, self._normalizer, state.q_range, state.updates)

    def _start_updates(self) -> Updates | None:
        """Starts the updates due for the coming step, and returns the last of them. None before learning begins."""
        if self.step < self.config.random_steps:
            return None
        pipeline, config = self.pipeline, self.config
        due = config.updates_by(self.step + 1)
        then = max(1, config.updates_by(self.step + 2) - due)
        learned = None
        while (owed := due - pipeline.updates) > 0:
            learned = pipeline.step(self._normalizer, owed, then)
        return learned

    def _losses_due(self) -> bool:
        """Returns whether this step's update is the first since the last multiple of _LOG_EVERY steps."""
        since = self.step - self.step % _LOG_EVERY
        return self.config.updates_by(self.step - 1) <= self.config.updates_by(since - 1)

    def _choose(self, planned: Any) -> Chosen:
        """Returns the actions of the search that was started."""
        try:
            return self._collector.choose(planned)
        except Diverged:
            self.pipeline.settle()  # names the update where that is the cause
            raise

    @property
    def position(self) -> Position:
        """How far the run is, its earlier parts included."""
        seconds = self._seconds_before + time.monotonic() - self._started
        return Position(self.step, self.pipeline.updates, seconds)

    def _stop_soon(self) -> None:
        self._stop = True
        self.display.message("stopping after this step (Ctrl-C again: at once)")

    # -- its parts -------------------------------------------------------------------------

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes everything that :meth:`advance` needs, and closes it at the end of ``with``."""
        config, suite, learner = self.config, self.suite, self.agent.learner
        self._started = time.monotonic()
        self._recorder = Recorder(suite, self.metrics, self.display, self.timer)
        self._actor = Actor(learner, config.seed)
        self._evaluating = Actor(learner, config.seed + 1, evaluating=True)
        self.pipeline = Pipeline(learner, self.agent.state, self.replay, self.rng, self.timer)
        self._normalizer = self.agent.statistics.normalizer()
        self._diagnostic = Diagnostic(learner.policy, suite, on_hang=self._save_at_hang)
        # With this seed, an environment that cannot be restored does not repeat its first episode.
        seed = config.seed + 1_000_003 * self.step
        watched: Any = {"step_limit": config.step_limit or None, "on_hang": self._save_at_hang}
        copies = config.evaluation_episodes
        with ExitStack() as stack:
            stack.enter_context(closing(self.pipeline))
            # Compiling runs in parallel with the creation of environments and the random steps.
            self._compiler = stack.enter_context(ThreadPoolExecutor(1, "ezm-compile"))
            stack.callback(self._say_if_compiling)
            self._compiling = self._compiler.submit(self._compile)
            self._make_evaluator = lambda: stack.enter_context(
                closing(Evaluator(suite, copies, seed + 10_007, **watched))
            )
            environments = stack.enter_context(closing(ParallelTasks(suite, seed, **watched)))
            self._sink = ReplaySink(
                self.replay, self.agent.statistics, lambda: self.pipeline.updates
            )
            self._collector = Collector(config, environments, self._actor, self.rng, self.step)
            if self.step == 0:
                self._recorder.start(config, self.agent.state.model.num_parameters())
            self.display.announce(self.memory)
            if self._checkpoint is None:
                self._collector.reset(self._sink)
            else:
                self._go_on(self._checkpoint)
                self._checkpoint = None
            yield

    def _compile(self) -> int:
        """Compiles the programs of learning and acting. Returns the learner's working memory in bytes."""
        config, pipeline = self.config, self.pipeline
        updates = max(1, config.updates_by(config.random_steps + 1))
        pipeline.compile(self._normalizer, updates)
        self._actor.compile(self.latest(), *self._example(1), exploring=True)
        return pipeline.working_memory(updates)

    def _compile_evaluation(self, parameters: ActingParameters) -> None:
        """Compiles the programs of evaluations, while learning begins."""
        example = self._example(self.config.evaluation_episodes)
        self._evaluating.compile(parameters, *example, exploring=False)

    def _example(self, copies: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns an observation and a task for each of ``copies`` environments of each task."""
        tasks = np.tile(np.arange(self.suite.num_tasks, dtype=np.int32), copies)
        return np.zeros((len(tasks), self.suite.observation_size), np.float32), tasks

    def _await_programs(self, compiling: Future[int]) -> None:
        """Waits until the programs are compiled."""
        if not compiling.done():
            self.display.message("compiling, a minute or so the first time (cached for later runs)")
        with self.timer.section("compiling"):
            seconds = 0
            while wait([compiling], _STILL_ALIVE).not_done:
                seconds += _STILL_ALIVE
                self.display.message(f"still compiling after {seconds} s")
            memory = compiling.result()
        self.display.message(f"learning takes {size(memory)} more")
        self.display.forget_rates()  # the rates so far were with random actions
        self._compiling = None
        shapes = jax.eval_shape(lambda x: x, self.latest())  # updates overwrite the arrays
        self._evaluation_programs = self._compiler.submit(self._compile_evaluation, shapes)

    def _say_if_compiling(self) -> None:
        """Says that the process ends only after the compiler, which nothing can stop."""
        begun = [self._compiling, self._evaluation_programs]
        if any(programs is not None and not programs.done() for programs in begun):
            self.display.message("waiting for the compiler to end, a minute or so")

    # -- keeping ---------------------------------------------------------------------------

    def save(self, *, environments: bool = True) -> None:
        """Writes a checkpoint of the run's whole state.

        Args:
            environments: whether to save their state. Without it, a resumed run begins new episodes.

        Raises:
            Diverged: the last update was not finite.
            UserError: the checkpoint cannot be written.
        """
        self.pipeline.settle()
        self.agent.state = self.pipeline.state
        arrays = {
            "agent": self.agent.arrays(),
            "replay": self.replay.state(),
            "pending": self.pipeline.pending(),
            "normalizer": {k: v for k, v in vars(self._normalizer).items() if v is not None},
            "acting": self._collector.state(),
        }
        if environments:
            arrays["environments"] = self._collector.environments.state()
            arrays["evaluation"] = self.evaluator.state()
        meta = {
            "step": self.step,
            "seconds": self.position.seconds,
            "rows": self.metrics.rows,
            "rng": self.rng.bit_generator.state,
            "acted": self._actor.steps,
            "evaluated": self._evaluating.steps,
        }
        saved = self.run.save_checkpoint(self.step, arrays, meta)
        self.display.message(f"checkpoint: {size(saved.bytes)} in {saved.seconds:.1f} s")

    def _save_at_hang(self) -> None:
        # Before the first step of this process there is nothing to keep, and perhaps no collector yet.
        if self.step and self._checkpoint is None:
            self.save(environments=False)

    def _keep_what_was_finite(self, error: Diverged) -> Diverged:
        """Saves the learner as it was before the failed updates, and the batches of these updates."""
        kept = f"the agent before it is kept at step {self.step:,}"
        if (update := self.pipeline.diverged) is not None:
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
        self._actor.steps, self._evaluating.steps = meta["acted"], meta["evaluated"]
        self._normalizer = Normalizer(**jax.tree.map(jnp.asarray, saved["normalizer"]))
        self.pipeline.resume(saved["pending"], self._normalizer)
        environments = saved.get("environments")
        if environments is not None:
            self.evaluator.load(saved["evaluation"])
        again = self._collector.load(saved["acting"], environments, self._sink)
        if again and environments is not None:
            names = ", ".join(self.suite.task_names[task] for task in again)
            self.display.message(f"new episodes of {names}, which cannot be restored")

    def restore(self, source: RunFolder | None = None) -> None:
        """Restores the latest checkpoint of the run, or of ``source``. Without a checkpoint, the run begins.

        Raises:
            UserError: the checkpoint cannot be read, has other networks, or holds only what acting needs.
        """
        checkpoint = (source or self.run).latest_checkpoint()
        if checkpoint is None:
            if self.metrics.rows:
                self.display.message("the run has no checkpoint yet: it begins again at step 0")
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
        # The evaluation at the end of a training that is given more steps is not repeated.
        self._evaluated = self.metrics.truncate(
            checkpoint.meta["rows"], self.step, keep_evaluations=self.step < self.config.steps
        )
