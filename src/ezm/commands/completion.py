"""``ezm completion``: tab completion for bash, zsh and fish.

The scripts are static and start nothing: they contain all words that can be typed. For folders, files and anything
else that is not listed, the shell completes file names.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ezm.options import options, parse, spellings


@dataclass(frozen=True)
class Completion:
    """Print the script that completes `ezm` in a shell: commands, options, their values, suites.

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
    if shell == "fish":
        print(_fish(commands))
    else:
        print(_WORDS.format(values=_values(commands), names=_names(commands)))
        print(_BASH if shell == "bash" else _ZSH)
    return 0


# Prints the words that may follow, one per line. $1 is the command, $2 the word before, $3 the beginning of
# the word.
_WORDS = """_ezm_words() {{
  case "$1 $2" in
{values}
  esac
  case "$1 $3" in
{names}
  esac
}}
"""

_BASH = """_ezm() {
  local word=${COMP_WORDS[COMP_CWORD]} command=
  ((COMP_CWORD > 1)) && command=${COMP_WORDS[1]}
  COMPREPLY=($(compgen -W "$(_ezm_words "$command" "${COMP_WORDS[COMP_CWORD - 1]}" "$word")" -- "$word"))
}
complete -o default -F _ezm ezm"""

_ZSH = """_ezm() {
  local command=
  ((CURRENT > 2)) && command=$words[2]
  local found=(${=$(_ezm_words "$command" "$words[CURRENT-1]" "$words[CURRENT]")})
  if (($#found)); then compadd -- $found; else _files; fi
}
compdef _ezm ezm"""


def _choices(hint: Any) -> list[str]:
    """Returns the values of an option or argument, if they can be listed."""
    alternatives = [hint, *typing.get_args(hint)]
    literals = [each for each in alternatives if typing.get_origin(each) is Literal]
    return [str(value) for each in literals for value in typing.get_args(each)]


def _arguments(kind: type[Any]) -> list[str]:
    """Returns the values of a command's positional argument, none for files and folders."""
    hint = next((option.hint for option in options(kind) if option.positional), Path)
    if Path in (hint, *typing.get_args(hint)) or _choices(hint):
        return _choices(hint)
    from ezm.tasks.suites import SUITES

    humanoids = [name for suite in ("h1", "h1hand") for name in SUITES[suite]]
    return [*SUITES, *(name.removeprefix("hb:") for name in humanoids)]


def _offered(kind: type[Any]) -> list[str]:
    """Returns every spelling of an option that ``--help`` may list, and the options that ask for help."""
    more = ["--help-all"] if hasattr(kind, "FIRST") else []
    return ["--help", *more, *spellings(kind)]


def _values(commands: Mapping[str, type[Any]]) -> str:
    """Returns the shell cases for words after an option that takes a value: its choices, or none."""
    lines = []
    for command, kind in commands.items():
        free = []
        for option in options(kind):
            if option.positional or option.hint is bool:
                continue
            if choices := _choices(option.hint):
                lines.append(
                    f'    "{command} {option.name}") echo "{" ".join(choices)}"; return ;;'
                )
            else:
                free.append(f'"{command} {option.name}"')
        if free:
            lines.append(f"    {' | '.join(free)}) return ;;")
    return "\n".join(lines)


def _names(commands: Mapping[str, type[Any]]) -> str:
    """Returns the shell cases for all other words: commands, options, and a command's positional argument."""
    lines = [f'    " "*) echo "{" ".join(commands)} --help --version" ;;']
    for command, kind in commands.items():
        lines.append(f'    "{command} -"*) echo "{" ".join(_offered(kind))}" ;;')
        if arguments := _arguments(kind):
            lines.append(f'    "{command} "*) echo "{" ".join(arguments)}" ;;')
    return "\n".join(lines)


def _fish(commands: Mapping[str, type[Any]]) -> str:
    first = "-n __fish_use_subcommand"
    lines = [f"complete -c ezm {first} -f", f"complete -c ezm {first} -l version"]
    for command, kind in commands.items():
        summary = (inspect.getdoc(kind) or "").splitlines()[0].replace("'", "\\'")
        lines.append(f"complete -c ezm {first} -a {command} -d '{summary}'")
        inside = f"complete -c ezm -n '__fish_seen_subcommand_from {command}'"
        if arguments := _arguments(kind):
            lines.append(f"{inside} -a '{' '.join(arguments)}'")
        values = {option.name: option for option in options(kind) if option.hint is not bool}
        for name in _offered(kind):
            line = f"{inside} -l {name.removeprefix('--')}"
            if name in values:
                choices = _choices(values[name].hint)
                line += f" -x -a '{' '.join(choices)}'" if choices else " -r"
            lines.append(line)
    return "\n".join(lines)
