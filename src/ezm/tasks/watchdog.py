"""An environment that hangs ends the process, instead of the night's training waiting for it.

Python cannot interrupt native code, so the process is left at once, from a thread of its own. Native code
that hangs without releasing Python's lock (MuJoCo releases it) stops that thread too and is not noticed.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

from ezm.errors import UserError

HANG_EXIT_CODE = 3
"""Of a process that was ended because an environment hung."""
_FAREWELL = 30.0
"""Seconds for the message and the callback, which may hang themselves."""
_POLLS = 10
"""Looks within the limit."""
_LONGEST_POLL = 1.0
"""Seconds."""


class Watchdog:
    """Ends the process with :data:`HANG_EXIT_CODE` where a guarded block lasts too long::

        with watchdog:
            busy[0] = (index,)  # what thread 0 is at, for the message
            ...

    What counts is the time that the watching thread spent waiting: a process that was suspended is not
    ended when it wakes up. One block at a time, entered by one thread.

    Args:
        limit: seconds, above 0.
        names: of the environments' tasks, by index.
        busy: kept up to date by others: for each thread, the environments that it is stepping or resetting.
        on_hang: called before the process ends, from another thread, within 30 s.

    Raises:
        UserError: ``limit`` is not above 0.
    """

    def __init__(
        self,
        limit: float,
        names: Sequence[str],
        busy: Sequence[Sequence[int]],
        on_hang: Callable[[], None] | None = None,
    ) -> None:
        if not limit > 0:
            raise UserError(f"--step-limit {limit:g}: must be above 0 seconds")
        self._limit = limit
        self._names, self._busy = names, busy
        self._on_hang = on_hang
        self._blocks = 0
        self._inside = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="ezm-watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._blocks += 1
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        poll = min(_LONGEST_POLL, self._limit / _POLLS)
        waited, block = 0.0, 0
        while not self._closed.wait(poll):
            if not self._inside or self._blocks != block:
                waited, block = 0.0, self._blocks
                continue
            waited += poll
            if waited >= self._limit:
                self._end()

    def _end(self) -> None:
        last = threading.Thread(target=self._farewell, daemon=True)
        last.start()
        last.join(_FAREWELL)
        os._exit(HANG_EXIT_CODE)

    def _farewell(self) -> None:
        indices = sorted({index for each in self._busy for index in each})
        names = ", ".join(dict.fromkeys(self._names[index] for index in indices))
        print(
            f"error: task {names}: the environment hangs, a step or reset has taken more than "
            f"{self._limit:g} s; mend it, or raise --step-limit",
            file=sys.stderr,
            flush=True,
        )
        try:
            if self._on_hang is not None:
                self._on_hang()
        except Exception:  # noqa: BLE001 - the process ends in any case, and says why
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
