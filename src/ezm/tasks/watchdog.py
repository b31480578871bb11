"""Ends the process when an environment hangs, so that a training run does not wait for it all night.

Python cannot interrupt native code, so a separate thread ends the whole process. Native code that hangs without
releasing Python's lock stops that thread too, and the hang goes unnoticed.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from ezm.errors import UserError
from ezm.tasks.task import Task

_log = logging.getLogger(__name__)

HANG_EXIT_CODE = 3
"""Exit code of a process that ends because an environment hung."""
_FAREWELL = 900.0
"""Seconds for the message and the callback, which may hang themselves. A slow disk takes minutes for a large replay."""


class Watchdog:
    """Ends the process with :data:`HANG_EXIT_CODE` where a guarded block makes no progress for too long::

        with watchdog:
            for index in indices:
                busy[0] = (index,)  # the message names what thread 0 is working on
                ...
                watchdog.progress()

    The watchdog counts the time that its own thread spent waiting. A process that was suspended is therefore not
    ended when it wakes up. One thread enters one block at a time, and any thread may report progress in it.

    Args:
        limit: seconds, above 0. None: nothing is watched.
        names: the environments' task names, by index.
        busy: for each thread, the environments that it is stepping or resetting. The caller keeps it up to date.
        on_hang: called before the process ends, from another thread. It has 15 minutes. Meanwhile nothing changes what
            it saves, because the block does not end.

    Raises:
        UserError: ``limit`` is not above 0.
    """

    def __init__(
        self,
        limit: float | None,
        names: Sequence[str],
        busy: Sequence[Sequence[int]],
        on_hang: Callable[[], None] | None = None,
    ) -> None:
        if limit is not None and not limit > 0:
            raise UserError(f"--step-limit {limit:g}: must be above 0 seconds")
        self._names, self._busy, self._on_hang = names, busy, on_hang
        self._count, self._inside = 0, False
        self._last = threading.Lock()
        """Held from the moment that the process is going to end. The end of a block waits for it."""
        self._closed = threading.Event()
        if limit is not None:
            threading.Thread(
                target=self._watch, args=(limit,), name="ezm-watchdog", daemon=True
            ).start()

    def __enter__(self) -> None:
        self.progress()
        self._inside = True

    def __exit__(self, *_: object) -> None:
        with self._last:
            self._inside = False

    def progress(self) -> None:
        """Gives the block its full time again: one of its environments has finished."""
        self._count += 1

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self, limit: float) -> None:
        poll = min(1.0, limit / 10)
        waited, count = 0.0, 0
        while not self._closed.wait(poll):
            if not self._inside or self._count != count:
                waited, count = 0.0, self._count
                continue
            waited += poll
            if waited >= limit:
                self._last.acquire()
                if not self._inside or self._count != count:
                    self._last.release()
                    continue
                last = threading.Thread(target=self._farewell, args=(limit,), daemon=True)
                last.start()
                last.join(_FAREWELL)
                os._exit(HANG_EXIT_CODE)

    def _farewell(self, limit: float) -> None:
        indices = sorted({index for each in self._busy for index in each})
        names = ", ".join(dict.fromkeys(self._names[index] for index in indices))
        _log.error(
            f"error: task {names}: the environment hangs, a step or reset has taken more than "
            f"{limit:g} s; mend it, or train with a higher --step-limit"
        )
        try:
            if self._on_hang:
                self._on_hang()
        except Exception:  # noqa: BLE001 - the process ends in any case, and says why
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()


@contextmanager
def guarded(
    tasks: Sequence[Task], limit: float | None, on_hang: Callable[[], None] | None = None
) -> Iterator[None]:
    """Watches every step and reset of environments that one thread works on, one after another.

    Args:
        tasks: environments of one task.
        limit: seconds that a step or a reset may take, above 0. None: no limit.
        on_hang: as for :class:`Watchdog`.
    """
    with closing(Watchdog(limit, [tasks[0].spec.name], [(0,)], on_hang)) as watchdog:
        for task in tasks:
            task.guard = watchdog
        yield
