"""``ezm convert``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ezm import platform
from ezm.cli.options import parse


@dataclass(frozen=True)
class Convert:
    """Convert a run that an older ezm wrote, so that it can be evaluated, filmed and reported.

    The command keeps the model and the statistics of the newest checkpoint. It does not keep the replay, so the run
    cannot be trained further. It needs the extra `convert`.

    Examples:
      ezm convert runs/RUN
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""


def convert(arguments: Sequence[str]) -> int:
    """Runs ``ezm convert`` and returns the exit code."""
    options = parse(Convert, "convert", arguments)
    platform.prepare_jax("cpu")
    from ezm.acting import conversion

    step = conversion.convert(options.run)
    kept = "no checkpoint" if step is None else f"the agent at step {step:,}"
    print(f"{options.run} has today's format, with {kept}")
    return 0
