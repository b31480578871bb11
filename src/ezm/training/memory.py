"""Estimate of the memory that a run will take, announced before the run takes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ezm.errors import UserError

_PROGRAMS = 1_000 * 2**20
"""Bytes that compiling and the compiled programs add to a process that has built everything else. Measured for the
presets' programs on a CPU: 0.6 to 1.1 GiB, or 0.4 GiB where they were found in the cache."""
_COPIES = 6
"""Copies of the parameters: the model, the EMA, two moments, and the model and EMA of the step before. Acting and the
targets under way use the last two."""


class Memory(NamedTuple):
    """Bytes in the machine's memory, by use, and the replay's bytes on the device that learns."""

    process: int
    """Python, libraries and environments: the memory that is resident by now."""
    programs: int
    replay: int
    agent: int
    on_device: int = 0
    """Rows of a replay in the device's own memory. 0 where the rows are part of ``replay``."""

    @property
    def total(self) -> int:
        """Expected peak in the machine's memory."""
        return sum(self) - self.on_device

    def __str__(self) -> str:
        *parts, on_device = self._asdict().items()
        said = ", ".join(f"{name} {size(part)}" for name, part in parts)
        there = f"; on the device: replay {size(on_device[1])}" if on_device[1] else ""
        return f"memory: about {size(self.total)} ({said}){there}"


def planned(replay: int, parameters: int, on_device: int = 0) -> Memory:
    """Returns the memory of a run with a full replay of ``replay`` bytes and a model of ``parameters`` parameters."""
    return Memory(resident(), _PROGRAMS, replay, 4 * _COPIES * parameters, on_device)


def check_that_it_fits(memory: Memory, rows: int, tasks: int) -> None:
    """Refuses a run that does not fit the machine's memory.

    Args:
        memory: the run's needs.
        rows: of the replay, per task.
        tasks: K.

    Raises:
        UserError: the machine or the device has less memory. The message says which capacity would fit.
    """
    free = available()
    needed = memory.total - memory.process
    if free is not None and needed > free:
        fits = int((free - needed + memory.replay) / memory.replay * rows)
        fix = _capacity(fits) or "use a larger machine or a smaller model"
        raise UserError(
            f"the run needs {size(needed)} more memory, {size(memory.replay)} of it for {tasks} replays of "
            f"{rows:,} rows, and {size(free)} are free: {fix}"
        )
    if not memory.on_device or (free := available_on_device()) is None:
        return
    needed = memory.on_device + memory.agent
    if needed > free:
        fix = _capacity(int((free - memory.agent) / memory.on_device * rows))
        raise UserError(
            f"--replay.device: the run needs {size(needed)} on the device, {size(memory.on_device)} of it for {tasks} "
            f"replays of {rows:,} rows, and {size(free)} are free there: {f'{fix}, or ' if fix else ''}"
            "leave --replay.device out"
        )


def _capacity(fits: int) -> str:
    """Returns advice where ``fits`` rows fit, or no text where fewer than 1,000 fit."""
    return f"--replay.capacity {fits // 1000 * 1000} would do" if fits >= 1000 else ""


def has_own_memory() -> bool:
    """Returns whether the device that JAX computes on has its own memory."""
    import jax

    return jax.default_backend() != "cpu"


def available_on_device() -> int | None:
    """Returns the bytes that JAX may still take on the first device, or None where the device does not report them."""
    import jax

    found = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in found:
        return None
    return max(0, found["bytes_limit"] - found.get("bytes_in_use", 0))


def resident() -> int:
    """Returns the bytes that this process has resident now, or 0 where the system does not report them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available() -> int | None:
    """Returns the bytes that a process may still take, or None where the system does not report them.

    The limit is the smaller of the machine's free memory and the free memory of the control group.
    """
    limits = [limit for limit in (_machine(), _control_group()) if limit is not None]
    return min(limits, default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns the memory left below a container's limit. The container's inactive file cache counts as free."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + int(statistics.get("inactive_file", 0)))


def size(count: int) -> str:
    """Formats a number of bytes as MiB or GiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    mib = count / 2**20
    return f"{mib:.0f} MiB" if mib >= 99.95 else f"{mib:.3g} MiB"
