"""Timer of a thread: where its time goes, by named sections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

REST = "rest"
"""Name of the time outside of all sections."""


@dataclass(frozen=True)
class Taken:
    """Seconds of a section, and how often it began."""

    seconds: float = 0.0
    calls: int = 0


class Timer:
    """Adds up the seconds of one thread's sections. Together they are all the time since the timer was made.

    A section within another interrupts it.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._sections = {REST: _Section(self)}
        self._running = [self._sections[REST]]
        self._since = clock()

    def section(self, name: str) -> _Section:
        """Returns a context manager, whose ``with`` counts as the section ``name``."""
        if name not in self._sections:
            self._sections[name] = _Section(self)
        return self._sections[name]

    def taken(self, before: Mapping[str, Taken] | None = None) -> dict[str, Taken]:
        """Returns all sections by name, less those that an earlier call returned. Other threads may read too."""
        running, now, before = self._running[-1], self._clock() - self._since, before or {}
        found = {}
        for name, each in list(self._sections.items()):
            earlier = before.get(name, Taken())
            seconds = each.seconds + (now if each is running else 0.0)
            found[name] = Taken(seconds - earlier.seconds, each.calls - earlier.calls)
        return found

    def _turn(self) -> None:
        """Gives the time since the last turn to the section that runs."""
        now = self._clock()
        self._running[-1].seconds += now - self._since
        self._since = now


class _Section:
    """A class, because a generator takes three times as long."""

    __slots__ = ("_timer", "calls", "seconds")

    def __init__(self, timer: Timer) -> None:
        self._timer, self.seconds, self.calls = timer, 0.0, 0

    def __enter__(self) -> None:
        self._timer._turn()
        self._timer._running.append(self)
        self.calls += 1

    def __exit__(self, *_: Any) -> None:
        self._timer._turn()
        self._timer._running.pop()
