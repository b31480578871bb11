"""Progress of a training run: a live page, or plain lines where there is no terminal.

A separate thread draws the page once a second. The training loop only hands over numbers.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ezm.evaluation.statistics import format_return
from ezm.output import Lenient
from ezm.training.memory import Memory, resident, size

PLAIN_EVERY = 10.0
"""Seconds between two lines where the output is not a terminal."""

RATE_WINDOW = 20.0
"""Seconds over which rates are averaged."""

LEFT_WINDOW = 600.0
"""Seconds over which the rate for the time left is averaged. They are enough to include evaluations and checkpoints."""

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*%#"
"""Blocks for terminals whose encoding is ASCII."""

_FRAMES_PER_SECOND = 1.0
_PAGE_SECONDS = 5.0  # duration of a page of tasks where not all fit
_NUMBER = 7  # columns of a return
_NAME = 24  # columns of a task's name, at most
_TABLE_WIDTH = 58  # columns that two curves per task need
_CELL = 29  # columns of a task in the compact form, at least


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """Returns a curve of at most `width` characters, scaled from the lowest value to the highest.

    More values than columns are averaged in groups of neighbours, so that the curve shows the whole
    history. A value that is not finite is a space. A constant curve runs at half height.
    """
    columns = min(width, len(values))
    edges = [len(values) * edge // columns for edge in range(columns + 1)] if columns else []
    means = [_mean(values[first:end]) for first, end in pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    top = len(blocks) - 1

    def block(mean: float) -> str:
        if not math.isfinite(mean):
            return " "
        return blocks[round(top * (mean - low) / (high - low)) if high > low else top // 2]

    return "".join(map(block, means))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


class History:
    """A growing list of returns in bounded memory: at most ``2 * size`` means over equally many returns.

    The last mean may be over fewer returns.
    """

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._each = 1  # number of returns in a mean
        self._means: list[float] = []
        self.count = 0
        """Number of returns so far."""
        self.last = self.best = math.nan

    def add(self, value: float) -> None:
        """Appends a return."""
        self.last = value
        if value > self.best or math.isnan(self.best):
            self.best = value
        place = self.count % self._each
        if place:
            self._means[-1] += (value - self._means[-1]) / (place + 1)
        else:
            self._means.append(value)
        self.count += 1
        if len(self._means) == 2 * self._size and self.count % self._each == 0:
            # A new list, because the thread that draws may be reading the old list.
            self._means = [_mean(pair) for pair in zip(self._means[::2], self._means[1::2])]
            self._each *= 2

    @property
    def means(self) -> list[float]:
        """A copy of the means, oldest first."""
        return list(self._means)


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
        (step, updates, start), (last_step, last_updates, end) = self._marks[0], self._marks[-1]
        elapsed = max(end - start, 1e-9)
        return (last_step - step) / elapsed, (last_updates - updates) / elapsed


class TrainingProgress:
    """A display of returns per task, rates, time left and memory. ``with`` starts and stops it."""

    def __init__(
        self,
        task_names: Sequence[str],
        total_steps: int,
        console: Console | None = None,
        folder: Path | None = None,
    ) -> None:
        """Args:
        task_names: the suite's tasks, in order.
        total_steps: environment steps per task of the whole run.
        console: receives the output. The default is standard output.
        folder: the run's folder, to be shown.
        """
        self._console = console or Console(file=cast(TextIO, Lenient(sys.stdout)))
        self._total = total_steps
        self._tasks = list(task_names)
        self._folder = None if folder is None else _short(folder)
        self._memory: Memory | None = None
        self._episodes = {task: History() for task in self._tasks}
        self._evaluations = {task: History() for task in self._tasks}
        self._position = (0, 0, 0.0)  # environment steps per task, updates, seconds of the run
        self.forget_rates()
        self._printed = time.monotonic()
        self._live: Live | None = None
        if self._console.is_interactive:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=_FRAMES_PER_SECOND,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        elif self._folder is not None:
            self.message(f"run folder: {self._folder}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
                histories[task].add(value)
        self._position = (step, updates, seconds)

    def announce(self, memory: Memory) -> None:
        """Prints the memory that the run will take. From then on, the page shows how much of it is taken."""
        self._memory = memory
        self.message(str(memory))

    def update(self, step: int, updates: int, seconds: float) -> None:
        """Reports the run's position: environment steps per task, learner updates, seconds so far."""
        self._position = (step, updates, seconds)
        self._lately.add(self._position)
        self._for_long.add(self._position)
        if self._live is None and time.monotonic() - self._printed >= PLAIN_EVERY:
            self._print_line()

    def episode(self, task: str, episode_return: float) -> None:
        """Reports a finished training episode."""
        self._episodes[task].add(float(episode_return))

    def evaluation(self, task: str, mean: float) -> None:
        """Reports the mean return of an evaluation."""
        self._evaluations[task].add(float(mean))

    def message(self, text: str) -> None:
        """Prints a line, above the page."""
        # A line in a file or a pipe stays one line.
        whole = self._live is None
        self._console.print(text, highlight=False, markup=False, soft_wrap=whole)

    def rates(self) -> tuple[float, float]:
        """Returns the recent environment steps of all tasks and learner updates per second, or 0 if unknown."""
        steps, updates = self._lately.rates()
        return steps * len(self._tasks), updates

    def forget_rates(self) -> None:
        """Discards past rates, because the coming steps take another time than the past ones."""
        # New objects, because the thread that draws may be reading the old objects.
        self._lately, self._for_long = Pace(RATE_WINDOW), Pace(LEFT_WINDOW)

    def seconds_left(self) -> float | None:
        """Returns the seconds to the last step at the rate of the last minutes, or None while it is unknown."""
        rate = self._for_long.rates()[0]
        return (self._total - self._position[0]) / rate if rate > 0 else None

    # -- plain lines -----------------------------------------------------------------------

    def _status(self) -> list[str]:
        step, updates, seconds = self._position
        environment_rate, update_rate = self.rates()
        left = self.seconds_left()
        return [
            f"step {step:,}/{self._total:,} per task",
            f"{updates:,} updates",
            f"{environment_rate:.0f} env steps/s",
            f"{update_rate:.0f} updates/s",
            f"{_clock(seconds)} elapsed",
            f"{'–' if left is None else _clock(left)} left",
        ]

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        latest = {task: self._latest(task) for task in self._tasks}
        returns = "  ".join(
            f"{task} {format_return(history.last)}"
            for task, history in latest.items()
            if history.count
        )
        self.message(" · ".join([*self._status(), *([returns] if returns else [])]))

    def _latest(self, task: str) -> History:
        """Returns the history of a task's evaluations, or of its training episodes before the first evaluation."""
        return (self._evaluations if self._evaluations[task].count else self._episodes)[task]

    # -- the page --------------------------------------------------------------------------

    def _render(self) -> RenderableType:
        width, height = self._console.size
        below: list[RenderableType] = [self._bar(width), *self._lines_below(width)]
        room = max(1, height - len(below) - 1)  # a line stays free for messages above the page
        blocks = ASCII_BLOCKS if self._console.options.ascii_only else BLOCKS
        if width >= _TABLE_WIDTH and len(self._tasks) < room:
            return Group(*self._table(width, blocks), *below)
        return Group(*self._compact(width, room, blocks), *below)

    def _table(self, width: int, blocks: str) -> list[Text]:
        """Returns a line for each task, with the curves of its training episodes and its evaluations."""
        name = min(max(map(cell_len, [*self._tasks, "task"])), _NAME, width // 3)
        # Two spaces before each curve, one before each number.
        curves = width - name - 4 - 3 * (_NUMBER + 1)
        trained, evaluated = curves - curves // 2, curves // 2
        titles = ("training", "evaluation") if evaluated >= 10 else ("train", "eval")
        heading = (
            f"{'task':{name}}  {titles[0]:{trained}} {'last':>{_NUMBER}}"
            f"  {titles[1]:{evaluated}} {'last':>{_NUMBER}} {'best':>{_NUMBER}}"
        )
        lines = [_line((heading, "dim"))]
        for task in self._tasks:
            episodes, evaluations = self._episodes[task], self._evaluations[task]
            lines.append(
                _line(
                    (f"{_fit(task, name)}  ", ""),
                    (f"{sparkline(episodes.means, trained, blocks):{trained}}", "cyan"),
                    (f" {_number(episodes.last)}", "dim"),
                    (f"  {sparkline(evaluations.means, evaluated, blocks):{evaluated}}", "green"),
                    (f" {_number(evaluations.last)}", "bold"),
                    (f" {_number(evaluations.best)}", ""),
                )
            )
        return lines

    def _compact(self, width: int, room: int, blocks: str) -> list[Text]:
        """Returns lines of several tasks, each with the curve of its evaluations. Pages alternate if not all fit."""
        rows = max(1, room - 1)  # below the heading
        columns = min(max(1, (width + 2) // (_CELL + 2)), -(-len(self._tasks) // rows))
        pages = -(-len(self._tasks) // (rows * columns))
        page = int(time.monotonic() / _PAGE_SECONDS) % pages
        tasks = self._tasks[page * rows * columns : (page + 1) * rows * columns]
        heading = "evaluations, or training episodes until there are any"
        if pages > 1:
            heading = f"tasks, page {page + 1} of {pages}: {heading}"
        rows = -(-len(tasks) // columns)
        lines = [_line((_fit(heading, width), "dim"))]
        for row in range(rows):
            cells = [
                self._cell(task, (width + 2) // columns - 2, blocks) for task in tasks[row::rows]
            ]
            lines.append(Text("  ", no_wrap=True).join(cells))
        return lines

    def _cell(self, task: str, width: int, blocks: str) -> Text:
        history = self._latest(task)
        evaluated = history is self._evaluations[task]
        name = min(max(map(cell_len, self._tasks)), (width - _NUMBER - 2) * 2 // 3)
        curve = min(width - name - _NUMBER - 2, 24)
        return _line(
            (f"{_fit(task, name)} ", ""),
            (
                f"{sparkline(history.means, curve, blocks):{curve}}",
                "green" if evaluated else "cyan",
            ),
            (f" {_number(history.last)}", "bold" if evaluated else "dim"),
        )

    def _bar(self, width: int) -> Table:
        step = self._position[0]
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self._total, completed=step, width=max(1, min(width, 80) - 6)),
            f"{step / self._total:.0%}",
        )
        return bar

    def _lines_below(self, width: int) -> list[Text]:
        pieces = self._status()
        if self._memory is not None and (taken := resident()):
            pieces.append(f"memory {size(taken)}, announced {size(self._memory.total)}")
        lines = packed(pieces, width)
        if self._folder is not None:
            lines.append("in " + _fit(self._folder, width - 3, end=True))
        return [_line((line, "dim")) for line in lines]


def packed(pieces: Sequence[str], width: int, between: str = " · ") -> list[str]:
    """Packs pieces into as few lines as fit the width. A piece is never broken, only cut where it alone is too long."""
    lines: list[str] = []
    for piece in (_fit(piece, width) if cell_len(piece) > width else piece for piece in pieces):
        if lines and cell_len(lines[-1] + between + piece) <= width:
            lines[-1] += between + piece
        else:
            lines.append(piece)
    return lines


def _fit(text: str, width: int, end: bool = False) -> str:
    """Pads or cuts text to `width` columns. With `end`, it keeps the text's end when it cuts, and does not pad."""
    if cell_len(text) <= width:
        return text if end else set_cell_size(text, width)
    if not end:
        return set_cell_size(text, width - 1) + "…" if width > 1 else "…"[:width]
    while cell_len(text) > width - 1:
        text = text[1:]
    return "…" + text


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="crop")


def _number(value: float) -> str:
    text = format_return(value)
    return f"{text if len(text) <= _NUMBER else f'{value:.1g}':>{_NUMBER}}"


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
