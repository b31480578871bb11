"""Signals as a request to stop, for loops that must not end in the middle of a step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Windows has no SIGHUP.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def at_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Calls ``stop`` at the first Ctrl-C, SIGTERM or SIGHUP. A second signal interrupts at once.

    An exception instead could be raised in a library's callback to Python, and be lost there. A SIGHUP that ``nohup``
    ignores stays ignored. Outside of the main thread nothing changes, and the caller handles the signals.
    """
    before: dict[int, Any] = {}

    def first(signum: int, frame: Any) -> None:
        stop()
        for each in before:
            signal.signal(each, signal.default_int_handler)

    try:
        for each in _SIGNALS:
            if each == signal.SIGINT or signal.getsignal(each) == signal.SIG_DFL:
                before[each] = signal.signal(each, first)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
