"""``ezm profile``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ezm import platform
from ezm.cli.run_options import Options, config_of, parse_run
from ezm.cli.terminal import print_profile
from ezm.errors import UserError


@dataclass(frozen=True)
class Profile(Options):
    """Train for some seconds and show where they went, as a table and in profile.json.

    It trains as `ezm train` does with the same options, in a temporary folder. Compilation and the random phase are
    left out. The sections of the loop add up to its time. Work that overlaps counts only where the loop waits for it.

    Examples:
      ezm profile cartpole
      ezm profile h1 --preset paper --seconds 120 --out profiles
      ezm profile --resume runs/RUN
      ezm profile cartpole --trace trace
    """

    FIRST: ClassVar[tuple[str, ...]] = (*Options.FIRST, "seconds")

    seconds: float = 30.0
    """Seconds of training. One checkpoint and one evaluation follow."""
    out: Path = Path()
    """Folder of profile.json, and of the temporary folder with the checkpoint."""
    resume: Path | None = None
    """Profile a copy of the run in this folder, with its options, replay and parameters."""
    trace: Path | None = None
    """Folder for JAX's own profile of a few more updates, which TensorBoard's profiler and Perfetto show."""


def profile(arguments: Sequence[str]) -> int:
    """Runs ``ezm profile`` and returns the exit code."""
    options = parse_run(Profile, "profile", arguments)
    if not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds {options.seconds:g}: must be finite and greater than 0")
    platform.prepare_jax(options.device)
    from ezm.runs.folder import write_atomically
    from ezm.training import profile as profiling

    found = profiling.profile(
        config_of(options), options.seconds, options.out, options.resume, options.trace
    )
    print_profile(found)
    path = options.out / "profile.json"
    write_atomically(path, json.dumps(found.to_dict(), indent=2) + "\n")
    print(path)
    return 0
