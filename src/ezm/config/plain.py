"""Dataclasses from plain values, as JSON has them. Every value must have the type that its field declares."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar

from ezm.errors import UserError

T = TypeVar("T")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_FIX = "restore config.json from a copy, or start a new run"


def read(kind: type[T], values: Any, required: Collection[str] = (), prefix: str = "") -> T:
    """Builds a nested dataclass from plain values: the inverse of :func:`dataclasses.asdict`. Missing fields keep
    their defaults.

    Args:
        kind: the dataclass.
        values: the values by field name. Lists stand for tuples.
        required: names that must be present, at the top level.
        prefix: prepended to the names in messages.

    Raises:
        UserError: an unknown name, a missing required name, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise _wrong(prefix.rstrip("."), values, "a group of options")
    hints = typing.get_type_hints(kind)
    if missing := [name for name in required if name not in values]:
        raise UserError(f"the configuration has no {missing[0]}: {_FIX}")
    known = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(
                f"the configuration has {prefix + name!r}, unknown to this version of ezm: use the one that wrote it"
            )
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = read(typing.cast(type, hint), value, prefix=f"{prefix}{name}.")
        elif not _fits(value, hint):
            raise _wrong(prefix + name, value, _described(hint))
        known[name] = tuple(value) if isinstance(value, list) else value
    return kind(**known)


def _wrong(name: str, value: Any, expected: str) -> UserError:
    return UserError(f"the configuration has {name} {value!r}, it must be {expected}: {_FIX}")


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return value in parts
    if kind is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if kind is tuple:
        if not isinstance(value, list | tuple):
            return False
        parts = parts[:1] * len(value) if Ellipsis in parts else parts
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _described(hint: Any) -> str:
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind is types.UnionType:
        return " or ".join(map(_described, parts))
    if kind is tuple:
        return "a list of numbers" if Ellipsis in parts else f"a list of {len(parts)} numbers"
    return _WORDS.get(hint, "null")
