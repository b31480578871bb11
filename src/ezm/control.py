"""The planner for a robot's control loop: a trained agent that plans one action at a time, in real time.

::

    planner = Planner.load("runs/RUN", budget_ms=20)
    while True:
        action = planner.act(observation, "walker-walk")
"""

from __future__ import annotations

import bisect
import functools
import time
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ezm.acting.load import load_agent
from ezm.agent.agent import Agent
from ezm.agent.planning import rounds
from ezm.agent.search_policy import ActingParameters
from ezm.agent.world_model.layers import Precision
from ezm.agent.world_model.precision import with_weights
from ezm.config import PlannerConfig
from ezm.errors import UserError, nearest
from ezm.runs.folder import RunFolder

_WARM_UP, _TIMED = 5, 50


class Planner:
    """Plans for one observation at a time, with a program that is compiled before the first call.

    Args:
        agent: a trained agent, see :func:`ezm.acting.load.load_agent`.
        simulations: number in each search. The default is the number in training.
        budget_ms: milliseconds that a call may take. The planner measures searches of different size when it is
            made, and takes the largest whose 99th percentile fits. It has at most ``simulations``.
        precision: of the weights inside the tree. The root keeps float32. ``bfloat16`` reads half the memory, and is
            fast where the processor multiplies it in hardware (AMX, AVX512-BF16).
        warm_start: make the next action of a task's previous plan a candidate of its next plan. Call :meth:`reset`
            at the beginning of an episode.
        seed: of the search's samples. The same calls in the same order give the same actions.

    Raises:
        UserError: an option is out of range, or not even one simulation fits the budget.
    """

    simulations: int
    """Number of simulations in each search."""
    p99_ms: float | None
    """99th percentile of a call's time, measured at the start. None without a budget."""

    def __init__(
        self,
        agent: Agent,
        *,
        simulations: int | None = None,
        budget_ms: float | None = None,
        precision: Precision = "float32",
        warm_start: bool = False,
        seed: int = 0,
    ) -> None:
        config = agent.learner.config.planner.evaluating()
        if simulations is not None:
            if simulations < 1:
                raise UserError(f"simulations {simulations}: must be at least 1")
            config = replace(config, simulations=simulations)
        if budget_ms is not None and not budget_ms > 0:
            raise UserError(f"budget_ms {budget_ms}: must be greater than 0")
        self.suite = agent.suite
        if precision not in typing.get_args(Precision):
            known = " or ".join(typing.get_args(Precision))
            raise UserError(f"precision {precision!r}: must be {known}")
        self.warm_start = warm_start
        self._policy = agent.learner.policy
        self._key = jax.random.key(seed)
        root = agent.state.model.for_one_robot(self._key)
        tree = root if precision == "float32" else with_weights(root, precision)
        # One flat list: flattening a model at each call would cost a tenth of a millisecond.
        parameters = ActingParameters(root, agent.statistics.normalizer())
        self._arrays, self._structure = jax.tree.flatten((parameters, tree))
        self._calls = 0
        self.reset()
        self.p99_ms = None
        program = functools.cache(lambda number: self._compile(replace(config, simulations=number)))
        self.simulations = config.simulations
        if budget_ms is not None:
            self.simulations, self.p99_ms = most_that_fits(
                _schedule_prefixes(config), budget_ms, lambda number: self._p99_ms(program(number))
            )
        self._program = program(self.simulations)

    @classmethod
    def load(cls, run: str | Path, **options: Any) -> Planner:
        """Returns a planner for the agent in a run folder's latest checkpoint. The class lists the ``options``.

        Raises:
            UserError: the path is not a run folder, or the run has no checkpoint.
        """
        agent, _ = load_agent(RunFolder.open(Path(run)))
        return cls(agent, **options)

    def reset(self) -> None:
        """Forgets the previous plans, for the beginning of an episode."""
        self._next_action = np.full((len(self.tasks), self.suite.action_size), np.nan, np.float32)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that :meth:`act` can plan for."""
        return self.suite.task_names

    def act(self, observation: np.ndarray, task: str | int) -> np.ndarray:
        """Returns the best action that the search found.

        Args:
            observation: (O,) of the task's own size.
            task: its name, or its index in :attr:`tasks`.

        Returns:
            The action (A,) of the task's own size, within [-1, 1], the bounds of its action space.

        Raises:
            UserError: the task is unknown, or the observation has another size or is not finite.
        """
        index = self._index(task)
        spec = self.suite.tasks[index]
        given = np.asarray(observation, np.float32)
        if given.shape != (spec.observation_size,):
            raise UserError(
                f"{spec.name}: observation of shape {given.shape}, expected ({spec.observation_size},)"
            )
        if not np.isfinite(given).all():
            raise UserError(f"{spec.name}: the observation holds a nan or an infinite number")
        padded = np.zeros((1, self.suite.observation_size), np.float32)
        padded[0, : len(given)] = given
        self._calls += 1
        previous = self._next_action[index : index + 1]
        action, next_action = self._program(self._calls, padded, index, previous)
        if self.warm_start:
            self._next_action[index] = next_action
        return np.array(action[: spec.action_size])

    def _index(self, task: str | int) -> int:
        if isinstance(task, str) and task in self.tasks:
            return self.tasks.index(task)
        if isinstance(task, int | np.integer) and 0 <= task < len(self.tasks):
            return int(task)
        raise UserError(
            f"task {task!r} is not one of this agent's{nearest(str(task), self.tasks)}: "
            f"it knows {', '.join(self.tasks)}"
        )

    def _compile(self, config: PlannerConfig) -> Callable[..., Any]:
        """Returns a compiled ``program(call, observation, task, previous)``.

        It returns the action and the plan's next action.
        """

        def act(
            arrays: list[Array],
            key: Array,
            call: Array,
            observation: Array,
            task: Array,
            previous: Array,
        ) -> tuple[Array, Array]:
            parameters, tree_model = jax.tree.unflatten(self._structure, arrays)
            search = self._policy.plan(
                jax.random.fold_in(key, call),
                parameters,
                observation,
                task,
                config,
                tree_model=tree_model,
                warm_start=previous if self.warm_start else None,
            ).search
            return search.action[0], search.next_action[0]

        compiled = jax.jit(act)

        def program(call: int, observation: np.ndarray, task: int, previous: np.ndarray) -> Any:
            state = np.int32(call), observation, np.array([task], np.int32), previous
            return jax.tree.map(np.asarray, compiled(self._arrays, self._key, *state))

        program(0, *self._nothing)
        return program

    @property
    def _nothing(self) -> tuple[np.ndarray, int, np.ndarray]:
        """An observation, a task and a previous plan's action for compiling and measuring."""
        observation = np.zeros((1, self.suite.observation_size), np.float32)
        return observation, 0, self._next_action[:1]

    def _p99_ms(self, program: Callable[..., Any]) -> float:
        times = []
        for call in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            program(call, *self._nothing)
            times.append(1e3 * (time.perf_counter() - start))
        return float(np.percentile(times[_WARM_UP:], 99))


