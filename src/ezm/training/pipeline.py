"""The learner's pipeline: the targets of the next batches are made while a step's batches are learned.

All updates due at an environment step are one program, and the targets of all their batches are another program.
Targets depend on the EMA parameters only. So a second thread makes the next step's targets from the EMA before this
step's updates. The EMA is one step late, whatever the speed of either thread, so the result is the same on every run.

Where the learner has several devices, each gets a part of every batch. The property :attr:`Pipeline.state` is the first
device's copy. So acting, evaluating and saving use one device.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np

from ezm.agent.batch import Batch
from ezm.agent.learning import Learner, LearnerState, Normalizer
from ezm.agent.learning.losses import Targets
from ezm.agent.learning.sharding import Layout, first, layout
from ezm.agent.named import filled, named
from ezm.errors import Diverged
from ezm.experience import Drawn, Replay
from ezm.training.timer import Timer


class Updates(NamedTuple):
    """The batches, targets and results of a step's updates, which may still be under way."""

    batch: Batch
    targets: Targets
    figures: dict[str, jax.Array]
    """Figures of each update, by name."""
    priority: jax.Array
    """|value - target| of the first state of each sample."""

    def value_errors(self, num_tasks: int) -> np.ndarray:
        """Returns the mean |value - target| of each task's samples, (K,), nan for a task without samples.

        It waits for the updates.
        """
        task, priority = np.asarray(self.batch.task), np.asarray(self.priority, np.float64)
        samples = np.bincount(task, minlength=num_tasks)
        with np.errstate(invalid="ignore"):
            return np.bincount(task, priority, num_tasks) / samples

    def write(self, path: Path) -> None:
        """Writes batches, targets, figures and priorities to an .npz file, to find the cause of a divergence."""
        np.savez(path, allow_pickle=False, **named(self._asdict()))


def _parts(state: LearnerState) -> tuple[Any, LearnerState]:
    """Returns the optimizer's part of a state, which updates overwrite, and the rest."""
    return state.optimizer, replace(state, optimizer=None)


def programs(learner: Learner, example: LearnerState, layout: Layout | None) -> tuple[Any, Any]:
    """Returns ``learner.make_targets`` and ``learner.updates`` under ``jax.jit``, as functions of lists of arrays.

    With lists, no step has to flatten a hundred modules. The first function takes all leaves of a state but the
    optimizer's. The second takes the optimizer's leaves, to overwrite them, then the others, and returns both.

    Args:
        learner: the pure functions.
        example: a state with the structure of all states.
        layout: where arrays lie on several devices. None means one device.
    """
    optimizer_tree, rest_tree = map(jax.tree.structure, _parts(example))

    def make_targets(rest: list[jax.Array], *arguments: Any) -> Targets:
        return learner.make_targets(jax.tree.unflatten(rest_tree, rest), *arguments)

    def updates(optimizer: list[jax.Array], rest: list[jax.Array], *arguments: Any) -> Any:
        state: LearnerState = jax.tree.unflatten(rest_tree, rest)
        state = replace(state, optimizer=jax.tree.unflatten(optimizer_tree, optimizer))
        state, *found = learner.updates(state, *arguments)
        return *map(jax.tree.leaves, _parts(state)), *found

    to_make: dict[str, Any] = {}
    to_update: dict[str, Any] = {"donate_argnums": 0, "static_argnums": 5}
    if layout is not None:
        whole, batch, targets, priority = layout
        to_make = {"in_shardings": (whole, whole, batch, whole), "out_shardings": targets}
        to_update["in_shardings"] = (whole, whole, whole, batch, targets)
        to_update["out_shardings"] = (whole, whole, whole, priority)
    return jax.jit(make_targets, **to_make), jax.jit(updates, **to_update)


class _Ahead(NamedTuple):
    """The batches drawn for the next step, and their targets under way."""

    updates: int
    batch: Batch
    drawn: Drawn
    targets: Any
    """Future of the targets. In a checkpoint the targets themselves."""


