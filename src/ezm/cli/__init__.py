"""The command line: a dataclass of options for each command, whose instances run it."""

from ezm.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
