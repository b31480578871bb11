"""Live play in real time, with pauses, restarts and a choice of tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ezm.watching.play import Play

_PAUSE = 1.0
"""Seconds that an episode's last state is shown."""
_LOOK = 0.1
"""Seconds between two checks whether a pause is over."""


ORDERS = ("pause", "restart", "task", "next", "close")
"""The order ``pause`` also ends a pause, and ``next`` chooses the next task."""


class Controls:
    """The watcher's orders, which may come from any thread."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.chosen = 0
        """Index of the task that is played."""
        self.paused = False
        self.closed = False
        self._restart = False
        self._ordered = threading.Condition()

    def order(self, what: str, number: int = 0) -> bool:
        """Takes one of :data:`ORDERS` and returns whether it exists. The order ``task`` has its ``number``."""
        chosen = number if what == "task" else self.chosen
        if what not in ORDERS or not 0 <= chosen < len(self.tasks):
            return False
        with self._ordered:
            self.chosen = (chosen + (what == "next")) % len(self.tasks)
            self.paused = what == "pause" and not self.paused
            self._restart |= what == "restart"
            self.closed |= what == "close"
            self._ordered.notify_all()
        return True

    def wait(self, seconds: float) -> None:
        """Waits for this long, or until the next order."""
        with self._ordered:
            if not (self._restart or self.closed):
                self._ordered.wait(max(0.0, seconds))

    def take_restart(self) -> bool:
        """Returns whether a restart was ordered since the last call."""
        with self._ordered:
            asked, self._restart = self._restart, False
            return asked


def perform(
    play: Play, controls: Controls, show: Callable[[], None], resting: Callable[[], bool]
) -> None:
    """Plays episode after episode until another task is chosen or the view is closed.

    ``show`` is called before every agent step. ``resting`` returns whether to wait, apart from pauses.
    """
    chosen = controls.chosen

    def over() -> bool:
        return controls.closed or controls.chosen != chosen

    while not over():
        due = time.perf_counter() + (_PAUSE if play.episode.end else play.step_seconds)
        show()
        controls.wait(due - time.perf_counter())
        while not over() and (controls.paused or resting()):
            controls.wait(_LOOK)
        if controls.take_restart() or play.episode.end:
            play.begin()
        else:
            play.step()
