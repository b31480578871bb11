"""The command line: a module for each command, with a dataclass of its options and the function that runs it."""

from ezm.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
