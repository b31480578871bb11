"""The surroundings of the process: devices, environment variables for JAX and MuJoCo, and signals.

JAX and MuJoCo read their variables once, so :func:`prepare_jax` comes before either is imported.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ezm.errors import UserError

Device = Literal["auto", "cpu", "gpu"]

# Windows has no SIGHUP.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def has_gpu() -> bool:
    """Predicts whether JAX will find a GPU, without the seconds that asking JAX takes."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return False
    # The second device is the GPU in the Windows subsystem for Linux.
    return cuda_plugin() and any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))


def cuda_plugin() -> bool:
    """Returns whether JAX's plugin for NVIDIA GPUs is installed."""
    return any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))


def cache_folder() -> Path | None:
    """Returns the folder of compiled programs: $EZM_CACHE, else ezm in the user's cache folder, else None."""
    own, caches = os.environ.get("EZM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return Path(caches or Path.home() / ".cache") / "ezm"
    except RuntimeError:  # the system does not know the user, as in some containers
        return None


def prepare_jax(device: Device) -> None:
    """Chooses JAX's device and the cache of compiled programs. Call it before JAX is imported.

    Variables that the user has set stay as they are, except that ``cpu`` replaces JAX_PLATFORMS. XLA chooses its own
    threads: its flag against threads within an operation has no effect on the CPU, as of JAX 0.10.

    Raises:
        UserError: a GPU is required and there is none.
    """
    default = os.environ.setdefault
    default("MUJOCO_GL", "disabled")
    if (folder := cache_folder()) is not None:
        default("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
    default("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if device == "gpu":
        _require_gpu()
    elif device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"


def _require_gpu() -> None:
    import jax

    try:
        jax.devices("gpu")
    except RuntimeError as error:
        raise UserError(
            "--device gpu: JAX finds no GPU here; install ezm-rl[gpu] on a machine with an NVIDIA "
            "driver, or leave --device out"
        ) from error


def multiplies_bfloat16() -> bool:
    """Returns whether this processor multiplies bfloat16 matrices in hardware (AMX)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@contextmanager
def at_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Calls ``stop`` at the first Ctrl-C, SIGTERM or SIGHUP. A second signal interrupts at once.

    An exception instead could be raised in a library's callback to Python, and be lost there. A SIGHUP that ``nohup``
    ignores stays ignored. Outside of the main thread nothing changes, and the caller handles the signals.
    """
    before: dict[int, Any] = {}

    def first(signum: int, frame: Any) -> None:
        stop()
        for each in before:
            signal.signal(each, signal.default_int_handler)

    try:
        for each in _SIGNALS:
            if each == signal.SIGINT or signal.getsignal(each) == signal.SIG_DFL:
                before[each] = signal.signal(each, first)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
