"""The command line: ``ezm train``, ``eval``, ``report``, ``profile``, ``tasks`` and ``demo``.

The commands only wire: they parse options, prepare JAX and call the library. Everything heavy is
imported inside the command that needs it, so that help and mistakes answer at once.

Every mistake of the user's is one line, ``error: ...``, and exit code 2; a run stopped by Ctrl-C
exits with 130 and says how to go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import ezm
from ezm.commands.evaluate import evaluate
from ezm.commands.profile import profile
from ezm.commands.report import report
from ezm.commands.tasks import tasks
from ezm.commands.train import demo, train
from ezm.errors import UserError
from ezm.options import nearest

INTERRUPTED = 130

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "report": report,
    "profile": profile,
    "tasks": tasks,
    "demo": demo,
}

HELP = """usage: ezm COMMAND [OPTIONS]

EfficientZero-Multitask: one model-based agent learns many control tasks.

  ezm demo          train one agent on four cartpole tasks, in minutes, and show what it learned
  ezm train SUITE   train an agent; --resume RUN goes on with a stopped run
  ezm eval RUN      evaluate a trained agent: mean return and 95 % interval of every task
  ezm report RUN    write a run's report, one HTML page
  ezm profile SUITE where the time of a run goes, as a table and a picture
  ezm tasks         list suites and tasks
  ezm --version

ezm COMMAND --help explains its options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
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
        return COMMANDS[command](rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # e.g. `ezm tasks | head`
        sys.stderr.close()
        return 1
