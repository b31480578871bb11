"""Progress of a training run or of an evaluation: a live page, or plain lines where there is no terminal.

A separate thread draws the page once a second. The training loop only hands over numbers.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO, cast

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ezm.acting.evaluate import SIDE_BY_SIDE
from ezm.cli.terminal import Lenient
from ezm.statistics.intervals import format_return
from ezm.training.display import Display
from ezm.training.memory import Memory, resident, size

PLAIN_EVERY = 10.0
"""Seconds between two lines where the output is not a terminal."""

RATE_WINDOW = 20.0
"""Seconds over which rates are averaged."""

LEFT_WINDOW = 600.0
"""Seconds over which the rate for the time left is averaged. They are enough to include evaluations and checkpoints."""

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Returns a curve of at most `width` characters, scaled from the lowest value to the highest.

    More values than columns are averaged in groups of neighbours, so that the curve shows the whole
    history. A value that is not finite is a space. A constant curve runs at half height.
    """
    columns = min(width, len(values))
    if not columns:
        return ""
    groups = np.array_split(np.asarray(values, float), columns)
    finite = [group[np.isfinite(group)] for group in groups]
    means = [float(group.mean()) if group.size else math.nan for group in finite]
    known = [mean for mean in means if not math.isnan(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    top = len(_BLOCKS) - 1

    def block(mean: float) -> str:
        if math.isnan(mean):
            return " "
        return _BLOCKS[round(top * (mean - low) / (high - low)) if high > low else top // 2]

    return "".join(map(block, means))


class Pace:
    """Rates of a run over its last `window` seconds, or at least over its last two positions."""

    def __init__(self, window: float) -> None:
        self._window = window
        # (step, updates, seconds), oldest first, a hundred per window. The last mark is the present position.
        self._marks: deque[tuple[int, int, float]] = deque()

    def add(self, position: tuple[int, int, float]) -> None:
        """Adds the run's present position: environment steps per task, updates, seconds."""
        marks, seconds = self._marks, position[2]
        if len(marks) > 1 and marks[-1][2] - marks[-2][2] < self._window / 100:
            marks[-1] = position
        else:
            marks.append(position)
        while len(marks) > 2 and seconds - marks[1][2] > self._window:
            marks.popleft()

    def rates(self) -> tuple[float, float]:
        """Returns environment steps per task and updates per second, or 0 before there are two positions."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        steps, updates, seconds = np.subtract(self._marks[-1], self._marks[0]).tolist()
        return steps / max(seconds, 1e-9), updates / max(seconds, 1e-9)


class TrainingProgress(Display):
    """A display of returns per task, rates, time left and memory. ``with`` starts and stops it.

    It prints to ``console``, by default standard output.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        total_steps: int,
        console: Console | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(task_names, total_steps, folder)
        self._place = "" if folder is None else _short(folder)
        self._console = console or Console(file=cast(TextIO, Lenient(sys.stdout)))
        self._memory: Memory | None = None
        self._episodes: dict[str, list[float]] = {task: [] for task in self.task_names}
        self._evaluations: dict[str, list[float]] = {task: [] for task in self.task_names}
        self._position = (0, 0, 0.0)  # environment steps per task, updates, seconds of the run
        self.forget_rates()
        self._printed = time.monotonic()
        self._live: Live | None = None
        if self._console.is_interactive:
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=1.0
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        elif self._place:
            self.message(f"run folder: {self._place}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._position[0]:
            self._print_line()

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Restores the history of an earlier part of the run from the rows of its metrics.jsonl."""
        step, updates, seconds = self._position
        for row in rows:
            step, updates, seconds = row["step"], row.get("updates", updates), row["seconds"]
            kind, task = row["kind"], row.get("task")
            if kind == "episode" and row.get("policy", task) == task:
                value, histories = row.get("return"), self._episodes
            elif kind == "eval" and row.get("mode", "search") == "search":
                value, histories = row.get("mean"), self._evaluations
            else:
                continue
            if task in histories and isinstance(value, int | float):
                histories[task].append(value)
        self._position = (step, updates, seconds)

    def announce(self, memory: Memory) -> None:
        """Prints the memory that the run will take. From then on, the page shows how much of it is taken."""
        self._memory = memory
        self.message(str(memory))

    def update(self, step: int, updates: int, seconds: float) -> None:
        self._position = (step, updates, seconds)
        self._lately.add(self._position)
        self._for_long.add(self._position)
        if self._live is None and time.monotonic() - self._printed >= PLAIN_EVERY:
            self._print_line()

    def episode(self, task: str, episode_return: float) -> None:
        self._episodes[task].append(float(episode_return))

    def evaluation(self, task: str, mean: float) -> None:
        self._evaluations[task].append(float(mean))

    def message(self, text: str) -> None:
        """Prints a line, above the page."""
        whole = self._live is None  # a line in a file or a pipe stays one line
        self._console.print(text, highlight=False, markup=False, soft_wrap=whole)

    def rates(self) -> tuple[float, float]:
        """Returns the recent environment steps of all tasks and learner updates per second, or 0 if unknown."""
        steps, updates = self._lately.rates()
        return steps * len(self.task_names), updates

    def forget_rates(self) -> None:
        """Discards past rates, because the coming steps take another time than the past ones."""
        # New objects, because the thread that draws may be reading the old objects.
        self._lately, self._for_long = Pace(RATE_WINDOW), Pace(LEFT_WINDOW)

    def seconds_left(self) -> float | None:
        """Returns the seconds to the last step at the rate of the last minutes, or None while it is unknown."""
        rate = self._for_long.rates()[0]
        return (self.total_steps - self._position[0]) / rate if rate > 0 else None

    def _status(self) -> str:
        step, updates, seconds = self._position
        environment_rate, update_rate = self.rates()
        left = self.seconds_left()
        return (
            f"step {step:,}/{self.total_steps:,} per task · {updates:,} updates · "
            f"{environment_rate:.0f} env steps/s · {update_rate:.0f} updates/s · "
            f"{_clock(seconds)} elapsed · {'–' if left is None else _clock(left)} left"
        )

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        latest = {task: self._evaluations[task] or self._episodes[task] for task in self.task_names}
        returns = [f"{task} {_last(values)}" for task, values in latest.items() if values]
        self.message(self._status() + (f" · returns: {'  '.join(returns)}" if returns else ""))

    def _render(self) -> RenderableType:
        """Returns the page. The tasks stand last, because rich cuts a page that is too long at its end."""
        step, below = self._position[0], self._status()
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_row(ProgressBar(self.total_steps, step), f"{step / self.total_steps:.0%}")
        if self._memory is not None and (taken := resident()):
            below += f" · memory {size(taken)}, announced {size(self._memory.total)}"
        below += f"\nin {self._place}" if self._place else ""
        return Group(bar, Text(below, style="dim", overflow="fold"), self._table())

    def _table(self) -> Table:
        """Returns a row for each task, with the curves of its training episodes and its evaluations."""
        table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("task", max_width=min(24, self._console.width // 3))
        for name in ("training", "last", "evaluation", "last", "best"):
            if name in ("training", "evaluation"):
                table.add_column(_cut(name), ratio=1)
            else:
                table.add_column(name, justify="right", no_wrap=True, min_width=5)
        for task in self.task_names:
            episodes, evaluations = self._episodes[task], self._evaluations[task]
            best = max((each for each in evaluations if not math.isnan(each)), default=math.nan)
            table.add_row(
                _cut(task),
                _Curve(episodes, "cyan"),
                Text(_last(episodes), style="dim"),
                _Curve(evaluations, "green"),
                Text(_last(evaluations), style="bold"),
                format_return(best),
            )
        return table


@dataclass(frozen=True)
class _Curve:
    """A sparkline as wide as its column."""

    values: Sequence[float]
    style: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(sparkline(self.values, options.max_width), style=self.style)


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _last(values: Sequence[float]) -> str:
    return format_return(values[-1] if values else math.nan)


def _short(path: Path) -> str:
    """Returns the path relative to the current folder, if that is shorter."""
    try:
        return min(os.path.relpath(path), str(path), key=len)
    except FileNotFoundError:  # the current folder is gone
        return str(path)


def _clock(seconds: float) -> str:
    """Formats seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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

    def __exit__(self, *_: object) -> None:
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
