"""What a run will take of the machine's memory, told before it is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ezm.errors import UserError

_PROGRAMS = 1_000 * 2**20
"""What compiling and the compiled programs add to a process that has built everything else: 0.6 to 1.1 GiB was
measured for the presets' programs on a CPU, 0.4 GiB where they were found in the cache."""
_COPIES = 6
"""Parameters, EMA, two moments; parameters and EMA of the step before, for acting and the targets under way."""


class Memory(NamedTuple):
    """Bytes in the machine's memory, by what takes them; and the replay's on the device that learns."""

    process: int
    """Python, libraries and environments: what is resident by now."""
    programs: int
    replay: int
    agent: int
    on_device: int = 0
    """Rows of a replay that has them in a memory of the device's own; 0 where they are part of ``replay``."""

    @property
    def total(self) -> int:
        """The peak to expect in the machine's memory."""
        return sum(self) - self.on_device

    def __str__(self) -> str:
        *parts, on_device = self._asdict().items()
        said = ", ".join(f"{name} {size(part)}" for name, part in parts)
        there = f"; on the device: replay {size(on_device[1])}" if on_device[1] else ""
        return f"memory: about {size(self.total)} ({said}){there}"


def planned(replay: int, parameters: int, on_device: int = 0) -> Memory:
    """What a run takes, with so many bytes of replay and so many parameters, once all is filled."""
    return Memory(resident(), _PROGRAMS, replay, 4 * _COPIES * parameters, on_device)


def check_that_it_fits(memory: Memory, rows: int, tasks: int) -> None:
    """Refuse a run that the machine cannot hold.

    Args:
        memory: what the run takes.
        rows: of the replay, per task.
        tasks: K.

    Raises:
        UserError: there is less, or less on the device; it says which capacity would do.
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
    """What to do where so many rows fit; nothing where hardly any does."""
    return f"--replay.capacity {fits // 1000 * 1000} would do" if fits >= 1000 else ""


def has_own_memory() -> bool:
    """Whether the device that JAX computes on has a memory of its own."""
    import jax

    return jax.default_backend() != "cpu"


def available_on_device() -> int | None:
    """Bytes that JAX may still take on the first device; None where the device does not say."""
    import jax

    found = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in found:
        return None
    return max(0, found["bytes_limit"] - found.get("bytes_in_use", 0))


def resident() -> int:
    """Bytes that this process has resident now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available() -> int | None:
    """Bytes that a process may still take, by the machine and by its control group; None where nothing says so."""
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
    """What is left below the limit of a container; its cache of files counts as free."""
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
    """Bytes as a person reads them."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    mib = count / 2**20
    return f"{mib:.0f} MiB" if mib >= 99.95 else f"{mib:.3g} MiB"
