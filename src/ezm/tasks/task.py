"""A task, and its environment as the rest of ezm sees it: padded, with unit actions, action repeat and a time limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ezm.errors import UserError
from ezm.tasks.simulator import RawStep, Simulator

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TaskSpec:
    """One task of a suite, with its own sizes."""

    name: str
    """Unique in its suite, e.g. ``cartpole-swingup`` or ``Pendulum-v1``."""
    source: str
    """Origin of the task, e.g. ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``, ``my_pkg.tasks:make``."""
    observation_size: int
    action_size: int
    action_repeat: int
    """Simulator steps for each agent step."""
    episode_steps: int | None
    """Agent steps until truncation, None where they are unknown and the environment decides."""
    reward_range: tuple[float, float] | None
    """Bounds of one agent step's reward (action repeat included), None where they are unknown."""
    embodiment: str
    """Name of the robot or mechanism, e.g. ``walker``. Tasks with an equal one and equal sizes share it."""
    neutral_action: tuple[float, ...] | None = None
    """The action that asks for nothing, such as a robot's home pose, None where the task declares none."""


class Step(NamedTuple):
    """The outcome of one agent step."""

    observation: np.ndarray
    """(O,) float32, zero beyond the task's own size."""
    reward: float
    """Sum over the action repeat."""
    terminated: bool
    """Whether the task's rules ended the episode: the next state is worth 0."""
    truncated: bool
    """Whether the time was up: the next state keeps its value. Never together with ``terminated``."""