def _schedule_prefixes(config: PlannerConfig) -> list[int]:
    """Returns the numbers of simulations to choose from, in ascending order.

    They are the powers of two below the first round's size, then the sum after each round up to ``config.simulations``.
    """
    sizes = rounds(config.considered(config.root_actions), config.simulations)
    after_rounds = np.cumsum(sizes).tolist()
    within_first = [2**i for i in range(sizes[0].bit_length()) if 2**i < sizes[0]]
    return [*within_first, *after_rounds]


def most_that_fits(
    choices: list[int], budget: float, cost: Callable[[int], float]
) -> tuple[int, float]:
    """Returns the largest of the ascending ``choices`` whose cost is within the budget, and its cost.

    Bisects, because every cost means compiling a program. It assumes that costs rise with the choice.

    Raises:
        UserError: not even the first choice fits.
    """
    cost = functools.cache(cost)
    number = last = len(choices) - 1
    if cost(choices[last]) > budget:  # the largest first, because it usually fits
        number = bisect.bisect_right(choices, budget, hi=last, key=cost) - 1
    if number < 0:
        raise UserError(
            f"budget_ms {budget:g}: a search of {choices[0]} takes {cost(choices[0]):.3g} ms on this machine; "
            "allow more, or train a smaller model"
        )
    return choices[number], cost(choices[number])
