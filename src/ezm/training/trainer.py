"""The training run: acting and learning in a fixed ratio, recorded in a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ezm
from ezm.config import TrainConfig
from ezm.errors import Diverged, UserError
from ezm.evaluation.diagnostics import Diagnostic
from ezm.evaluation.evaluate import Act, Evaluator, Mode, random_policy
from ezm.learning import Agent, Normalizer, build
from ezm.replay import Replay, RowSizes, Searches
from ezm.tasks import ParallelTasks, Suite
from ezm.training.actor import Actor, policy_for_episode
from ezm.training.checkpoints import packed, unpacked
from ezm.training.interrupts import at_interrupt
from ezm.training.machine import machine
from ezm.training.memory import Memory, has_own_memory, planned, size
from ezm.training.metrics import MetricsLogger
from ezm.training.pipeline import Pipeline, Updates
from ezm.training.progress import TrainingProgress
from ezm.training.run_folder import Checkpoint, RunFolder
from ezm.training.timer import Timer
from ezm.world_model.policy import MAX_ACTION

_NORMALIZER_EVERY = 25  # steps per task between two refreshes of the normaliser
EVALUATED: tuple[Mode, ...] = ("search", "policy")
"""Modes of acting in evaluations. The difference shows what the search adds to the policy."""
_EARLY_SHARE = 0.4  # of the run, in which ``early_episode_steps`` cuts episodes (the authors' code)
_LOG_EVERY = 50  # steps per task between two rows of losses


class Trainer:
    """One run: its agent, replay, environments and counters.

    Args:
        config: the whole configuration.
        suite: the tasks to train on.
        run: the (locked) folder that records the run.
        metrics: logs the figures.
        progress: shows progress at the terminal.
    """

    def __init__(
        self,
        config: TrainConfig,
        suite: Suite,
        run: RunFolder,
        metrics: MetricsLogger,
        progress: TrainingProgress,
    ):
        self.config, self.suite, self.run = config, suite, run
        self.metrics, self.progress = metrics, progress
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
        self.timer = Timer()
        """Sections of the thread that trains."""
        self._timed = self.timer.taken()
        """The timer's sections at the last row of losses."""
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
        with at_interrupt(self._stop_soon), self.opened():
            if self.step == 0:
                self.evaluate(self.config.evaluation_episodes, modes=("random",))
            try:
                while self.step < self.config.steps and not self._stop:
                    self.advance()
                self.save()
            except Diverged as error:
                raise self._keep_what_was_finite(error) from None
            except BaseException:
                self.save(environments=False)
                raise
            if self._stop:
                return False
            self.evaluate(self.config.final_episodes, modes=EVALUATED)
        return True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes everything that :meth:`advance` needs, and closes it at the end of ``with``."""
        self._started = time.monotonic()
        with ExitStack() as stack:
            self._open(stack)
            stack.callback(self.pipeline.close)
            stack.callback(self._compiling.result)
            yield

    def _open(self, stack: ExitStack) -> None:
        config = self.config
        self._actor = Actor(self.agent.learner, config.seed)
        self._evaluation_actor = Actor(self.agent.learner, config.seed + 1, evaluating=True)
        self._diagnostic = Diagnostic(self.agent.learner, self.suite)
        self.pipeline = Pipeline(
            self.agent.learner, self.agent.state, self.replay, self.rng, self.timer
        )
        self.agent.state = self.pipeline.state
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
            on_hang=lambda: self.save(environments=False),
        )
        stack.callback(self._environments.close)
        self._evaluator = Evaluator(self.suite, config.evaluation_episodes, seed + 10_007)
        stack.callback(self._evaluator.close)
        if self.step == 0:
            self._describe()
        self.progress.announce(self.memory)
        self._acting_as = self._environments.task_ids.copy()
        self._noise = np.zeros(self.suite.num_tasks, np.float32)
        """Standard deviation of the noise on the actions of each task's running episode."""
        if self._checkpoint is None:
            anew = list(range(self.suite.num_tasks))
            self._environments.reset()
        else:
            anew = self._go_on(self._checkpoint)
            self._checkpoint = None
        for task in anew:
            self.replay.cut_episode(task)
            self._begin_episode(task, self._environments.observation[task])

    def advance(self) -> None:
        """Makes one step of every task and the updates due for it, and the evaluations and saves due after it."""
        config = self.config
        if not self._ready and self.step >= config.random_steps:
            self._get_ready()
        section = self.timer.section
        # Both use the same parameters. A device runs programs in the order of submission, so the search comes first.
        with section("search"):
            searching = self._search()
        learned = self._learn()
        self._act(searching)
        self.step += 1
        if self.step % _NORMALIZER_EVERY == 0:
            self._normalizer = self.agent.statistics.normalizer()
        if learned is not None and self.step % _LOG_EVERY == 0:
            with section("metrics"):
                self._log_training(learned)
        self.progress.update(self.step, self.pipeline.updates, self.seconds)
        if self.step % config.evaluate_every == 0 and self.step < config.steps:
            self.evaluate(config.evaluation_episodes, modes=EVALUATED)
        if config.diagnose_every and self.step % config.diagnose_every == 0:
            with section("evaluation"):
                self._diagnose()
        if self.step % config.checkpoint_every == 0:
            with section("saving"):
                self.save()

    def _compile(self) -> int:
        """Compiles the programs of learning, acting and evaluating. Returns the learner's working memory in bytes."""
        config, agent, tasks = self.config, self.agent, self.suite.num_tasks
        updates = max(1, config.updates_by(config.random_steps + 1))
        memory = self.pipeline.compile(self._normalizer, updates)
        for actor, copies, exploring in (
            (self._actor, 1, True),
            (self._evaluation_actor, config.evaluation_episodes, False),
        ):
            observation = np.zeros((tasks * copies, self.suite.observation_size), np.float32)
            task = np.tile(np.arange(tasks, dtype=np.int32), copies)
            actor.compile(agent.state, self._normalizer, observation, task, exploring=exploring)
        return memory

    def _get_ready(self) -> None:
        """Waits until the programs are compiled."""
        if not self._compiling.done():
            self.progress.message("compiling (once; cached for later runs)")
        with self.timer.section("compiling"):
            memory = self._compiling.result()
        self.progress.message(f"learning takes {size(memory)} more")
        self.progress.forget_rates()  # the rates so far were with random actions
        self._ready = True

    # -- one step --------------------------------------------------------------------------

    def _learn(self) -> Updates | None:
        """Starts the updates due for the coming step, and returns the last of them. None before learning begins."""
        if self.step < self.config.random_steps:
            return None
        pipeline, config = self.pipeline, self.config
        due = config.updates_by(self.step + 1)
        then = max(1, config.updates_by(self.step + 2) - due)
        learned = None
        while (owed := due - pipeline.updates) > 0:
            learned = pipeline.step(self._normalizer, owed, then)
        self.agent.state = pipeline.state
        return learned

    def _search(self) -> tuple[Any, Searches | None] | None:
        """Starts the search for every task's next action. Returns None while actions are random."""
        if self.step < self.config.random_steps:
            return None
        observation = self._environments.observation
        return self._actor.explore(self.agent.state, self._normalizer, observation, self._acting_as)

    def _act(self, searching: tuple[Any, Searches | None] | None) -> None:
        """Makes one step of every task and records it."""
        environments, section = self._environments, self.timer.section
        tasks = environments.task_ids
        if searching is None:
            shape = (len(tasks), self.suite.action_size)
            action = self.rng.uniform(-1.0, 1.0, shape).astype(np.float32)
            action *= self.suite.action_mask[tasks]
        else:
            with section("search"):
                action, searches = np.asarray(searching[0]), searching[1]
            if not np.isfinite(action).all():
                self.pipeline.settle()
                raise Diverged(f"the agent's action is {action[~np.isfinite(action)][0]}")
            if searches is not None:
                # A search for another task is no target for this task.
                row = np.where(self._acting_as == tasks, self.replay.rows[tasks] - 1, -1)
                with section("replay"):
                    self.replay.store(tasks, row, searches, self.pipeline.updates)
            if self.config.noise:
                noise = self._noise[tasks, None] * self.rng.standard_normal(
                    action.shape, np.float32
                )
                action = np.clip(action + noise, -MAX_ACTION, MAX_ACTION)
                action *= self.suite.action_mask[tasks]
        if self.config.early_episode_steps is not None:
            early = self.step < _EARLY_SHARE * self.config.steps
            environments.cut_episodes(self.config.early_episode_steps if early else None)
        with section("environments"):
            result = environments.step(action)
        with section("replay"):
            for e, task in enumerate(tasks.tolist()):
                reward, following = float(result.reward[e]), result.next_observation[e]
                terminated, truncated = bool(result.terminated[e]), bool(result.truncated[e])
                ended = terminated or truncated
                self.replay.add(task, action[e], reward, following, terminated, truncated)
                self.agent.statistics.add(task, following)
                if self.agent.statistics.returns is not None:
                    self.agent.statistics.returns.add(task, reward, ended=ended)
                if ended:
                    with section("metrics"):
                        made = result.episode_return[e], result.episode_length[e]
                        self._log_episode(task, *made, terminated)
                    self._begin_episode(task, result.observation[e])

    def _begin_episode(self, task: int, observation: np.ndarray) -> None:
        self.replay.begin(task, observation)
        self.agent.statistics.add(task, observation)
        share = self.config.borrowed_episodes
        self._acting_as[task] = policy_for_episode(self.rng, task, self.suite.bodies, share)
        if self.config.noise:
            self._noise[task] = self.rng.uniform(0.0, self.config.noise)

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
        self.progress.message(
            f"{tasks} tasks, {parameters / 1e6:.2f}M parameters, {config.steps:,} steps per task"
        )
        self.progress.message(
            f"each step learns W = {config.windows(tasks):g} windows per task in "
            f"G = {config.updates_per_step:g} gradient steps of batch {config.optimizer.batch_size}"
        )

    def _log_episode(self, task: int, value: float, length: int, terminated: bool) -> None:
        name, policy = (self.suite.task_names[t] for t in (task, self._acting_as[task]))
        self.metrics.log(
            "episode",
            self.step + 1,
            self.seconds,
            task=name,
            policy=policy,
            **{"return": float(value), "length": int(length), "terminated": terminated},
        )
        if policy == name:
            self.progress.episode(name, float(value))

    def _log_training(self, learned: Updates) -> None:
        values = {name: float(value[-1]) for name, value in learned.figures.items()}
        errors = learned.value_errors(self.suite.num_tasks)
        values["value_error"] = float(np.nanmean(errors))
        for name, error in zip(self.suite.task_names, errors, strict=True):
            values[f"priority/{name}"] = float(error)
        for name, taken in self.timer.taken(self._timed).items():
            values[f"time/{name.replace(' ', '_')}"] = taken.seconds
        self._timed = self.timer.taken()
        self.metrics.log("train", self.step, self.seconds, updates=self.pipeline.updates, **values)

    def evaluate(self, episodes: int, modes: tuple[Mode, ...]) -> None:
        """Logs the returns of some episodes of each task, for each mode of acting."""
        for mode in modes:
            with self.timer.section("evaluation"):
                returns = self._evaluator.run(self._policy(mode), episodes)
            for name, values in zip(self.suite.task_names, returns, strict=True):
                mean = float(np.mean(values))
                self.metrics.log(
                    "eval",
                    self.step,
                    self.seconds,
                    updates=self.pipeline.updates,
                    task=name,
                    mode=mode,
                    returns=[float(v) for v in values],
                    mean=mean,
                )
                if mode == "search":
                    self.progress.evaluation(name, mean)

    def _diagnose(self) -> None:
        for task, name in enumerate(self.suite.task_names):
            figures = self._diagnostic(
                self.agent.state.model, self._normalizer, task, self.config.seed + self.step
            )
            if figures:
                self.metrics.log("diagnostic", self.step, self.seconds, task=name, **figures)

    def _policy(self, mode: Mode) -> Act:
        if mode == "random":
            return random_policy(self.suite, self.config.seed)
        return self._evaluation_actor.policy(self.agent.state.model, self._normalizer, mode)

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
            "pending": packed(self.pipeline.pending()),
            "normalizer": {k: v for k, v in vars(self._normalizer).items() if v is not None},
            "acting_as": self._acting_as,
        }
        if self.config.noise:
            arrays["noise"] = self._noise
        if environments:
            arrays["environments"] = packed(self._environments.state())
            arrays["evaluation"] = packed(self._evaluator.state())
        meta = {
            "step": self.step,
            "seconds": self.seconds,
            "rows": self.metrics.rows,
            "rng": self.rng.bit_generator.state,
            "acted": self._actor.steps,
            "evaluated": self._evaluation_actor.steps,
        }
        saved = self.run.save_checkpoint(self.step, arrays, meta)
        self.progress.message(f"checkpoint: {size(saved.bytes)} in {saved.seconds:.1f} s")

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

    def _go_on(self, checkpoint: Checkpoint) -> list[int]:
        """Restores the state of actors, pipeline and environments. Returns the tasks whose environments start again."""
        saved, meta = checkpoint.arrays, checkpoint.meta
        self._actor.steps, self._evaluation_actor.steps = meta["acted"], meta["evaluated"]
        self._acting_as[:] = saved["acting_as"]
        if self.config.noise:
            self._noise[:] = saved["noise"]
        self._normalizer = Normalizer(**jax.tree.map(jnp.asarray, saved["normalizer"]))
        self.pipeline.resume(unpacked(saved["pending"]), self._normalizer)
        if "environments" not in saved:
            self._environments.reset()
            return list(range(self.suite.num_tasks))
        self._evaluator.load(unpacked(saved["evaluation"]))
        anew = self._environments.load(unpacked(saved["environments"]))
        if anew:
            names = ", ".join(self.suite.task_names[task] for task in anew)
            self.progress.message(f"new episodes of {names}, which cannot be restored")
        return anew

    def restore(self, source: RunFolder | None = None) -> None:
        """Restores the latest checkpoint of the run, or of ``source``. Without a checkpoint, the run begins."""
        checkpoint = (source or self.run).latest_checkpoint()
        if checkpoint is None:
            self.metrics.truncate(0, -1)
            return
        take_over(self.agent, checkpoint)
        self.replay.load(checkpoint.arrays.pop("replay"))
        self._checkpoint = checkpoint
        self.step = checkpoint.meta["step"]
        self._seconds_before = checkpoint.meta["seconds"]
        self.rng.bit_generator.state = checkpoint.meta["rng"]
        self.metrics.truncate(checkpoint.meta["rows"], self.step)

    def _stop_soon(self) -> None:
        self._stop = True
        self.progress.message("stopping after this step (Ctrl-C again: at once)")


def take_over(agent: Agent, checkpoint: Checkpoint) -> None:
    """Loads a checkpoint of the same configuration into an agent.

    Raises:
        UserError: the checkpoint's networks differ.
    """
    try:
        agent.load(checkpoint.arrays["agent"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {checkpoint.step} has other networks than config.json, the tasks and ezm "
            f"{ezm.__version__} make now: bring back what has changed, or start a new run"
        ) from error


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
