"""Output that may be lost: if it cannot be written, the work continues without it."""

from __future__ import annotations

import contextlib
import logging
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


class Lines(logging.Handler):
    """Prints the library's log records, such as warnings, on standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=Lenient(sys.stderr), flush=True)
