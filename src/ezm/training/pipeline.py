"""The learner's pipeline: the targets of the next batch are made while a batch is learned.

Searching for targets takes about as long as the gradient step, and depends on the EMA parameters only. So a second
thread makes the targets of the next batch from the EMA as it was before the current update: one update late, whatever
the speed of either thread. The result is the same on every run.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ezm.learning import Learner, LearnerState, Normalizer
from ezm.learning.losses import Targets
from ezm.replay import Batch, Replay


class Pipeline:
    """Samples, makes targets, updates, and returns priorities to the replay.

    Args:
        learner: the pure functions.
        state: the learner's state; :attr:`state` is the latest.
        replay: where batches come from.
        rng: draws the batches.
    """

    def __init__(
        self, learner: Learner, state: LearnerState, replay: Replay, rng: np.random.Generator
    ):
        self.state = state
        self._replay, self._rng = replay, rng
        self._batch_size = learner.config.optimizer.batch_size
        self._make_targets: Any = jax.jit(learner.make_targets)
        self._update: Any = jax.jit(learner.update)
        self._prioritised = replay.config.alpha > 0.0
        self._thread = ThreadPoolExecutor(1, "ezm-targets")
        self._next: tuple[Batch, Any, Future[Targets]] | None = None
        self.updates = int(state.updates)
        """Updates done, counted here so that asking does not wait for the device."""
        self._drawn = self.updates

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile` was called."""
        return isinstance(self._update, jax.stages.Compiled)

    def compile(self, normalizer: Normalizer) -> int:
        """Compile both programs side by side, ahead of the first update.

        Returns their working memory in bytes: what a batch needs while it is learned, beside the parameters.
        """
        batch, _ = self._replay.sample(np.random.default_rng(0), self._batch_size)
        make = self._make_targets.lower(self.state, normalizer, batch, jnp.int32(0))
        update = self._update.lower(self.state, normalizer, batch, make.out_info)
        targets = self._thread.submit(make.compile)
        self._update = update.compile()
        self._make_targets = targets.result()
        memory = (self._make_targets.memory_analysis(), self._update.memory_analysis())
        return sum(m.temp_size_in_bytes + m.output_size_in_bytes for m in memory if m)

    def step(self, normalizer: Normalizer) -> dict[str, jax.Array]:
        """One update; returns its figures."""
        if self._next is None:
            self._next = self._draw(normalizer)
        batch, index, targets = self._next
        ready = targets.result()
        self._next = self._draw(normalizer)
        self.state, figures, priority = self._update(self.state, normalizer, batch, ready)
        self.updates += 1
        if self._prioritised:
            self._replay.update_priorities(index, np.asarray(priority))
        return figures

    def _draw(self, normalizer: Normalizer) -> tuple[Batch, Any, Future[Targets]]:
        batch, index = self._replay.sample(self._rng, self._batch_size)
        number = jnp.int32(self._drawn)
        self._drawn += 1

        def work(state: LearnerState) -> Targets:
            return jax.block_until_ready(self._make_targets(state, normalizer, batch, number))

        return batch, index, self._thread.submit(work, self.state)

    def close(self) -> None:
        """Wait for the targets under way and stop the thread."""
        self._thread.shutdown()
