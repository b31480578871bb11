"""A watched episode: what happens in it, next to what the agent predicted."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

import numpy as np

from ezm.acting.evaluate import limit_episode, warn_of_cut
from ezm.acting.inspector import Paths, PlanInspector, PlanTrace
from ezm.errors import UserError
from ezm.tasks import Task
from ezm.tasks.rendering import Scene, Trace
from ezm.tasks.state import pack, restored
from ezm.tasks.watchdog import guarded

TRACED = 8
"""Number of candidates that are played out: the best by the search's value."""
_THINK_EVERY = 0.2
_THINKS_AHEAD = 3
"""The best candidates are played out every _THINK_EVERY simulated seconds, _THINKS_AHEAD times as far ahead."""


@dataclass
class Episode:
    """The history of an episode so far, and the agent's present thought."""

    task: str
    number: int
    """1 for the first episode."""
    step_seconds: float
    """Simulated seconds of an agent step."""
    thought: PlanTrace
    """The search's result at the present state."""
    rewards: list[float] = field(default_factory=list)
    """Rewards of all agent steps so far, oldest first."""
    values: list[float] = field(default_factory=list)
    """The search's value of every state so far, the present one last."""
    predictions: dict[int, np.ndarray] = field(default_factory=dict)
    """Rewards predicted for the coming steps, by the step at which they were predicted."""
    traces: list[Trace] = field(default_factory=list)
    """Paths of the best candidates and of the chosen action, from the last state at which they were played out."""
    end: str = ""
    """Why the episode is over, empty while it goes on."""

    @property
    def seconds(self) -> float:
        """Simulated seconds since the episode began."""
        return len(self.rewards) * self.step_seconds

    @property
    def total(self) -> float:
        """Undiscounted return so far."""
        return float(sum(self.rewards))


class Play:
    """One environment with an agent in it. A finished episode stays as it is until :meth:`begin`.

    An environment that hangs for the run's ``step_limit`` ends the process, see :mod:`ezm.tasks.watchdog`.

    If the simulator is MuJoCo and can be restored, the best candidates are played out in a second environment. The
    first one is not touched.

    Args:
        inspector: the agent.
        task: index in the agent's suite.
        seed: of the environment, at least 0.
    """

    def __init__(self, inspector: PlanInspector, task: int, seed: int) -> None:
        suite = inspector.agent.suite
        self._thinker, self._index = inspector, task
        self._opened = contextlib.ExitStack()
        self.task = self._open(suite.make(task, seed, pictures=True))
        self.step_seconds = self.task.spec.action_repeat * self.task.simulator.step_seconds
        self._every = max(1, math.ceil(_THINK_EVERY / self.step_seconds - 1e-9))
        self._ahead = _THINKS_AHEAD * self._every
        limit_episode(self.task)
        self._observation = self.task.reset()
        self._copy: Task | None = None
        if self.task.can_restore and isinstance(self.task.simulator.view(), Scene):
            with contextlib.suppress(UserError):  # perhaps only one may exist: a licence, a port
                self._copy = self._open(suite.make(task, seed))
                self._copy.reset()
        self.episode = self._begun(1)

    def _open(self, task: Task) -> Task:
        """Takes an environment, to guard it and to close it at the end."""
        limit = self._thinker.agent.learner.config.step_limit or None
        self._opened.callback(task.close)
        self._opened.enter_context(guarded([task], limit))
        return task

    def begin(self) -> None:
        """Begins a new episode."""
        self._observation = self.task.reset()
        self.episode = self._begun(self.episode.number + 1)

    def step(self) -> None:
        """Takes the agent step of the present thought. Does nothing if the episode is over."""
        episode = self.episode
        if episode.end:
            return
        step = self.task.step(episode.thought.action)
        self._observation = step.observation
        episode.rewards.append(step.reward)
        if step.terminated:
            episode.end = "ended by the task"
        elif step.truncated:
            episode.end = "time is up"
            if len(episode.rewards) == self.task.cut_after:
                warn_of_cut(self.task.spec.name)
        self._remember(episode, self._thinker.inspect(self._observation, self._index))

    def close(self) -> None:
        """Closes the environments."""
        self._opened.close()

    def _begun(self, number: int) -> Episode:
        thought = self._thinker.inspect(self._observation, self._index)
        episode = Episode(self.task.spec.name, number, self.step_seconds, thought)
        self._remember(episode, thought)
        return episode

    def _remember(self, episode: Episode, thought: PlanTrace) -> None:
        episode.thought = thought
        episode.values.append(thought.value)
        now = len(episode.rewards)
        if episode.end or now % self._every:
            return
        best = np.argsort(-thought.q)[:TRACED]
        actions = np.concatenate([thought.action[None], thought.actions[best]])
        paths = self._thinker.imagine(self._observation, self._index, actions, self._ahead)
        if now % self._ahead == 0:
            episode.predictions[now] = paths.rewards[0]
        if self._copy is not None:
            episode.traces = self._play_out(self._copy, paths, thought, best)

    def _play_out(
        self, copy: Task, paths: Paths, thought: PlanTrace, best: np.ndarray
    ) -> list[Trace]:
        """Takes the imagined actions in a copy of the simulator. The chosen action's trace comes last."""
        state = pack(self.task)
        shades = [colour(shade) for shade in ranks(thought.q)[best]]
        traces = []
        for actions, shade, width in [
            *zip(paths.actions[1:], shades, [1.0] * len(best), strict=True),
            (paths.actions[0], CHOSEN, 1.8),
        ]:
            if not restored(copy, state):
                return []
            traces.append(Trace(_path(copy, actions), shade, width))
        return traces


def _path(task: Task, actions: np.ndarray) -> np.ndarray:
    """Returns the path (N, 3) of a task's telling body under these actions, until the episode's end."""
    scene = task.simulator.view()
    assert isinstance(scene, Scene)
    points = [scene.data.xipos[scene.body].copy()]
    for action in actions:
        step = task.step(action)
        points.append(scene.data.xipos[scene.body].copy())
        if step.terminated or step.truncated:
            break
    return np.stack(points)


Colour = tuple[float, float, float]

CHOSEN: Colour = (0.20, 0.83, 0.45)
"""Colour of the chosen action."""
_SHADES: tuple[Colour, ...] = ((0.23, 0.51, 0.96), (0.73, 0.33, 0.83), (0.98, 0.55, 0.10))


def ranks(q: np.ndarray) -> np.ndarray:
    """Maps the candidates' values to [0, 1], the lowest to 0 and the highest to 1. Equal values all become 1."""
    span = np.ptp(q)
    return (q - q.min()) / span if span > 0 else np.ones_like(q)


def colour(rank: float) -> Colour:
    """Returns a colour from blue at 0 through purple to orange at 1."""
    at = np.linspace(0, 1, len(_SHADES))
    red, green, blue = (float(np.interp(rank, at, part)) for part in zip(*_SHADES, strict=True))
    return red, green, blue
