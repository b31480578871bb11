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


_UPDATES: dict[str, Any] = {"donate_argnums": 0, "static_argnums": 5}
"""Options of ``jax.jit`` for the second of :func:`functions`."""


def functions(learner: Learner, example: LearnerState) -> tuple[Any, Any]:
    """Returns ``learner.make_targets`` and ``learner.updates`` as functions of a state's leaves.

    With lists of arrays, no step has to flatten a hundred modules. The first function takes all leaves but the
    optimizer's leaves. The second takes the optimizer's leaves, to overwrite them, then the others, and returns all.

    Args:
        learner: the pure functions.
        example: a state with the structure of all states.
    """
    whole_state = jax.tree.structure(example)
    without_optimizer = jax.tree.structure(replace(example, optimizer=None))
    place = _optimizer_place(example).start

    def make_targets(rest: list[jax.Array], *arguments: Any) -> Targets:
        return learner.make_targets(jax.tree.unflatten(without_optimizer, rest), *arguments)

    def updates(optimizer: list[jax.Array], rest: list[jax.Array], *arguments: Any) -> Any:
        state = jax.tree.unflatten(whole_state, rest[:place] + optimizer + rest[place:])
        state, *found = learner.updates(state, *arguments)
        return jax.tree.leaves(state), *found

    return make_targets, updates


def programs(make_targets: Any, updates: Any, layout: Layout | None) -> tuple[Any, Any]:
    """Returns both :func:`functions` under ``jax.jit``, for one device or for several."""
    if layout is None:
        return jax.jit(make_targets), jax.jit(updates, **_UPDATES)
    whole, batch, targets, priority = layout
    return jax.jit(
        make_targets, in_shardings=(whole, whole, batch, whole), out_shardings=targets
    ), jax.jit(
        updates,
        in_shardings=(whole, whole, whole, batch, targets),
        out_shardings=(whole, whole, priority),
        **_UPDATES,
    )


def _optimizer_place(state: LearnerState) -> slice:
    """Returns the positions of the optimizer's leaves among the state's leaves."""
    before = len(jax.tree.leaves((state.model, state.ema)))
    return slice(before, before + len(jax.tree.leaves(state.optimizer)))


