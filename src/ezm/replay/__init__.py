"""Experience: one prioritised buffer per task."""

from ezm.replay.buffer import BATCH_AXIS, WHOLE, Batch, Drawn, Replay
from ezm.replay.rows import RowSizes, Searches

__all__ = ["BATCH_AXIS", "WHOLE", "Batch", "Drawn", "Replay", "RowSizes", "Searches"]
