"""The learner's pipeline: the targets of the next batches are made while a step's batches are learned.

All updates that a step of the environments owes are one program, and the targets of all their batches another. Making
targets depends on the EMA parameters only. So a second thread makes those of the next step from the EMA as it was before
this step's updates: one step late, whatever the speed of either thread. The result is the same on every run.

Where the learner has several devices, batches go to them in parts; :attr:`Pipeline.state` is what the first one holds, so
whoever acts, evaluates or saves has to do with one device.
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

from ezm.errors import Diverged
from ezm.learning import Learner, LearnerState, Normalizer
from ezm.learning.losses import Targets
from ezm.learning.sharding import Layout, first, layout
from ezm.programs import Prepared, prepare
from ezm.replay import Batch, Drawn, Replay


class Updates(NamedTuple):
    """The updates of a step, which may still be under way."""

    batch: Batch
    targets: Targets
    figures: dict[str, jax.Array]
    """Of each update."""
    priority: jax.Array
    """|value - target| of the first state of each sample."""

    def value_errors(self, num_tasks: int) -> np.ndarray:
        """(K,) mean |value - target| of each task's samples; nan where a task has none. Waits for the updates."""
        task, priority = np.asarray(self.batch.task), np.asarray(self.priority, np.float64)
        samples = np.bincount(task, minlength=num_tasks)
        with np.errstate(invalid="ignore"):
            return np.bincount(task, priority, num_tasks) / samples

    def write(self, path: Path) -> None:
        """Write batches and targets to an .npz file, for who wants to know what went wrong."""
        named = jax.tree_util.tree_leaves_with_path(self._asdict())
        arrays = {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in named}
        np.savez(path, allow_pickle=False, **arrays)


_UPDATES: dict[str, Any] = {"donate_argnums": 0, "static_argnums": 5}
"""How :func:`functions`' second one is compiled."""