class _Ahead(NamedTuple):
    """The batches drawn for the next step, and their targets under way."""

    updates: int
    batch: Batch
    drawn: Drawn
    targets: Future[Targets]


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
        self._replay, self._rng = replay, rng
        self._timer = timer or Timer()
        self.targets_timer = Timer()
        """Sections of the thread that makes the targets."""
        self._batch_size = learner.config.optimizer.batch_size
        self._batch_uses = learner.config.optimizer.batch_uses
        self._reanalysed = learner.config.loss.reanalysed(self._batch_size)
        devices = learner.config.devices
        self._layout = layout(devices) if devices > 1 else None
        # Programs of several devices wait for each other, so all devices must start them in the same order.
        self._in_order: AbstractContextManager[Any] = Lock() if self._layout else nullcontext()
        self._make_targets, self._updates = programs(*functions(learner, state), self._layout)
        self._structure = jax.tree.structure(state)
        leaves = jax.tree.leaves(state)
        self._leaves = (
            leaves if self._layout is None else jax.device_put(leaves, self._layout.whole)
        )
        self._optimizer_place = _optimizer_place(state)
        self._compiled: dict[int, tuple[Any, Any]] = {}  # by updates per step
        self._prioritised = replay.config.alpha > 0.0
        self._thread = ThreadPoolExecutor(1, "ezm-targets")
        self._next: _Ahead | None = None
        self.updates = int(state.updates)
        """Number of updates done, counted on the host so that reading it does not wait for the device."""
        self._drawn = self.updates
        self._last: Updates | None = None
        self.diverged: Updates | None = None
        """The updates in which a loss or gradient was not finite, or None before that."""

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile` has been called."""
        return bool(self._compiled)

    @property
    def state(self) -> LearnerState:
        """The learner's latest state, on the first device."""
        leaves = self._leaves if self._layout is None else first(self._leaves)
        state: LearnerState = jax.tree.unflatten(self._structure, leaves)
        return state

    @property
    def _parts(self) -> tuple[list[jax.Array], list[jax.Array]]:
        """The optimizer's leaves of the state, and the other leaves."""
        leaves, place = self._leaves, self._optimizer_place
        return leaves[place], leaves[: place.start] + leaves[place.stop :]

    def compile(self, normalizer: Normalizer, updates: int = 1) -> int:
        """Compiles both programs in parallel, for ``updates`` updates per step, ahead of the first step.

        Returns their working memory in bytes on each device: the temporary arrays and the results.
        """
        batch, _ = self._example(updates)
        optimizer, rest = self._parts
        make = self._make_targets.lower(rest, normalizer, batch, np.int32(0))
        update = self._updates.lower(optimizer, rest, normalizer, batch, make.out_info, updates)
        targets = self._thread.submit(make.compile)
        learned = update.compile()
        self._compiled[updates] = compiled = targets.result(), learned
        memory = [program.memory_analysis() for program in compiled]
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
                self._next = self._draw(normalizer, updates)
        updates, batch, drawn, making = self._next
        with section("waiting for targets"):
            targets = making.result()
        if self._reanalysed:
            with section("replay"):
                reanalysed = (
                    targets.reanalysed if self._layout is None else first(targets.reanalysed)
                )
                self._replay.store(*drawn.reanalysed, reanalysed, self.updates)
        with section("waiting for updates"):
            self.settle()
        with section("replay"):
            self._next = self._draw(normalizer, updates if then is None else then)
        optimizer, rest = self._parts
        with section("starting updates"), self._in_order:
            self._leaves, figures, priority = self._learn(
                updates, optimizer, rest, normalizer, batch, targets
            )
        self._last = Updates(batch, targets, figures, priority)
        self.updates += updates
        if self._prioritised:
            with section("waiting for updates"):
                found = np.asarray(priority)
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

    def _make(self, updates: int, *arguments: Any) -> Targets:
        compiled = self._compiled.get(updates)
        made: Targets = (compiled[0] if compiled else self._make_targets)(*arguments)
        return made

    def _learn(self, updates: int, *arguments: Any) -> Any:
        compiled = self._compiled.get(updates)
        return compiled[1](*arguments) if compiled else self._updates(*arguments, updates)

    def _sizes(self, updates: int) -> tuple[int, int, int]:
        """Returns the number of samples in a batch, of states to reanalyse in all batches, and of batches."""
        batches = -(-updates // self._batch_uses)
        return self._batch_size, batches * self._reanalysed, batches

    def _example(self, updates: int) -> tuple[Batch, Drawn]:
        return self._placed(*self._replay.example(*self._sizes(updates)))

    def _placed(self, batch: Batch, drawn: Drawn) -> tuple[Batch, Drawn]:
        if self._layout is not None:
            batch = jax.device_put(batch, self._layout.batch)
        return batch, drawn

    def _draw(self, normalizer: Normalizer, updates: int) -> _Ahead:
        batch, drawn = self._placed(*self._replay.sample(self._rng, *self._sizes(updates)))
        (_, rest), number = self._parts, np.int32(self._drawn)
        self._drawn += updates

        def work() -> Targets:
            with self.targets_timer.section("targets"):
                with self._in_order:
                    targets = self._make(updates, rest, normalizer, batch, number)
                return jax.block_until_ready(targets)

        return _Ahead(updates, batch, drawn, self._thread.submit(work))

    def pending(self) -> dict[str, np.ndarray]:
        """Returns the batches drawn ahead and their targets by name, to save. Empty before the first update."""
        if self._next is None:
            return {}
        updates, batch, drawn, making = self._next
        ahead = {"updates": updates, "batch": batch, "drawn": drawn, "targets": making.result()}
        return {name: np.asarray(leaf) for name, leaf in named(ahead).items()}

    def resume(self, pending: dict[str, np.ndarray], normalizer: Normalizer) -> None:
        """Restores the batches and targets that :meth:`pending` returned."""
        if not pending:
            return
        updates = int(pending["updates"])
        batch, drawn = self._example(updates)
        _, rest = self._parts
        targets = jax.eval_shape(self._make_targets, rest, normalizer, batch, np.int32(0))
        like = {"updates": updates, "batch": batch, "drawn": drawn, "targets": targets}
        ahead = filled(like, pending)
        batch, made = ahead["batch"], ahead["targets"]
        if self._layout is None:
            made = jax.device_put(made)
        else:
            batch, made = jax.device_put((batch, made), (self._layout.batch, self._layout.targets))
        done: Future[Targets] = Future()
        done.set_result(made)
        self._next = _Ahead(updates, batch, ahead["drawn"], done)
        self._drawn += updates

    def close(self) -> None:
        """Waits for the targets under way and stops the thread."""
        self._thread.shutdown()
