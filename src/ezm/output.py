"""Lines that may be lost: where output cannot be written, the work goes on without it."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TextIO


class Lenient:
    """A stream whose disk may be full, and whose reader may be gone.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def note(line: str) -> None:
    """A line on standard error, of what the user should know."""
    print(line, file=Lenient(sys.stderr), flush=True)