class Pipeline:
    """Samples batches, makes targets, updates the learner, and writes searches and priorities to the replay.

    Args:
        learner: the pure functions.
        state: the learner's state. The pipeline owns and overwrites its arrays. :attr:`state` is the latest state.
        replay: source of the batches.
        rng: draws the batches.
        timer: of the thread that calls :meth:`step`.

    Raises:
        UserError: JAX has fewer devices than the learner should use.
    """

    def __init__(
        self,
        learner: Learner,
        state: LearnerState,
        replay: Replay,
        rng: np.random.Generator,
        timer: Timer | None = None,
    ):
        self._config, self._replay, self._rng = learner.config, replay, rng
        self._timer, self.targets_timer = timer or Timer(), Timer()
        """Sections of the thread that calls :meth:`step`, and of the thread that makes the targets."""
        devices = learner.config.devices
        self._layout = layout(devices) if devices > 1 else None
        # Programs of several devices wait for each other, so all devices must start them in the same order.
        self._in_order: AbstractContextManager[Any] = Lock() if self._layout else nullcontext()
        self._make_targets, self._updates = programs(learner, state, self._layout)
        self._compiler = ThreadPoolExecutor(2, "ezm-compiler")
        self._compiled: dict[int, tuple[Future[Any], Future[Any]]] = {}  # by updates per step
        self._optimizer_tree, self._rest_tree = map(jax.tree.structure, _parts(state))
        parts = [jax.tree.leaves(part) for part in _parts(state)]
        if self._layout is not None:
            parts = jax.device_put(parts, self._layout.whole)
        self._optimizer, self._rest = parts
        """Leaves of the state."""
        self._thread = ThreadPoolExecutor(1, "ezm-targets")
        self._next: _Ahead | None = None
        self.updates = int(state.updates)
        """Number of updates done, counted on the host so that reading it does not wait for the device."""
        self._last: Updates | None = None
        self.diverged: Updates | None = None
        """The updates in which a loss or gradient was not finite, or None before that."""

    @property
    def state(self) -> LearnerState:
        """The learner's latest state, on the first device."""
        leaves = self._on_first(self._optimizer)
        return replace(self.acting, optimizer=jax.tree.unflatten(self._optimizer_tree, leaves))

    @property
    def acting(self) -> LearnerState:
        """The latest state without the optimizer's part, which acting does not need."""
        state: LearnerState = jax.tree.unflatten(self._rest_tree, self._on_first(self._rest))
        return state

    def compile(self, normalizer: Normalizer, updates: int = 1) -> None:
        """Starts to compile both programs in parallel, for ``updates`` updates per step, ahead of their first use."""
        batch, _ = self._placed(*self._replay.example(*self._sizes(updates)))
        make = self._make_targets.lower(self._rest, normalizer, batch, np.int32(0))
        targets = self._compiler.submit(make.compile)
        update = self._updates.lower(
            self._optimizer, self._rest, normalizer, batch, make.out_info, updates
        )
        self._compiled[updates] = targets, self._compiler.submit(update.compile)

    def working_memory(self, updates: int = 1) -> int:
        """Returns the bytes of temporary arrays and results on each device, once both programs are compiled."""
        memory = [program.result().memory_analysis() for program in self._compiled[updates]]
        return sum(m.temp_size_in_bytes + m.output_size_in_bytes for m in memory if m)

    def step(self, normalizer: Normalizer, updates: int = 1, then: int | None = None) -> Updates:
        """Starts a step's updates, which may still be under way when this returns.

        Args:
            normalizer: of observations.
            updates: number of updates. If the step before has drawn batches, their number counts instead.
            then: number of updates to draw batches for in the next step. None means the same number.

        Raises:
            Diverged: the step before diverged, see :meth:`settle`.
        """
        section = self._timer.section
        if self._next is None:
            with section("replay"):
                self._next = self._draw(normalizer, updates, self.updates)
        updates, batch, drawn, making = self._next
        with section("waiting for targets"):
            targets = making.result()
        if drawn.reanalysed[0].size:
            with section("replay"):
                searches = self._on_first(targets.reanalysed)
                self._replay.store(*drawn.reanalysed, searches, self.updates)
        with section("waiting for updates"):
            self.settle()
        with section("replay"):
            number = self.updates + updates
            self._next = self._draw(normalizer, updates if then is None else then, number)
        learn = self._programs(normalizer, updates)[1].result()
        with section("starting updates"), self._in_order:
            self._optimizer, self._rest, figures, priority = learn(
                self._optimizer, self._rest, normalizer, batch, targets
            )
        self._last = Updates(batch, targets, figures, priority)
        self.updates = number
        if self._config.replay.alpha:
            with section("waiting for updates"):
                found = np.asarray(priority)
            if np.isfinite(found).all():  # otherwise the next `settle` ends the training
                with section("replay"):
                    self._replay.update_priorities(drawn, found)
        return self._last

    def settle(self) -> None:
        """Waits for the last updates and checks them.

        Raises:
            Diverged: a loss or gradient is not finite. :attr:`state` is then the state before these updates, and
                :attr:`diverged` has the updates.
        """
        last, self._last = self._last, None
        if last is None:
            return
        loss, norm = (np.asarray(last.figures[name]) for name in ("loss/total", "gradient_norm"))
        bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
        if not len(bad):
            return
        self.diverged = last
        self.updates -= len(loss)
        first = bad[0]
        raise Diverged(
            f"update {self.updates + first} gave the loss {loss[first]:g} and a gradient of norm {norm[first]:g}"
        )

    def pending(self) -> dict[str, np.ndarray]:
        """Returns the batches drawn ahead and their targets by name, to save. Empty before the first update."""
        if self._next is None:
            return {}
        ahead = self._next._replace(targets=self._next.targets.result())
        return {name: np.asarray(leaf) for name, leaf in named(ahead).items()}

    def resume(self, pending: dict[str, np.ndarray], normalizer: Normalizer) -> None:
        """Restores the batches and targets that :meth:`pending` returned."""
        if not pending:
            return
        updates = int(pending["updates"])
        batch, drawn = self._replay.example(*self._sizes(updates))
        targets = jax.eval_shape(self._make_targets, self._rest, normalizer, batch, np.int32(0))
        _, batch, drawn, targets = filled(_Ahead(updates, batch, drawn, targets), pending)
        where = None if self._layout is None else self._layout.targets
        made: Future[Targets] = Future()
        made.set_result(jax.device_put(targets, where))
        self._next = _Ahead(updates, *self._placed(batch, drawn), made)

    def close(self) -> None:
        """Waits for the targets and the compilation under way, and stops the threads."""
        self._thread.shutdown()
        self._compiler.shutdown()

    def _draw(self, normalizer: Normalizer, updates: int, number: int) -> _Ahead:
        """Draws the batches of a step, the first of which is update ``number``, and starts their targets."""
        make, rest = self._programs(normalizer, updates)[0].result(), self._rest
        batch, drawn = self._placed(*self._replay.sample(self._rng, *self._sizes(updates)))

        def work() -> Targets:
            with self.targets_timer.section("targets"):
                with self._in_order:
                    targets: Targets = make(rest, normalizer, batch, np.int32(number))
                return jax.block_until_ready(targets)

        return _Ahead(updates, batch, drawn, self._thread.submit(work))

    def _programs(self, normalizer: Normalizer, updates: int) -> tuple[Future[Any], Future[Any]]:
        """Returns the programs that make the targets and the updates of a step with ``updates`` updates."""
        if updates not in self._compiled:
            self.compile(normalizer, updates)
        return self._compiled[updates]

    def _sizes(self, updates: int) -> tuple[int, int, int]:
        """Returns the number of samples in a batch, of states to reanalyse in all batches, and of batches."""
        size = self._config.optimizer.batch_size
        batches = -(-updates // self._config.optimizer.batch_uses)
        return size, batches * self._config.loss.reanalysed(size), batches

    def _placed(self, batch: Batch, drawn: Drawn) -> tuple[Batch, Drawn]:
        """Gives each device its part of a batch."""
        return (jax.device_put(batch, self._layout.batch) if self._layout else batch), drawn

    def _on_first(self, tree: Any) -> Any:
        """Returns the first device's part of each array."""
        return first(tree) if self._layout else tree
