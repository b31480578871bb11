"""The surroundings of the process: devices, environment variables for JAX and MuJoCo, and signals.

JAX and MuJoCo read their variables once, so :func:`prepare_jax` comes before either is imported.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ezm.errors import UserError

_log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "gpu"]

# Windows has no SIGHUP.
_SIGNALS = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}


def has_gpu() -> bool:
    """Predicts whether JAX will find a GPU, without the seconds that asking JAX takes."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and platforms.split(",")[0] not in ("cuda", "gpu"):  # JAX computes on the first
        return False
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
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
    """Chooses JAX's device and the cache of compiled programs, and imports JAX. Call it before JAX is imported.

    Variables that the user has set stay as they are, except that ``cpu`` replaces JAX_PLATFORMS. XLA chooses its own
    threads: its flag against threads within an operation has no effect on the CPU, as of JAX 0.10.

    A warning names each setting that has no effect, see :func:`check_settings`.

    Raises:
        UserError: a GPU is required and there is none.
        BrokenSetting: JAX or a training fails with a setting of the environment.
    """
    # JAX traces a program into hundreds of thousands of objects that stay. With Python's threshold of 700 the search
    # for cycles among them takes a fifth of the time that the commands need to start.
    gc.set_threshold(100_000)
    suspects = _variables()
    default = os.environ.setdefault
    default("MUJOCO_GL", "disabled")
    if (folder := cache_folder()) is not None:
        default("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
    default("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        suspects.pop("JAX_PLATFORMS", None)
    for said in check_settings(suspects):
        _log.warning(said)
    if device != "gpu":
        return
    import jax

    try:
        jax.devices("gpu")
    except RuntimeError as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        hidden = f" with JAX_PLATFORMS={platforms}; unset JAX_PLATFORMS," if platforms else ";"
        raise UserError(
            f"--device gpu: JAX finds no GPU here{hidden} install ezm-rl[gpu] on a machine with an NVIDIA "
            "driver, or leave --device out"
        ) from error


class BrokenSetting(UserError):
    """A variable of the environment with which JAX or a training fails."""

    def __init__(self, said: str, fix: str) -> None:
        super().__init__(f"{said}; {fix}")
        self.said, self.fix = said, fix


_ERRORS = ("raise",), "its programs do not carry JAX's state of errors"
_BREAKING: dict[str, tuple[tuple[Any, ...], str]] = {
    "JAX_DISABLE_JIT": ((True,), "it compiles its programs ahead of their first use"),
    "JAX_DEBUG_NANS": ((True,), "a figure is nan where there is nothing to average"),
    "JAX_ARRAY_GARBAGE_COLLECTION_GUARD": (("fatal",), "it has arrays in reference cycles"),
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN": _ERRORS,
    "JAX_ERROR_CHECKING_BEHAVIOR_DIVIDE": _ERRORS,
    "JAX_ERROR_CHECKING_BEHAVIOR_OOB": _ERRORS,
    # JAX 0.10 does not heed the variables of a single direction.
    "JAX_TRANSFER_GUARD": (("disallow", "disallow_explicit"), "it passes arrays of numpy to JAX"),
}
"""Settings with which a training fails though JAX works: their values, and the reason."""
_OWN = {
    "JAX_ENABLE_X64": (False, "ezm computes in float32"),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard", "ezm mixes types by JAX's standard rules"),
    "JAX_NUMPY_RANK_PROMOTION": ("allow", "ezm broadcasts arrays as numpy does"),
    "JAX_DEFAULT_PRNG_IMPL": ("threefry2x32", "ezm's seeds and keys are of threefry2x32"),
}
"""Settings that change the meaning of a program: the only values that ezm's programs are written for, and the reason."""


def check_settings(suspects: Mapping[str, str] | None = None) -> list[str]:
    """Imports JAX, tries it with the settings of the environment, and gives it those that ezm's programs need.

    Returns a line for each of the user's settings that has no effect for that reason.

    Args:
        suspects: the user's settings, by variable. None: all of JAX and XLA in the environment.

    Raises:
        BrokenSetting: JAX or a training fails with one of them.
    """
    suspects = _variables() if suspects is None else suspects
    _check_xla_flags(suspects.get("XLA_FLAGS"))
    with _blaming(suspects):
        import jax

    def value(name: str) -> Any:
        found = getattr(jax.config, name.lower(), None)  # None: not of this version
        return getattr(found, "value", found)  # some settings are enumerations

    for name, (values, why) in _BREAKING.items():
        if value(name) in values:
            said = f"{name}={suspects.get(name)}: a training fails, because {why}"
            raise BrokenSetting(said, f"unset {name}")
    with _blaming(suspects):
        jax.block_until_ready(jax.jit(lambda x: x + 1)(0))
    lines = []
    for name, (own, why) in _OWN.items():
        if value(name) not in (own, None):
            jax.config.update(name.lower(), own)
            lines.append(f"{name}={suspects.get(name)} has no effect: {why}")
    return lines


def _variables() -> dict[str, str]:
    """Returns the variables of the environment that are settings of JAX or XLA."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("JAX_") or name == "XLA_FLAGS"
    }


def _check_xla_flags(flags: str | None) -> None:
    """Tries XLA's flags in a process of its own, because XLA ends the process at a broken flag."""
    if not flags:
        return
    program = "from jaxlib.xla_client import make_cpu_client; make_cpu_client()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = re.search(r"^[EF]\d{4} .*?\] (.*)$", done.stderr, re.MULTILINE)
    if done.returncode and said:
        raise BrokenSetting(f"XLA_FLAGS={flags}: {said[1].rstrip('.')}", "mend or unset XLA_FLAGS")


@contextmanager
def _blaming(suspects: Mapping[str, str]) -> Iterator[None]:
    """Blames a failure of JAX on the settings that its message mentions, otherwise on all suspects.

    Raises:
        BrokenSetting: the block failed, and there are suspects.
    """
    try:
        yield
    except Exception as error:  # JAX raises a RuntimeError, ValueError, AssertionError and others
        said = " ".join(str(error).split()) or type(error).__name__
        blamed = [
            name
            for name, value in suspects.items()
            if name.lower() in said.lower() or repr(value) in said
        ] or list(suspects)
        if not blamed:
            raise
        given = " ".join(f"{name}={suspects[name]}" for name in blamed)
        raise BrokenSetting(f"{given}: JAX fails: {said}", f"unset {' '.join(blamed)}") from error


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

    if threading.current_thread() is threading.main_thread():
        for each in _SIGNALS:
            if each == signal.SIGINT or signal.getsignal(each) == signal.SIG_DFL:
                before[each] = signal.signal(each, first)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
