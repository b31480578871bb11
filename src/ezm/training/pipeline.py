"""The learner's pipeline: the targets of the next batch are made while a batch is learned.

Making targets takes time of its own, and depends on the EMA parameters only. So a second thread makes the targets
of the next batch from the EMA as it was before the current update: one update late, whatever the speed of either
thread. The result is the same on every run.

Where the learner has several devices, batches go to them in parts; :attr:`Pipeline.state` is what the first one holds, so
whoever acts, evaluates or saves has to do with one device.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ezm.errors import Diverged
from ezm.learning import Learner, LearnerState, Normalizer
from ezm.learning.losses import Targets
from ezm.learning.sharding import Layout, first, layout
from ezm.replay import Batch, Drawn, Replay


class Update(NamedTuple):
    """An update that may still be under way."""

    before: LearnerState
    batch: Batch
    targets: Targets
    figures: dict[str, jax.Array]

    def write(self, path: Path) -> None:
        """Write batch and targets to an .npz file, for who wants to know what went wrong."""
        named = jax.tree_util.tree_leaves_with_path(
            {"batch": self.batch, "targets": self.targets, "figures": self.figures}
        )
        arrays = {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in named}
        np.savez(path, allow_pickle=False, **arrays)


def programs(learner: Learner, layout: Layout | None) -> tuple[Any, Any]:
    """``learner.make_targets`` and ``learner.update``, to be compiled for one device or for several."""
    if layout is None:
        return jax.jit(learner.make_targets), jax.jit(learner.update)
    whole, batch, targets, priority = layout
    make_targets = jax.jit(
        learner.make_targets, in_shardings=(whole, whole, batch, whole), out_shardings=targets
    )
    update = jax.jit(
        learner.update,
        in_shardings=(whole, whole, batch, targets),
        out_shardings=(whole, whole, priority),
    )
    return make_targets, update


class Pipeline:
    """Samples, makes targets, updates, and returns searches and priorities to the replay.

    Args:
        learner: the pure functions.
        state: the learner's state; :attr:`state` is the latest.
        replay: where batches come from.
        rng: draws the batches.

    Raises:
        UserError: JAX has fewer devices than the learner is to use.
    """

    def __init__(
        self, learner: Learner, state: LearnerState, replay: Replay, rng: np.random.Generator
    ):
        self._replay, self._rng = replay, rng
        self._batch_size = learner.config.optimizer.batch_size
        self._renewed = learner.config.loss.renewed(self._batch_size)
        devices = learner.config.devices
        self._layout = layout(devices) if devices > 1 else None
        # Programs of several devices wait for each other: all devices have to begin them in the same order.
        self._in_order: AbstractContextManager[Any] = Lock() if self._layout else nullcontext()
        self._make_targets, self._update = programs(learner, self._layout)
        self._state = state if self._layout is None else jax.device_put(state, self._layout.whole)
        self.compiled = False
        """Whether :meth:`compile` was called."""
        self._prioritised = replay.config.alpha > 0.0
        self._thread = ThreadPoolExecutor(1, "ezm-targets")
        self._next: tuple[Batch, Drawn, Future[Targets]] | None = None
        self.updates = int(state.updates)
        """Updates done, counted here so that asking does not wait for the device."""
        self._drawn = self.updates
        self._last: Update | None = None
        self.diverged: Update | None = None
        """The update that was not finite, once there is one."""

    @property
    def state(self) -> LearnerState:
        """The learner's latest state, on the first device."""
        return self._state if self._layout is None else first(self._state)

    def compile(self, normalizer: Normalizer) -> int:
        """Compile both programs side by side, ahead of the first update.

        Returns their working memory in bytes: what a batch needs while it is learned, beside the parameters, on each
        device.
        """
        batch, _ = self._sample(np.random.default_rng(0))
        make = self._make_targets.lower(self._state, normalizer, batch, jnp.int32(0))
        update = self._update.lower(self._state, normalizer, batch, make.out_info)
        targets = self._thread.submit(make.compile)
        self._update = update.compile()
        self._make_targets = targets.result()
        self.compiled = True
        memory = (self._make_targets.memory_analysis(), self._update.memory_analysis())
        return sum(m.temp_size_in_bytes + m.output_size_in_bytes for m in memory if m)

    def step(self, normalizer: Normalizer) -> dict[str, jax.Array]:
        """One update; returns its figures, which may still be under way.

        Raises:
            Diverged: as :meth:`settle`, of the update before.
        """
        if self._next is None:
            self._next = self._draw(normalizer)
        batch, drawn, making = self._next
        targets = self._wait(making)
        if self._renewed:
            self._replay.store(*drawn.renewed, targets.renewed, self.updates)
        self._next = self._draw(normalizer)
        self.settle()
        before = self._state
        with self._in_order:
            self._state, figures, priority = self._update(before, normalizer, batch, targets)
        self._last = Update(before, batch, targets, figures)
        self.updates += 1
        if self._prioritised:
            self._replay.update_priorities(drawn, np.asarray(priority))
        return figures

    def settle(self) -> None:
        """Wait for the last update and check it.

        Raises:
            Diverged: its loss or gradient is not finite. :attr:`state` is that before it, and :attr:`diverged` is it.
        """
        last, self._last = self._last, None
        if last is None:
            return
        loss, norm = (float(last.figures[name]) for name in ("loss/total", "gradient_norm"))
        if np.isfinite(loss) and np.isfinite(norm):
            return
        self._state, self.diverged = last.before, last
        self.updates -= 1
        raise Diverged(
            f"update {self.updates} gave the loss {loss:g} and a gradient of norm {norm:g}"
        )

    def _wait(self, making: Future[Targets]) -> Targets:
        return making.result()

    def _sample(self, rng: np.random.Generator) -> tuple[Batch, Drawn]:
        batch, drawn = self._replay.sample(rng, self._batch_size, self._renewed)
        if self._layout is not None:
            batch = jax.device_put(batch, self._layout.batch)
        return batch, drawn

    def _draw(self, normalizer: Normalizer) -> tuple[Batch, Drawn, Future[Targets]]:
        batch, drawn = self._sample(self._rng)
        number = jnp.int32(self._drawn)
        self._drawn += 1

        def work(state: LearnerState) -> Targets:
            with self._in_order:
                targets = self._make_targets(state, normalizer, batch, number)
            return jax.block_until_ready(targets)

        return batch, drawn, self._thread.submit(work, self._state)

    def pending(self) -> dict[str, np.ndarray]:
        """The batch that was drawn ahead and its targets, as arrays to be saved; empty before the first update."""
        if self._next is None:
            return {}
        batch, drawn, making = self._next
        leaves = map(np.asarray, jax.tree.leaves((batch, drawn, making.result())))
        return {f"{i:03d}": leaf for i, leaf in enumerate(leaves)}

    def resume(self, pending: dict[str, np.ndarray], normalizer: Normalizer) -> None:
        """Go on with what :meth:`pending` saved. The replay must hold its data again."""
        if not pending:
            return
        batch, drawn = self._sample(np.random.default_rng(0))
        number = jnp.int32(0)
        targets = jax.eval_shape(self._make_targets, self._state, normalizer, batch, number)
        structure = jax.tree.structure((batch, drawn, targets))
        leaves = [pending[name] for name in sorted(pending)]
        batch, drawn, made = jax.tree.unflatten(structure, leaves)
        if self._layout is None:
            made = jax.tree.map(jnp.asarray, made)
        else:
            batch, made = jax.device_put((batch, made), (self._layout.batch, self._layout.targets))
        done: Future[Targets] = Future()
        done.set_result(made)
        self._next = batch, drawn, done
        self._drawn += 1

    def close(self) -> None:
        """Wait for the targets under way and stop the thread."""
        self._thread.shutdown()
