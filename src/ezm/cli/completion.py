"""``ezm completion``: tab completion for bash, zsh and fish, as tyro writes it."""

from __future__ import annotations

import contextlib
import functools
import io
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ezm.cli.options import parse


@dataclass(frozen=True)
class Completion:
    """Print the script that completes `ezm` in a shell: commands, options and their values.

    The completion starts python3 at each Tab.

    Examples:
      eval "$(ezm completion bash)"                  in ~/.bashrc
      eval "$(ezm completion zsh)"                   in ~/.zshrc, below compinit
      ezm completion fish > ~/.config/fish/completions/ezm.fish
    """

    shell: Annotated[
        tyro.conf.Positional[Literal["bash", "zsh", "fish"]], tyro.conf.arg(metavar="SHELL")
    ]
    """bash, zsh or fish."""


def completion(arguments: Sequence[str], commands: Mapping[str, type[Any]]) -> int:
    """Runs ``ezm completion``, with the options of every command, and returns the exit code."""
    shell = parse(Completion, "completion", arguments).shell
    named = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items()]
    any_command: Any = functools.reduce(operator.or_, named)
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        tyro.cli(any_command, prog="ezm", args=["--tyro-print-completion", shell])
    # Without -o default bash would complete no folder of a run.
    print(script.getvalue().replace("complete -F", "complete -o default -F"))
    return 0
