"""Ctrl-C as a wish to stop, for what must not end in the middle of a step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def at_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C; a second one interrupts at once.

    An exception could come while a library calls Python back, and be lost there. Outside of the main thread nothing
    changes: whoever runs us handles Ctrl-C.
    """

    def first(signum: int, frame: Any) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, first)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
