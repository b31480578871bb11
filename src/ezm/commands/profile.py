"""``ezm profile``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ezm import platform
from ezm.commands.run_options import Options, config_of, parse_run
from ezm.errors import UserError
from ezm.terminal import print_profile


@dataclass(frozen=True)
class Profile(Options):
    """Train for some seconds and show where they went, as a table and in profile.json and profile.png.

    It trains as `ezm train` does with the same options, in a temporary folder. Compilation and the random
    phase are left out. For half of the time training runs as ever, which gives its steps/s. For the other
    half each part is waited for, so that its seconds are its own: nothing but the targets then overlaps
    with an update, and what lies between the two rates is what overlapping gives.

    Examples:
      ezm profile cartpole
      ezm profile h1 --preset paper --seconds 120 --out profiles
      ezm profile --resume runs/RUN
    """

    FIRST: ClassVar[tuple[str, ...]] = (*Options.FIRST, "seconds")

    seconds: float = 30.0
    """Of training; one checkpoint and one evaluation come after them."""
    out: Path = Path()
    """Folder of profile.json and profile.png; the temporary folder is there too, and so the checkpoint."""
    resume: Path | None = None
    """Profile a copy of the run in this folder, with its options, replay and parameters."""


def profile(arguments: Sequence[str]) -> int:
    """``ezm profile``. Returns the exit code."""
    options = parse_run(Profile, "profile", arguments)
    if not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds {options.seconds:g}: must be finite and greater than 0")
    platform.prepare_jax(options.device)
    from ezm.training import profile as profiling

    found = profiling.profile(config_of(options), options.seconds, options.out, options.resume)
    print_profile(found)
    for path in profiling.write_profile(found, options.out):
        print(path)
    return 0
