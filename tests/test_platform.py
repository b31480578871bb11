"""The surroundings of a process: which device JAX takes, graphics libraries, and the user's variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ezm import platform
from ezm.config import to_dict
from ezm.config.presets import defaults
from ezm.errors import UserError
from ezm.platform import has_gpu, prepare_jax
from ezm.runs.folder import RunFolder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"JAX_PLATFORMS": "cuda,cpu"}, True),
        ({"JAX_PLATFORMS": "cpu,cuda"}, False),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, False),
    ],
)
def test_a_gpu_that_jax_will_not_use_does_not_count(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(platform, "cuda_plugin", lambda: True)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    monkeypatch.setattr(platform.os, "environ", variables)
    assert has_gpu() == expected


@pytest.mark.parametrize(
    "command", ["eval run", "watch run", "train --resume run", "train cartpole"]
)
def test_jax_is_imported_after_its_settings(tmp_path: Path, command: str) -> None:
    """Otherwise JAX would read neither the device nor the folder of compiled programs."""
    RunFolder.create(tmp_path / "run", to_dict(defaults("cpu", "cartpole")))
    program = """
import sys
from ezm import platform
platform.prepare_jax = lambda device: sys.exit(9 if "jax" in sys.modules else 5)
from ezm.cli import main
main(sys.argv[1:])
"""
    done = subprocess.run([sys.executable, "-c", program, *command.split()], cwd=tmp_path)
    assert done.returncode == 5


def test_a_graphics_library_that_is_not_there_matters_only_where_something_is_drawn() -> None:
    """dm_control and MuJoCo refuse an unknown MUJOCO_GL when they are imported."""
    command = [sys.executable, "-m", "ezm", "tasks", "h1-walk,dmc:cartpole-balance"]
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hb:h1-walk" in done.stdout


def test_a_gpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    for variable in ("MUJOCO_GL", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    with pytest.raises(UserError, match="--device gpu: JAX finds no GPU here"):
        prepare_jax("gpu")


def test_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MUJOCO_GL": "egl", "EZM_CACHE": "/cache"}
    monkeypatch.setattr(platform.os, "environ", environment)
    prepare_jax("cpu")
    assert environment["MUJOCO_GL"] == "egl"
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/cache/jax"
