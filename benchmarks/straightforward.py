"""A straightforward JAX version of the algorithm, which ``benchmarks.throughput`` compares with the library.

The replay consists of lists of rows. Every batch is sampled, stacked, searched with mctx at each of its states, and
learned. Then its priorities are written back. These stages run one after the other. All expensive arithmetic is jitted.
The world model, the targets and the loss are the library's, so the numbers are the same and only the engine differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

from benchmarks.mctx_search import MctxLearner
from ezm.agent import build
from ezm.agent.batch import Batch
from ezm.agent.learning import Normalizer
from ezm.agent.learning.losses import Targets
from ezm.agent.search_policy import ActingParameters
from ezm.config import ReplayConfig, TrainConfig
from ezm.experience.rows import SEARCHES, RowSizes, fields_of, sorted_out
from ezm.tasks import Suite


@dataclass
class Row:
    """The fields of a state and of the transition that follows it. After an episode's last state, that one's are 0."""

    fields: dict[str, np.ndarray]
    last: bool = False
    terminated: bool = False


class ListReplay:
    """A version of :class:`ezm.experience.Replay` with ``per_task``, in lists.

    The same seed draws the same batches, until the rows exceed the capacity. Extra fields stay 0.

    Args:
        num_tasks, observation_size, action_size: sizes of the suite.
        config: capacity and prioritisation.
        window: transitions per sample (unroll + n-step).
        states: number of a window's states that have targets (unroll + 1).
        root_actions: number in each search. The searches are not kept.
    """

    def __init__(
        self,
        num_tasks: int,
        observation_size: int,
        action_size: int,
        config: ReplayConfig,
        window: int,
        states: int = 1,
        root_actions: int = 1,
    ) -> None:
        self.config, self.window, self.states = config, window, states
        self.zeros = RowSizes(observation_size, action_size, root_actions).zeros
        self.rows: list[list[Row]] = [[] for _ in range(num_tasks)]
        self.priorities: list[list[float]] = [[] for _ in range(num_tasks)]
        self.max_priority = [1.0] * num_tasks

    def begin(self, task: int, observation: np.ndarray) -> None:
        """Begins an episode with its first observation."""
        self.rows[task].append(Row(self.zeros | {"observation": observation.astype(np.float32)}))
        self.priorities[task].append(0.0)
        if len(self.rows[task]) > self.config.capacity:
            del self.rows[task][0], self.priorities[task][0]

    def add(
        self,
        task: int,
        action: np.ndarray,
        reward: float,
        next_observation: np.ndarray,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Appends the transition from the newest row."""
        values = {
            "action": np.asarray(action, np.float32),
            "reward": np.asarray(reward, np.float32),
        }
        self.rows[task][-1].fields |= values
        self.priorities[task][-1] = self.max_priority[task]
        self.begin(task, next_observation)
        self.rows[task][-1].last = terminated or truncated
        self.rows[task][-1].terminated = terminated

    def sample(
        self, rng: np.random.Generator, batch_size: int
    ) -> tuple[Batch, list[tuple[int, int]]]:
        """Returns a batch, and the (task, row) of each sample for :meth:`update_priorities`."""
        num_tasks = len(self.rows)
        counts = np.full(num_tasks, batch_size // num_tasks)
        counts[rng.permutation(num_tasks)[: batch_size % num_tasks]] += 1
        index: list[tuple[int, int]] = []
        weights: list[np.ndarray] = []
        for task, count in enumerate(counts):
            priority = np.array(self.priorities[task])
            mass = np.where(priority > 0.0, priority**self.config.alpha, 0.0)
            probability = mass / mass.sum()
            drawn = rng.choice(len(mass), count, p=probability)
            index += [(task, int(row)) for row in drawn]
            weight = ((mass > 0.0).sum() * probability[drawn]) ** -self.config.beta
            weights.append(np.clip(weight / weight.max(), 0.1, 1.0))
        return self.gather(index, np.concatenate(weights)), index

    def gather(self, index: Sequence[tuple[int, int]], weight: np.ndarray) -> Batch:
        """Returns the windows that start at the given (task, row)."""
        windows = [self._window(task, start) for task, start in index]
        states = self.states, len(index)
        found = {
            name: np.zeros((*states, *zero.shape), zero.dtype)
            for name, zero in self.zeros.items()
            if name in SEARCHES
        }
        for of, number in ("state", self.window + 1), ("transition", self.window):
            for name in fields_of(of):
                each = [
                    np.array([row.fields[name] for row in rows[:number]]) for rows, _ in windows
                ]
                found[name] = np.stack(each, axis=1)
        return Batch(
            **sorted_out(found),
            length=np.array([length for _, length in windows], np.int32),
            terminated=np.array([rows[-1].terminated for rows, _ in windows]),
            task=np.array([task for task, _ in index], np.int32),
            weight=weight.astype(np.float32),
            age=np.array([len(self.rows[task]) - 1 - row for task, row in index], np.int32),
            searched=np.zeros(states, bool),
            reanalyse=np.arange(np.prod(states), dtype=np.int32),
        )

    def _window(self, task: int, start: int) -> tuple[list[Row], int]:
        """Returns W + 1 rows, with the episode's last row repeated after it, and the number of real transitions."""
        rows = [self.rows[task][start]]
        for row in self.rows[task][start + 1 : start + 1 + self.window]:
            rows.append(row)
            if row.last:
                break
        length = len(rows) - 1
        return rows + rows[-1:] * (self.window - length), length

    def update_priorities(self, index: Sequence[tuple[int, int]], priority: np.ndarray) -> None:
        """Sets the priorities |value - target| of sampled rows."""
        for (task, row), value in zip(index, priority.tolist(), strict=True):
            self.priorities[task][row] = max(value, 1e-6)
            self.max_priority[task] = max(self.max_priority[task], value)


def simplified(config: TrainConfig, precision: Literal["auto", "float32"]) -> TrainConfig:
    """Returns the configuration with every state of every batch searched, and the given precision."""
    return replace(config, precision=precision, loss=replace(config.loss, reanalyze_ratio=1.0))


class Straightforward:
    """An agent that searches with mctx, and its replay. It alternates :meth:`update` and :meth:`act`.

    Args:
        config: of the library's training, see :func:`simplified`.
        suite: the tasks to train on.
        precision: of matrix products while learning.
    """

    def __init__(
        self,
        config: TrainConfig,
        suite: Suite,
        precision: Literal["auto", "float32"] = "float32",
    ) -> None:
        config = simplified(config, precision)
        agent = build(config, suite)
        learner = MctxLearner(agent.learner.suite, config)
        self.state, self.statistics = agent.state, agent.statistics
        self.replay = ListReplay(
            suite.num_tasks,
            suite.observation_size,
            suite.action_size,
            config.replay,
            window=config.loss.unroll + config.loss.n_step,
            states=config.loss.unroll + 1,
            root_actions=config.kept_actions,
        )
        self._batch_size = config.optimizer.batch_size
        self._rng = np.random.default_rng(config.seed)
        self._key = jax.random.key(config.seed)
        self._make_targets: Any = jax.jit(learner.make_targets)
        self._update: Any = jax.jit(learner.update)
        self._plan: Any = jax.jit(learner.policy.plan)

    def step(
        self, normalizer: Normalizer, observation: np.ndarray, task: np.ndarray, updates: int
    ) -> np.ndarray:
        """Makes ``updates`` updates, and returns an action for each observation."""
        for _ in range(updates):
            self.update(normalizer)
        return self.act(normalizer, observation, task)

    def act(self, normalizer: Normalizer, observation: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Returns the search's best action for one observation of each task."""
        self._key, key = jax.random.split(self._key)
        parameters = ActingParameters(self.state.model, normalizer)
        plan = self._plan(key, parameters, observation, task)
        return np.asarray(plan.search.action)

    def targets(self, normalizer: Normalizer, batch: Batch) -> Targets:
        """Returns the targets of a batch, once they are complete."""
        made = self._make_targets(self.state, normalizer, batch, self.state.updates)
        return jax.block_until_ready(made)

    def update(self, normalizer: Normalizer) -> dict[str, jax.Array]:
        """Makes one update, from sampling to priorities, and returns its figures."""
        batch, index = self.replay.sample(self._rng, self._batch_size)
        targets = self.targets(normalizer, batch)
        self.state, figures, priority = self._update(self.state, normalizer, batch, targets)
        self.replay.update_priorities(index, np.asarray(priority))
        return figures
