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
    """Bytes on the host, by what takes them."""

    process: int
    """Python, libraries and environments: what is resident by now."""
    programs: int
    replay: int
    agent: int

    @property
    def total(self) -> int:
        """The peak to expect."""
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size(part)}" for name, part in self._asdict().items())
        return f"memory: about {size(self.total)} ({parts})"


def planned(replay: int, parameters: int) -> Memory:
    """What a run takes, with so many bytes of replay and so many parameters, once all is filled."""
    return Memory(resident(), _PROGRAMS, replay, 4 * _COPIES * parameters)


def check_that_it_fits(memory: Memory, rows: int, tasks: int) -> None:
    """Refuse a run that the machine cannot hold.

    Args:
        memory: what the run takes.
        rows: of the replay, per task.
        tasks: K.

    Raises:
        UserError: there is less; it says which capacity would do.
    """
    free = available()
    needed = memory.total - memory.process
    if free is None or needed <= free:
        return
    fits = int((free - needed + memory.replay) / memory.replay * rows)
    fix = (
        f"--replay.capacity {fits // 1000 * 1000} would do"
        if fits >= 1000
        else "use a larger machine or a smaller model"
    )
    raise UserError(
        f"the run needs {size(needed)} more memory, {size(memory.replay)} of it for {tasks} replays of {rows:,} rows, "
        f"and {size(free)} are free: {fix}"
    )


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