def functions(learner: Learner, example: LearnerState) -> tuple[Any, Any]:
    """``learner.make_targets`` and ``learner.updates`` on a state's leaves.

    Lists of arrays spare every step the taking apart of a hundred modules. The first function takes all leaves but the
    optimizer's. The second takes these, to write over them, and the others, and returns all.

    Args:
        learner: the pure functions.
        example: a state of the structure that all will have.
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
    """Both :func:`functions`, to be compiled for one device or for several."""
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
    """Of the optimizer's among the state's leaves."""
    before = len(jax.tree.leaves((state.model, state.ema)))
    return slice(before, before + len(jax.tree.leaves(state.optimizer)))


class _Ahead(NamedTuple):
    """What is drawn for the next step."""

    updates: int
    batch: Batch
    drawn: Drawn
    targets: Future[Targets]


class Pipeline:
    """Samples, makes targets, updates, and returns searches and priorities to the replay.

    Args:
        learner: the pure functions.
        state: the learner's state, which is this object's from now on; :attr:`state` is the latest.
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
        self._batch_uses = learner.config.optimizer.batch_uses
        self._renewed = learner.config.loss.renewed(self._batch_size)
        devices = learner.config.devices
        self._layout = layout(devices) if devices > 1 else None
        # Programs of several devices wait for each other: all devices have to begin them in the same order.
        self._in_order: AbstractContextManager[Any] = Lock() if self._layout else nullcontext()
        self._functions = functions(learner, state)
        self._make_targets, self._updates = programs(*self._functions, self._layout)
        self._structure = jax.tree.structure(state)
        self._identity = f"{learner.identity} {self._structure}"
        leaves = jax.tree.leaves(state)
        self._leaves = (
            leaves if self._layout is None else jax.device_put(leaves, self._layout.whole)
        )
        self._optimizer_place = _optimizer_place(state)
        self._compiled: dict[int, tuple[Any, Any]] = {}  # by updates a step
        self._prioritised = replay.config.alpha > 0.0
        self._thread = ThreadPoolExecutor(1, "ezm-targets")
        self._next: _Ahead | None = None
        self.updates = int(state.updates)
        """Updates done, counted here so that asking does not wait for the device."""
        self._drawn = self.updates
        self._last: Updates | None = None
        self.diverged: Updates | None = None
        """The updates of which one was not finite, once there is one."""

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile` was called."""
        return bool(self._compiled)

    @property
    def state(self) -> LearnerState:
        """The learner's latest state, on the first device."""
        leaves = self._leaves if self._layout is None else first(self._leaves)
        state: LearnerState = jax.tree.unflatten(self._structure, leaves)
        return state

    @property
    def _parts(self) -> tuple[list[jax.Array], list[jax.Array]]:
        """The optimizer's leaves of the state, and the others."""
        leaves, place = self._leaves, self._optimizer_place
        return leaves[place], leaves[: place.start] + leaves[place.stop :]

    def compile(self, normalizer: Normalizer, updates: int = 1) -> int:
        """Compile both programs side by side, for so many updates a step, ahead of the first.

        Returns their working memory in bytes: what the batches of a step need while they are learned, beside the
        parameters, on each device.
        """
        batch, _ = self._example(updates)
        optimizer, rest = self._parts
        make = self._prepared("targets", rest, normalizer, batch, np.int32(0))
        update = self._prepared(
            "updates", optimizer, rest, normalizer, batch, make.out_info, static=(updates,)
        )
        targets = self._thread.submit(make.compile)
        learned = update.compile()
        self._compiled[updates] = compiled = targets.result(), learned
        memory = [program.memory_analysis() for program in compiled]
        return sum(m.temp_size_in_bytes + m.output_size_in_bytes for m in memory if m)

    def _prepared(self, name: str, *arguments: Any, static: tuple[int, ...] = ()) -> Prepared:
        targets = name == "targets"
        if self._layout is None:
            function, options = self._functions[not targets], {} if targets else _UPDATES
            of = f"{name} {self._identity}"
            return prepare(function, *arguments, of=of, static=static, **options)
        lowered = (self._make_targets if targets else self._updates).lower(*arguments, *static)
        return Prepared(lowered.out_info, lowered.compile)

    def step(self, normalizer: Normalizer, updates: int = 1, then: int | None = None) -> Updates:
        """Some updates, which may still be under way when this returns.

        Args:
            normalizer: of observations.
            updates: how many, unless some were drawn in the step before.
            then: how many are drawn for the next step; None: as many.

        Raises:
            Diverged: as :meth:`settle`, of the step before.
        """
        if self._next is None:
            self._next = self._draw(normalizer, updates)
        updates, batch, drawn, making = self._next
        targets = self._wait(making)
        if self._renewed:
            renewed = targets.renewed if self._layout is None else first(targets.renewed)
            self._replay.store(*drawn.renewed, renewed, self.updates)
        self.settle()
        self._next = self._draw(normalizer, updates if then is None else then)
        optimizer, rest = self._parts
        with self._in_order:
            self._leaves, figures, priority = self._learn(
                updates, optimizer, rest, normalizer, batch, targets
            )
        self._last = Updates(batch, targets, figures, priority)
        self.updates += updates
        if self._prioritised:
            self._replay.update_priorities(drawn, np.asarray(priority))
        return self._last

    def settle(self) -> None:
        """Wait for the last updates and check them.

        Raises:
            Diverged: a loss or gradient is not finite. :attr:`state` is that before these updates, and
                :attr:`diverged` has them.
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

    def _wait(self, making: Future[Targets]) -> Targets:
        return making.result()

    def _make(self, updates: int, *arguments: Any) -> Targets:
        compiled = self._compiled.get(updates)
        made: Targets = (compiled[0] if compiled else self._make_targets)(*arguments)
        return made

    def _learn(self, updates: int, *arguments: Any) -> Any:
        compiled = self._compiled.get(updates)
        return compiled[1](*arguments) if compiled else self._updates(*arguments, updates)

    def _sizes(self, updates: int) -> tuple[int, int, int]:
        """Samples of a batch, states to be searched anew in all batches, and batches."""
        batches = -(-updates // self._batch_uses)
        return self._batch_size, batches * self._renewed, batches

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
            with self._in_order:
                targets = self._make(updates, rest, normalizer, batch, number)
            return jax.block_until_ready(targets)

        return _Ahead(updates, batch, drawn, self._thread.submit(work))

    def pending(self) -> dict[str, np.ndarray]:
        """The batch that was drawn ahead and its targets, as arrays to be saved; empty before the first update."""
        if self._next is None:
            return {}
        updates, batch, drawn, making = self._next
        leaves = map(np.asarray, jax.tree.leaves((batch, drawn, making.result())))
        return {f"{i:03d}": leaf for i, leaf in enumerate([np.asarray(updates), *leaves])}

    def resume(self, pending: dict[str, np.ndarray], normalizer: Normalizer) -> None:
        """Go on with what :meth:`pending` saved."""
        if not pending:
            return
        number, *leaves = (pending[name] for name in sorted(pending))
        updates = int(number)
        batch, drawn = self._example(updates)
        _, rest = self._parts
        targets = jax.eval_shape(self._make_targets, rest, normalizer, batch, np.int32(0))
        structure = jax.tree.structure((batch, drawn, targets))
        batch, drawn, made = jax.tree.unflatten(structure, leaves)
        if self._layout is None:
            made = jax.device_put(made)
        else:
            batch, made = jax.device_put((batch, made), (self._layout.batch, self._layout.targets))
        done: Future[Targets] = Future()
        done.set_result(made)
        self._next = _Ahead(updates, batch, drawn, done)
        self._drawn += updates

    def close(self) -> None:
        """Wait for the targets under way and stop the thread."""
        self._thread.shutdown()
