"""The environment variables that JAX and MuJoCo read; set before either is imported."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal

from ezm.errors import UserError

Device = Literal["auto", "cpu", "gpu"]


def has_gpu() -> bool:
    """Whether JAX will find a GPU, told without the seconds that asking JAX takes."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return False
    # The second is that of the Windows subsystem for Linux.
    return cuda_plugin() and any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg"))


def cuda_plugin() -> bool:
    """Whether JAX was installed with what it needs for NVIDIA's GPUs."""
    return any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))


def cache_folder() -> Path | None:
    """Where compiled programs are kept: $EZM_CACHE, or ezm in the user's cache folder; None: there is neither."""
    own, caches = os.environ.get("EZM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return Path(caches or Path.home() / ".cache") / "ezm"
    except RuntimeError:  # a user whom the system does not know, as in containers
        return None


def prepare_jax(device: Device) -> None:
    """Choose JAX's device and keep what it compiles; call before JAX is imported.

    Variables that the user has set stay as they are. Threads are left to XLA: its flag against
    threads within an operation has no effect on the CPU, as of JAX 0.10.

    Raises:
        UserError: a GPU is asked for where there is none.
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
