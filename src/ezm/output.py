"""Output that may be lost: if it cannot be written, the work continues without it."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TextIO


class Lenient:
    """A stream that ignores a full disk and a reader that is gone.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text if possible, and returns its length."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream if possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def note(line: str) -> None:
    """Prints a line for the user on standard error."""
    print(line, file=Lenient(sys.stderr), flush=True)
