"""Experience: one prioritised buffer per task."""

from ezm.replay.buffer import Batch, Replay

__all__ = ["Batch", "Replay"]
