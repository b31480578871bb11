"""Experience: one prioritised buffer per task."""

from ezm.replay.buffer import Batch, Drawn, Replay, Searches

__all__ = ["Batch", "Drawn", "Replay", "Searches"]
