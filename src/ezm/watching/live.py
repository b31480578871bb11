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
        """Takes an order and returns whether it exists.

        The orders are ``pause`` (or go on), ``restart``, ``task`` with its ``number``, ``next`` task and ``close``.
        """
        with self._ordered:
            if what == "pause":
                self.paused = not self.paused
            elif what == "restart":
                self._restart, self.paused = True, False
            elif what == "task" and 0 <= number < len(self.tasks):
                self.chosen, self.paused = number, False
            elif what == "next":
                self.chosen, self.paused = (self.chosen + 1) % len(self.tasks), False
            elif what == "close":
                self.closed = True
            else:
                return False
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

    Args:
        show: shows the present state of the play, before every agent step.
        resting: returns whether to wait, apart from pauses.
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
