"""Experience: one prioritised buffer per task."""

from ezm.replay.buffer import Batch, Drawn, Replay
from ezm.replay.rows import RowSizes, Searches

__all__ = ["Batch", "Drawn", "Replay", "RowSizes", "Searches"]
