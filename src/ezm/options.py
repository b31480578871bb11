"""Command-line options from dataclasses, with one-line error messages and help that fits 80 columns.

A command's help comes from its dataclass: the docstring, then the fields with their docstrings, then the examples.
The examples stand in the docstring below a line ``Examples:``. A dataclass with many fields lists the fields that
``--help`` shows in a class variable ``FIRST``. ``--help-all`` shows all fields.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import tyro

from ezm.errors import UserError

_HELP = ("-h", "--help", "--help-all")
_COLUMNS = 80


class Option(NamedTuple):
    """An option, or a positional argument, of a command."""

    name: str
    """Its spelling on the command line: ``--model.latent-size``."""
    hint: Any
    """Its type, without annotations."""
    positional: bool
    pair: bool
    """Whether ``--no-...`` turns it off."""


def parse(kind: type[Any], command: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Parses a command's arguments into its dataclass. If they ask for help, prints the help and ends the process.

    Raises:
        UserError: an unknown option, or an unsuitable value.
    """
    asked = set(arguments) & set(_HELP)
    if asked:
        _print_help(kind, command, default, everything="--help-all" in asked)
        raise SystemExit(0)
    known = [*_HELP, *spellings(kind)]
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise UserError(
                f"unknown option {name}{nearest(name, known)}; `ezm {command} --help` lists them"
            )
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, prog=f"ezm {command}", args=arguments, default=default)
    except SystemExit:
        raise UserError(
            f"{_first_sentence(printed.getvalue())}; see `ezm {command} --help`"
        ) from None


def options(kind: type[Any], prefix: str = "--") -> Iterator[Option]:
    """Yields every option of a nested dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, marks = hints[field.name], getattr(hints[field.name], "__metadata__", ())
        hint = typing.get_args(hint)[0] if marks else hint
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from options(typing.cast(type, hint), f"{name}.")
        else:
            pair = hint is bool and tyro.conf.FlagCreatePairsOff not in marks
            yield Option(name, hint, tyro.conf.Positional in marks, pair)


def spellings(kind: type[Any]) -> list[str]:
    """Returns all spellings of all options."""
    found: list[str] = []
    for option in options(kind):
        if not option.positional:
            found.append(option.name)
        if option.pair:
            group, dot, last = option.name.removeprefix("--").rpartition(".")
            found.append(f"--{group}{dot}no-{last}")
    return found


def _print_help(kind: type[Any], command: str, default: Any, *, everything: bool) -> None:
    """Prints the description, then usage and options as tyro frames them, then the examples."""
    description, _, examples = (inspect.getdoc(kind) or "").partition("\nExamples:\n")
    first = None if everything else getattr(kind, "FIRST", None)
    shown = kind if first is None else _showing(kind, first)
    for paragraph in description.strip().split("\n\n"):
        print(paragraph if "\n  " in paragraph else textwrap.fill(paragraph, _COLUMNS), end="\n\n")
    with contextlib.suppress(SystemExit):  # tyro would join the description's lines
        tyro.cli(shown, prog=f"ezm {command}", description="", args=["--help"], default=default)
    if first is not None:
        print(f"All other options, by group: ezm {command} --help-all\n")
    if examples:
        print(f"Examples:\n{examples.rstrip()}")


def _showing(kind: type[Any], first: Sequence[str]) -> type[Any]:
    """Returns the same dataclass, with help for the given fields only."""
    hints = typing.get_type_hints(kind, include_extras=True)
    hidden = {
        f.name: Annotated[hints[f.name], tyro.conf.Suppress]
        for f in dataclasses.fields(kind)
        if f.name not in first
    }
    fields = [(f.name, hidden.get(f.name, hints[f.name]), f) for f in dataclasses.fields(kind)]
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean X?)`` for the known name closest to ``name``, or an empty text."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if not found:  # --latent-size for --model.latent-size
        tails = {each.rpartition(".")[2]: each for each in known}
        found = [tails[tail] for tail in difflib.get_close_matches(name.lstrip("-"), tails, 1, 0.8)]
    return f" (did you mean {found[0]}?)" if found else ""


def _first_sentence(box: str) -> str:
    """Extracts the error from the framed message that tyro prints.

    The frame's first line is a title. The error ends at a rule or an empty line.
    """
    lines = [line.strip("│╰╯ ") for line in box.splitlines()[1:]]
    ends = (i for i, line in enumerate(lines) if not line.strip("─"))
    end = next(ends, len(lines))
    if lines[:1] and lines[0].startswith("Missing from"):
        end = 2  # the name alone, without its explanation
    sentence = " ".join(lines[:end]).rstrip(".")
    return sentence.removeprefix("Error parsing ") or "the options will not do"


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Returns the value of ``option`` in the arguments, or None. It is needed before parsing, for an option that
    decides the defaults of all others."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None
