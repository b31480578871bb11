"""What a training run shows while it runs: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ezm.evaluation.statistics import format_return

PLAIN_EVERY = 10.0
"""Seconds between two lines where the output is not a terminal."""

RATE_WINDOW = 20.0
"""Seconds over which rates, and with them the time left, are averaged."""


class TrainingProgress:
    """Per-task returns, rates and time left, within ``with``."""

    def __init__(
        self, task_names: Sequence[str], total_steps: int, console: Console | None = None
    ) -> None:
        """Args:
        task_names: the suite's tasks, in order.
        total_steps: environment steps per task of the whole run.
        console: where to; default: standard output.
        """
        self._console = console or Console()
        self._total = total_steps
        self._tasks = list(task_names)
        self._last: dict[str, float] = {}
        self._evaluated: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._episodes = dict.fromkeys(self._tasks, 0)
        # (step, updates, seconds of the run) at the latest updates, oldest first.
        self._recent: deque[tuple[int, int, float]] = deque()
        self._printed = time.monotonic()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=2
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._recent:
            self._print_line()

    def update(self, step: int, updates: int, seconds: float) -> None:
        """Report where the run is: environment steps per task, learner updates, seconds so far."""
        self._recent.append((step, updates, seconds))
        while len(self._recent) > 2 and seconds - self._recent[1][2] > RATE_WINDOW:
            self._recent.popleft()
        if self._live is None and time.monotonic() - self._printed >= PLAIN_EVERY:
            self._print_line()

    def episode(self, task: str, episode_return: float) -> None:
        """Report a finished training episode."""
        self._last[task] = float(episode_return)
        self._episodes[task] += 1

    def evaluation(self, task: str, mean: float) -> None:
        """Report the mean return of an evaluation."""
        self._evaluated[task] = float(mean)
        self._best[task] = max(float(mean), self._best.get(task, float(mean)))

    def message(self, text: str) -> None:
        """Print a line of its own, above the table."""
        self._console.print(text, highlight=False, markup=False)

    def rates(self) -> tuple[float, float]:
        """Environment steps of all tasks, and learner updates, per second of late; 0 if unknown."""
        if len(self._recent) < 2:
            return 0.0, 0.0
        (step, updates, start), (last_step, last_updates, end) = self._recent[0], self._recent[-1]
        elapsed = max(end - start, 1e-9)
        steps = (last_step - step) * len(self._tasks)
        return steps / elapsed, (last_updates - updates) / elapsed

    def seconds_left(self) -> float | None:
        """Time to the last step at the present rate; None while the rate is unknown."""
        rate = self.rates()[0] / len(self._tasks)
        return (self._total - self._recent[-1][0]) / rate if rate > 0 else None

    def _status(self) -> str:
        step, updates, seconds = self._recent[-1] if self._recent else (0, 0, 0.0)
        environment_rate, update_rate = self.rates()
        left = self.seconds_left()
        return (
            f"step {step:,}/{self._total:,} per task · {updates:,} updates · "
            f"{environment_rate:.0f} env steps/s · {update_rate:.0f} updates/s · "
            f"{_clock(seconds)} elapsed · {'–' if left is None else _clock(left)} left"
        )

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        shown = {**self._last, **self._evaluated}
        returns = "  ".join(
            f"{task} {format_return(shown[task])}" for task in self._tasks if task in shown
        )
        self.message(self._status() + (f" · {returns}" if returns else ""))

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("task")
        for heading in ("last episode", "last eval", "best eval", "episodes"):
            table.add_column(heading, justify="right")
        for task in self._tasks:
            table.add_row(
                task,
                *(_cell(column, task) for column in (self._last, self._evaluated, self._best)),
                str(self._episodes[task]),
            )
        step = self._recent[-1][0] if self._recent else 0
        bar = Table.grid(padding=1)
        bar.add_row(
            ProgressBar(total=self._total, completed=step, width=50), f"{step / self._total:.0%}"
        )
        return Group(table, bar, Text(self._status(), style="dim"))


def _cell(column: dict[str, float], task: str) -> str:
    return format_return(column[task]) if task in column else "–"


def _clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
