"""Progress of an evaluation: a live bar for each task, or plain lines without a terminal."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ezm.acting.evaluate import SIDE_BY_SIDE
from ezm.cli.output import Lenient

PLAIN_EVERY = 10.0
"""Seconds between two lines if the output is not a terminal."""


class EvaluationProgress:
    """Shows the progress of each task's evaluation on standard error. Use it in a ``with`` statement.

    Args:
        episodes: per task.
        console: the output. Default: standard error.
    """

    def __init__(self, episodes: int, console: Console | None = None) -> None:
        self._episodes = episodes
        self._console = console or Console(file=cast(TextIO, Lenient(sys.stderr)))
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar = TaskID(0)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, task: str, limit: int | None) -> None:
        """Begins a task. ``limit`` is the agent steps of an episode, None where they are unknown."""
        self._task, self._limit = task, limit
        self._group, self._step = 0, 0
        self._bar = self._bars.add_task(task, total=None, said="starting")

    def update(self, step: int, ended: int) -> None:
        """Shows the number of steps of the running episodes, and the number of ended episodes."""
        limit = "" if self._limit is None else f"/{self._limit:,}"
        said = f"step {step:,}{limit}, {ended} of {self._episodes} ended"
        self._group += step < self._step  # the first step of the next group of episodes
        self._step = step
        done = ended / self._episodes
        if self._limit is not None:
            groups = math.ceil(self._episodes / SIDE_BY_SIDE)
            done = max(done, (self._group + step / self._limit) / groups)
        if self._console.is_terminal:
            self._bars.update(self._bar, total=1.0, completed=done, said=said)
        elif time.monotonic() - self._said >= PLAIN_EVERY:
            self._line(f"{self._task}: {said}")

    def end(self, mean: str) -> None:
        """Ends a task, with its mean return as text."""
        self._bars.update(self._bar, total=1.0, completed=1.0, said=f"return {mean}")
        if not self._console.is_terminal:
            self._line(f"{self._task}: {self._episodes} episodes, return {mean}")

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
