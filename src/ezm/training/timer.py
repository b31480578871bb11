"""Timer of a thread: where its time goes, by named sections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

REST = "rest"
"""Name of the time outside of all sections."""


@dataclass(frozen=True)
class Taken:
    """Seconds of a section, and how often it began."""

    seconds: float = 0.0
    calls: int = 0


class Timer:
    """Adds up the seconds of one thread's sections. Together they are all the time since the timer was made.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._since = clock, clock()
        self._running = [REST]
        self._calls = {REST: 0}
        self._seconds = {REST: 0.0}

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Counts a ``with`` block to the section ``name``. A section within another interrupts it."""
        self._turn()
        self._calls[name] = self._calls.get(name, 0) + 1
        self._seconds.setdefault(name, 0.0)
        self._running.append(name)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def taken(self, before: Mapping[str, Taken] | None = None) -> dict[str, Taken]:
        """Returns all sections by name, less those that an earlier call returned. Other threads may read too."""
        running, before, none = self._running[-1], before or {}, Taken()
        seconds = dict(self._seconds)  # after reading what runs, so that it is there
        seconds[running] += self._clock() - self._since
        return {
            name: Taken(
                total - before.get(name, none).seconds,
                self._calls[name] - before.get(name, none).calls,
            )
            for name, total in seconds.items()
        }

    def _turn(self) -> None:
        """Gives the time since the last turn to the section that runs."""
        now = self._clock()
        self._seconds[self._running[-1]] += now - self._since
        self._since = now
