"""Command-line options from dataclasses, with one-line error messages and help that fits 80 columns.

A command's help comes from its dataclass: the docstring, then the fields with their docstrings, then the examples.
The examples stand in the docstring below a line ``Examples:``. A dataclass with many fields lists the fields that
``--help`` shows in a class variable ``FIRST``. ``--help-all`` shows all fields.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import textwrap
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from ezm.errors import UserError, nearest

_HELP = ("-h", "--help", "--help-all")
_COLUMNS = 80


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


def spellings(kind: type[Any], prefix: str = "--") -> list[str]:
    """Returns all spellings of all options of a nested dataclass: ``--model.latent-size``, ``--model.no-latent-norm``."""
    found: list[str] = []
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], field.name.replace("_", "-")
        marks = getattr(hint, "__metadata__", ())
        hint = typing.get_args(hint)[0] if marks else hint
        if dataclasses.is_dataclass(hint):
            found += spellings(typing.cast(type, hint), f"{prefix}{name}.")
        elif tyro.conf.Positional not in marks:
            found.append(prefix + name)
            if hint is bool and tyro.conf.FlagCreatePairsOff not in marks:
                found.append(f"{prefix}no-{name}")
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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, nargs="?", dest="value")
    return typing.cast(str | None, parser.parse_known_args(arguments)[0].value)
