"""Functions that the benchmarks' command lines share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from ezm.errors import UserError

Options = TypeVar("Options")
Row = TypeVar("Row")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def command(main: Callable[[Options], None], kind: type[Options], description: str | None) -> None:
    """Calls ``main`` with options from the command line. A user's mistake is one line and exit code 2."""
    try:
        main(tyro.cli(kind, description=description))
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def show(rows: Sequence[Row], table: Callable[[Sequence[Row]], Table], *, as_json: bool) -> None:
    """Prints rows, one JSON object a line, or their table."""
    if as_json:
        print("\n".join(map(json.dumps, rows)))
    else:
        Console().print(table(rows))
