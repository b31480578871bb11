"""Command-line options from dataclasses, every mistake as one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tyro

from ezm.errors import UserError


def parse(kind: type[Any], command: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Options of a command.

    Raises:
        UserError: an unknown option, or a value that will not do.
    """
    known = ["--help", "-h", *_names(kind)]
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
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(
            f"{_first_sentence(printed.getvalue())}; see `ezm {command} --help`"
        ) from None


def _names(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """Every option of a nested dataclass as it is spelt on the command line."""
    for name, hint in typing.get_type_hints(kind).items():
        dashed = name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from _names(typing.cast(type, hint), f"{prefix}{dashed}.")
        else:
            yield f"--{prefix}{dashed}"
            if hint is bool:
                yield f"--{prefix}no-{dashed}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the known name closest to ``name``, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if not found:  # --latent-size for --model.latent-size
        tails = {each.rpartition(".")[2]: each for each in known}
        found = [tails[tail] for tail in difflib.get_close_matches(name.lstrip("-"), tails, 1, 0.8)]
    return f" (did you mean {found[0]}?)" if found else ""


def _first_sentence(box: str) -> str:
    """What is wrong, out of the framed message that tyro prints.

    The frame's first line is a title; a rule or an empty line ends what matters.
    """
    lines = [line.strip("│╰╯ ") for line in box.splitlines()[1:]]
    ends = (i for i, line in enumerate(lines) if not line.strip("─"))
    end = next(ends, len(lines))
    if lines[:1] and lines[0].startswith("Missing from"):
        end = 2  # the name alone, without its explanation
    sentence = " ".join(lines[:end]).rstrip(".")
    return sentence.removeprefix("Error parsing ") or "the options will not do"


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option that decides the defaults of all others."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None
