"""The command line: ``ezm`` and a command, see ``COMMANDS``.

A command parses options, prepares JAX and calls the library. It imports heavy modules only when it needs them, so
help and error messages appear at once.

A user's mistake gives one line, ``error: ...``, and exit code 2. A run that diverges exits with 4. A run stopped by
Ctrl-C exits with 130 and says how to resume it.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import ezm
from ezm.cli.commands import Completion, Convert, Doctor, Report, Tasks
from ezm.cli.evaluate import Eval
from ezm.cli.options import RunOptions, parse, parse_run
from ezm.cli.terminal import Lines
from ezm.cli.train import Demo, Profile, Train
from ezm.cli.watch import Watch
from ezm.errors import UserError, nearest

INTERRUPTED = 130


COMMANDS: dict[str, type[Any]] = {
    "train": Train,
    "eval": Eval,
    "watch": Watch,
    "report": Report,
    "profile": Profile,
    "tasks": Tasks,
    "demo": Demo,
    "doctor": Doctor,
    "convert": Convert,
    "completion": Completion,
}
"""Each command's dataclass of options. Calling an instance runs the command and returns its exit code, None for 0."""

HELP = """usage: ezm COMMAND [OPTIONS]

EfficientZero-Multitask: one model-based agent learns many control tasks.

  ezm demo             train one agent on four cartpole tasks, in minutes
  ezm train SUITE      train an agent; --resume RUN goes on with a stopped run
  ezm eval RUN         returns, success rate and score of a trained agent
  ezm watch RUN        film a trained agent at every task, or watch it live
  ezm report RUN...    write a run's report, one HTML page; or compare runs
  ezm profile SUITE    where the time of a run goes, as a table
  ezm tasks            list suites and tasks
  ezm doctor           can this machine train and draw, and what to mend
  ezm convert RUN      bring a run of an older ezm into today's format
  ezm completion SHELL tab completion for bash, zsh or fish
  ezm --version

SUITE: cartpole, walker, mixed, h1, h1hand, or tasks such as h1-stand,h1-walk.
RUN: the folder that `ezm train` names, runs/... unless --out says another.

ezm COMMAND --help explains its options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the encoding may lack a dash or a block
    log, lines = logging.getLogger("ezm"), Lines()
    log.addHandler(lines)
    log.propagate = False  # a library may have given the root a handler of its own
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            log.removeHandler(lines)
            log.propagate = True
            sys.stdout.flush()
    except OSError as error:
        if not _is_mute():
            raise
        if isinstance(error, BrokenPipeError):  # e.g. `ezm tasks | head`
            return 1
        print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return UserError.exit_code


def _run(arguments: Sequence[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(HELP)
        return 0
    if command == "--version":
        print(f"ezm {ezm.__version__}")
        return 0
    try:
        if command not in COMMANDS:
            raise UserError(
                f"unknown command {command!r}{nearest(command, COMMANDS)}; `ezm --help` lists them"
            )
        kind = COMMANDS[command]
        read = parse_run if issubclass(kind, RunOptions) else parse
        return read(kind, command, rest)() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        return INTERRUPTED


def _is_mute() -> bool:
    """Returns whether standard output cannot be written. If so, redirects it, so that Python can exit quietly."""
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