class Task:
    """One environment of a suite, padded to the suite's sizes.

    Args:
        spec: the task.
        simulator: the task's own environment.
        observation_size: O, the suite's padded observation size.
        action_size: A, the suite's padded action size.

    If the environment raises an exception, or returns a value that is not finite or an observation of another size, a
    :class:`UserError` follows. It names the task and the step within the episode.
    """

    def __init__(
        self, spec: TaskSpec, simulator: Simulator, observation_size: int, action_size: int
    ) -> None:
        self.spec, self.simulator = spec, simulator
        self.observation_size, self.action_size = observation_size, action_size
        self._limit = _simulator_steps(spec, simulator.episode_limit)
        self._simulator_steps = self._steps = 0
        self._running = False
        self.cut_after: int | None = None
        """Agent steps after which an episode is truncated, in addition to the task's own limit."""
        self.guard: AbstractContextManager[None] = nullcontext()
        """Entered for each reset and step, see :func:`ezm.tasks.watchdog.guarded`."""

    @property
    def can_restore(self) -> bool:
        """Whether :meth:`snapshot` and :meth:`restore` are available."""
        return self.simulator.can_restore

    def reset(self) -> np.ndarray:
        """Starts a new episode and returns its first observation, (O,) float32."""
        self._simulator_steps = self._steps = 0
        observation = self._simulated(self.simulator.reset)
        self._running = True
        return self._padded(observation)

    def step(self, action: np.ndarray) -> Step:
        """Takes one agent step.

        Args:
            action: (A,) within [-1, 1], clipped otherwise. Padded dimensions are ignored.

        Raises:
            UserError: the environment failed, or the action is nan.
            RuntimeError: no episode is running. Call :meth:`reset` first.
        """
        own_action, repeat = self._command(action)
        return self._outcome(self._simulated(self.simulator.step, own_action, repeat), repeat)

    def snapshot(self) -> object:
        """Returns all that determines the future of this environment, for :meth:`restore`.

        Raises:
            RuntimeError: the source has no snapshots (see :attr:`can_restore`).
        """
        if not self.can_restore:
            raise RuntimeError(f"task {self.spec.name} cannot be restored")
        return self._simulator_steps, self._steps, self._running, self.simulator.snapshot()

    def restore(self, snapshot: object) -> None:
        """Goes back to a snapshot of this same environment, any number of times."""
        assert isinstance(snapshot, tuple)
        self._simulator_steps, self._steps, self._running, state = snapshot
        self.simulator.restore(state)

    def close(self) -> None:
        self._running = False
        self.simulator.close()

    def _simulated(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            with self.guard:
                return call(*arguments)
        except Exception as error:
            lines = [type(error).__name__, *str(error).strip().splitlines()[:1]]
            raise self._failure(f"raised {': '.join(lines)}") from error

    def _command(self, action: np.ndarray) -> tuple[np.ndarray, int]:
        """Counts a step and returns the task's own action for it, and the simulator steps to hold that action."""
        if not self._running:
            raise RuntimeError(f"task {self.spec.name}: step() without a running episode")
        self._steps += 1
        repeat = self.spec.action_repeat
        if self._limit is not None:
            repeat = min(repeat, self._limit - self._simulator_steps)
        own_action = np.asarray(action[: self.spec.action_size], np.float64)
        own_action = np.minimum(np.maximum(own_action, -1.0), 1.0)
        if np.isnan(own_action).any():
            raise UserError(
                f"task {self.spec.name}, step {self._steps} of the episode: the agent's action is "
                "nan, training has diverged; lower the learning rate"
            )
        return own_action, repeat

    def _outcome(self, raw: RawStep, repeat: int) -> Step:
        """Checks, pads and counts what the simulator returned for a command."""
        reward = float(raw.reward)
        if not abs(reward) <= _LARGEST:
            raise self._failure(f"returned the reward {_unusable(reward)}")
        observation = self._padded(raw.observation)
        self._simulator_steps += repeat
        timed_out = self._limit is not None and self._simulator_steps >= self._limit
        timed_out |= self.cut_after is not None and self._steps >= self.cut_after
        truncated = (raw.truncated or timed_out) and not raw.terminated
        self._running = not (raw.terminated or truncated)
        return Step(observation, reward, raw.terminated, truncated)

    def _padded(self, observation: np.ndarray) -> np.ndarray:
        own = self.spec.observation_size
        if observation.size != own:
            raise self._failure(f"returned {observation.size} observations instead of {own}")
        usable = np.abs(observation) <= _LARGEST
        if not usable.all():
            first = int(np.argmin(usable))
            value = _unusable(float(observation[first]))
            raise self._failure(f"returned {value} as observation number {first}")
        padded = np.zeros(self.observation_size, np.float32)
        padded[:own] = observation
        return padded

    def _failure(self, what: str) -> UserError:
        at = f"step {self._steps} of the episode" if self._steps else "reset"
        return UserError(
            f"task {self.spec.name}, {at}: the environment ({self.spec.source}) {what}; mend it"
        )


def step_together(
    tasks: Sequence[Task],
    actions: Sequence[np.ndarray],
    simulate: Callable[[Sequence[np.ndarray], Sequence[int]], Sequence[RawStep]],
) -> list[Step]:
    """Takes one agent step in every task, with one call of ``simulate`` for all of their simulators.

    Args:
        tasks: the tasks.
        actions: one (A,) for each task.
        simulate: the step of the simulators' stepper, see :class:`ezm.tasks.sources.Source`.

    Raises:
        UserError, RuntimeError: as :meth:`Task.step`.
    """
    commands = [task._command(action) for task, action in zip(tasks, actions, strict=True)]
    own_actions, repeats = zip(*commands, strict=True)
    raws = simulate(own_actions, repeats)
    return [
        task._outcome(raw, repeat) for task, raw, repeat in zip(tasks, raws, repeats, strict=True)
    ]


def _simulator_steps(spec: TaskSpec, own_limit: int | None) -> int | None:
    """Returns the simulator steps of an episode.

    The source's own limit need not be a multiple of the action repeat. It is kept exactly, unless the specification
    sets another number of agent steps.
    """
    if spec.episode_steps is None:
        return None
    if own_limit is not None and agent_steps(own_limit, spec.action_repeat) == spec.episode_steps:
        return own_limit
    return spec.episode_steps * spec.action_repeat


def agent_steps(simulator_steps: int, action_repeat: int) -> int:
    """Returns the agent steps that cover the given simulator steps. The last one may cover them only in part."""
    return -(-simulator_steps // action_repeat)


def _unusable(value: float) -> str:
    return f"{value:g}, which is beyond float32," if math.isfinite(value) else str(value)
