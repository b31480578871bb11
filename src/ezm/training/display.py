"""The interface between a training and the display of its progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ezm.training.memory import Memory


class Display:
    """Receives the progress of a training. This class shows nothing, and a subclass shows what it overrides.

    Args:
        task_names: the suite's tasks, in order.
        total_steps: environment steps per task of the whole run.
        folder: the run's folder.
    """

    def __init__(
        self, task_names: Sequence[str], total_steps: int, folder: Path | None = None
    ) -> None:
        self.task_names, self.total_steps, self.folder = list(task_names), total_steps, folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Receives the rows of metrics.jsonl of an earlier part of the run."""

    def announce(self, memory: Memory) -> None:
        """Receives the memory that the run will take."""

    def update(self, step: int, updates: int, seconds: float) -> None:
        """Receives the run's position: environment steps per task, learner updates, seconds so far."""

    def episode(self, task: str, episode_return: float) -> None:
        """Receives the return of a finished training episode."""

    def evaluation(self, task: str, mean: float) -> None:
        """Receives the mean return of an evaluation."""

    def message(self, text: str) -> None:
        """Receives a line for the user."""

    def forget_rates(self) -> None:
        """Hears that the coming steps take another time than the past ones."""
