"""Estimate of the memory that a run will take, announced before the run takes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import jax

from ezm.config import TrainConfig
from ezm.errors import UserError
from ezm.experience import Replay, RowSizes
from ezm.tasks import Suite

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


def replay_rows(config: TrainConfig, suite: Suite) -> int:
    """Returns the rows of each task's replay: the capacity, or fewer where a run of full episodes fills fewer.

    A run fills a row for each step, and another row at the end of each episode. A run with shorter episodes overwrites
    its oldest rows.
    """
    shortest = min(task.episode_steps or 1 for task in suite.tasks)
    return min(config.replay.capacity, config.steps + config.steps // shortest + 2)


def memory_of(config: TrainConfig, suite: Suite, parameters: int) -> Memory:
    """Returns the memory that a run with a model of ``parameters`` parameters takes once its replay is full."""
    sizes = RowSizes(suite.observation_size, suite.action_size, config.kept_actions)
    rows = suite.num_tasks * replay_rows(config, suite)
    places, content = (rows * size for size in Replay.bytes_per_row(sizes))
    on_device = content if config.replay.device and has_own_memory() else 0
    replay = places + content - on_device
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

    def capacity(fits: float) -> str:
        return f"--replay.capacity {int(fits) // 1000 * 1000} would do" if fits >= 1000 else ""

    replays = f"of it for {tasks} replays of {rows:,} rows, and"
    free, needed = available(), memory.total - memory.process
    if free is not None and needed > free:
        fix = capacity((free - needed + memory.replay) / memory.replay * rows)
        raise UserError(
            f"the run needs {size(needed)} more memory, {size(memory.replay)} {replays} {size(free)} are free: "
            f"{fix or 'use a larger machine or a smaller model'}"
        )
    free, needed = available_on_device(), memory.on_device + memory.agent
    if memory.on_device and free is not None and needed > free:
        fix = capacity((free - memory.agent) / memory.on_device * rows)
        raise UserError(
            f"--replay.device: the run needs {size(needed)} on the device, {size(memory.on_device)} {replays} "
            f"{size(free)} are free there: {f'{fix}, or ' if fix else ''}leave --replay.device out"
        )


def has_own_memory() -> bool:
    """Returns whether the device that JAX computes on has its own memory."""
    return jax.default_backend() != "cpu"


def available_on_device() -> int | None:
    """Returns the bytes that JAX may still take on the first device, or None where the device does not report them."""
    found = jax.devices()[0].memory_stats() or {}
    limit = found.get("bytes_limit")
    return None if limit is None else max(0, limit - found.get("bytes_in_use", 0))


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
        return _table(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    except (OSError, KeyError):
        return None


def _control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns the memory left below a container's limit. The container's inactive file cache counts as free."""
    try:
        # Without a limit the file says "max".
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        return max(0, limit - used + _table(folder / "memory.stat").get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Reads a file whose lines begin with a name and a number."""
    lines = map(str.split, path.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}


def size(count: int) -> str:
    """Formats a number of bytes as MiB or GiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    mib = count / 2**20
    return f"{mib:.0f} MiB" if mib >= 99.95 else f"{mib:.3g} MiB"
