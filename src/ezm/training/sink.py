"""The training's end of the seam: experience goes to the replay and to the running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ezm.acting.collector import Experience
from ezm.agent.learning import RunningStatistics
from ezm.experience import Replay
from ezm.experience.rows import fields_of


class ReplaySink:
    """Adds what a collector experiences to a replay, and to the statistics of observations and returns.

    Args:
        replay: of the suite's tasks, with one environment each.
        statistics: of the agent.
        updates: returns the learner's present number of updates, which is kept with each search.
    """

    def __init__(
        self, replay: Replay, statistics: RunningStatistics, updates: Callable[[], int]
    ) -> None:
        self._replay, self._statistics, self._updates = replay, statistics, updates
        assert fields_of("state") == ["observation"]  # collectors tell nothing else of a state

    def begin(self, task: np.ndarray, observation: np.ndarray) -> None:
        """See :class:`ezm.acting.collector.ExperienceSink`."""
        for each, first in zip(task.tolist(), observation, strict=True):
            self._replay.cut_episode(each)
            if self._statistics.returns is not None:
                self._statistics.returns.running[each] = 0.0
            self._begin(each, first)

    def add(self, experience: Experience) -> None:
        """See :class:`ezm.acting.collector.ExperienceSink`."""
        replay, statistics, step = self._replay, self._statistics, experience.step
        if experience.searches is not None:
            newest = replay.rows[experience.task] - 1
            rows = np.where(experience.searched, newest, -1)
            replay.store(experience.task, rows, experience.searches, self._updates())
        stored = {
            name: getattr(experience if name in Experience._fields else step, name)
            for name in (*fields_of("transition"), "next_observation")
        }
        for e, task in enumerate(experience.task.tolist()):
            ends: dict[str, Any] = {
                "terminated": bool(step.terminated[e]),
                "truncated": bool(step.truncated[e]),
            }
            replay.add(task, **ends, **{name: values[e] for name, values in stored.items()})
            statistics.add(task, step.next_observation[e])
            if statistics.returns is not None:
                statistics.returns.add(task, float(step.reward[e]), ended=any(ends.values()))
            if any(ends.values()):
                self._begin(task, step.observation[e])

    def _begin(self, task: int, observation: np.ndarray) -> None:
        self._replay.begin(task, observation)
        self._statistics.add(task, observation)
