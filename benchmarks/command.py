"""What the benchmarks' command lines share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import tyro
from rich.console import Console

from ezm.errors import UserError

Options = TypeVar("Options")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def command(main: Callable[[Options], None], kind: type[Options], description: str | None) -> None:
    """Call ``main`` with options from the command line; a user's mistake is one line and exit code 2."""
    try:
        main(tyro.cli(kind, description=description))
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
