"""Experience: one prioritised ring of rows per task."""

from ezm.experience.buffer import Drawn, Replay
from ezm.experience.rows import RowSizes

__all__ = ["Drawn", "Replay", "RowSizes"]
