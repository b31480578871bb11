"""`ezm doctor`: every fault is named, with its fix, and none is a traceback."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import ezm.cli
from ezm.cli import doctor
from ezm.cli.doctor import Answer, Finding, Probes, can_train, probe
from ezm.errors import UserError
from ezm.platform import prepare_jax

HEALTHY = Probes(
    jax=Answer(
        {"version": "0.10", "platform": "cpu", "devices": ["cpu"], "without_effect": []}, ""
    ),
    mujoco=Answer({"version": "3.17.0"}, ""),
    egl=Answer({}, ""),
    osmesa=Answer(None, "no library"),
    glfw=Answer(None, "no display"),
)


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    assert (finding.fix == "") == (finding.status == "ok"), "what is not well has a fix"
    return finding


# -- this machine ------------------------------------------------------------------------------


def test_this_machine_can_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 300.0)  # the machine may be busy with other tests
    monkeypatch.setenv("JAX_ENABLE_X64", "0")  # a setting that breaks nothing
    assert ezm.cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["can_train"] is True
    by_subject = {each["subject"]: each for each in found["findings"]}
    assert {"python", "jax", "mujoco", "rendering"} < set(by_subject)
    assert by_subject["jax"]["said"].startswith("JAX ")


def test_a_machine_that_cannot_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = HEALTHY._replace(mujoco=Answer(None, "ImportError: libmujoco.so: cannot open"))
    monkeypatch.setattr(doctor, "run_probes", lambda: broken)
    assert ezm.cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("problem") and "libmujoco.so: cannot open" in line for line in lines)
    assert any("--force-reinstall --no-deps mujoco" in line for line in lines)
    assert lines[-1] == "this machine cannot train"


def test_lines_fit_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    ezm.cli.terminal.print_findings(
        [Finding("warning", "rendering", "word " * 50, "apt install " + "package " * 20)], True
    )
    plain = [line.split("\x1b[0m")[0] for line in capsys.readouterr().out.splitlines()]
    assert max(len(line) for line in plain) <= 60 and len(plain) > 5


# -- Python -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "system", "status"),
    [
        ((3, 11, 7), "Linux", "ok"),
        ((3, 12, 0), "Linux", "ok"),
        ((3, 14, 2), "Linux", "ok"),
        ((3, 15, 0), "Linux", "warning"),
        ((3, 11, 7), "Darwin", "warning"),
    ],
)
def test_python(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], system: str, status: str
) -> None:
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(version_info=version))
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    assert only(doctor.python()).status == status


# -- JAX, MuJoCo, OpenGL -----------------------------------------------------------------------

CPU = HEALTHY.jax
GPU = Answer({**CPU.found, "platform": "gpu", "devices": ["NVIDIA H100"] * 2}, "")


@pytest.mark.parametrize(
    ("answer", "gpus", "environment", "plugin", "status", "part"),
    [
        (CPU, [], {}, False, "ok", "on 1 x cpu"),
        (GPU, ["NVIDIA H100"] * 2, {}, True, "ok", "on 2 x NVIDIA H100"),
        (CPU, ["NVIDIA H100"], {}, False, "warning", "pip install 'ezm-rl[gpu]'"),
        (CPU, ["NVIDIA H100"], {"JAX_PLATFORMS": "cpu"}, True, "warning", "unset JAX_PLATFORMS"),
        (CPU, ["NVIDIA H100"], {"CUDA_VISIBLE_DEVICES": ""}, True, "warning", "unset CUDA_VISIBLE"),
        (
            CPU._replace(said="CUDA driver version is insufficient"),
            ["NVIDIA H100"],
            {},
            True,
            "warning",
            "JAX says: CUDA driver version is insufficient",
        ),
        (Answer(None, "no libjax"), [], {}, False, "problem", "no libjax"),
        (Answer(None, ""), [], {}, False, "problem", "--force-reinstall jax jaxlib"),
    ],
)
def test_jax(
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    gpus: list[str],
    environment: dict[str, str],
    plugin: bool,
    status: str,
    part: str,
) -> None:
    monkeypatch.setattr(doctor, "cuda_plugin", lambda: plugin)
    found = only(doctor.jax(answer, gpus, environment))
    assert found.status == status and part in found.said + found.fix


def test_gpus_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA H100\necho NVIDIA A100\n")
    program.chmod(0o755)
    assert doctor.gpus() == ["NVIDIA H100", "NVIDIA A100"]
    program.write_text("#!/bin/sh\necho failed to talk to the driver\nexit 9\n")
    assert doctor.gpus() == []


def test_no_gl_library_is_a_warning_that_says_what_to_install() -> None:
    blind = HEALTHY._replace(egl=Answer(None, "no libEGL"))
    drawing, display = doctor.rendering(blind, {})
    assert drawing.status == "warning" and display.status == "note"
    assert "EGL: no libEGL; OSMesa: no library" in drawing.said
    assert "apt install libegl1" in drawing.fix
    assert can_train([drawing, display])


@pytest.mark.parametrize(
    ("chosen", "statuses"),
    [
        ("", ["ok", "note"]),
        ("egl", ["ok", "note"]),
        ("disabled", ["ok", "note"]),
        ("osmesa", ["warning", "ok", "note"]),
    ],
)
def test_the_chosen_backend(chosen: str, statuses: list[str]) -> None:
    found = list(doctor.rendering(HEALTHY, {"MUJOCO_GL": chosen}))
    assert [each.status for each in found] == statuses
    if chosen == "osmesa":
        assert (found[0].said, found[0].fix) == (
            "MUJOCO_GL=osmesa does not draw: no library",
            "unset MUJOCO_GL",
        )


# -- probes ------------------------------------------------------------------------------------


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that replaces Python by a shell script."""

    def replace(script: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return replace


def test_a_probe_that_is_killed(interpreter: Callable[[str], None]) -> None:
    interpreter("echo 'a broken library' >&2; kill -SEGV $$")
    assert probe("draw") == Answer(None, "killed by signal 11: a broken library")


def test_a_probe_that_hangs(
    interpreter: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter("exec sleep 60")
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    assert probe("jax") == Answer(None, "no answer within 0 s")


def test_a_probe_that_says_what_it_found(interpreter: Callable[[str], None]) -> None:
    interpreter("""echo noise; echo "{\\"a\\": \\"$WHICH\\"}"; echo careful >&2""")
    assert probe("jax", WHICH="b") == Answer({"a": "b"}, "careful")
    interpreter("echo '{}'; exit 3")
    assert probe("jax").found is None


def test_a_probe_whose_module_is_missing() -> None:
    found, said = probe("draw", MUJOCO_GL="egl", PYTHONPATH="/nothing", PYTHONNOUSERSITE="1")
    assert found is not None or said, "either it draws here, or it says why not"
    assert probe("none") == Answer(None, "KeyError: 'none'")


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_PLATFORMS", "tpu"),
        ("JAX_PLATFORMS", "foo"),
        ("JAX_PLATFORM_NAME", "foo"),
        ("JAX_ENABLE_X64", "perhaps"),
        ("JAX_NUM_CPU_DEVICES", "0"),
        ("JAX_NO_EXECUTION", "1"),
        ("JAX_ARRAY_GARBAGE_COLLECTION_GUARD", "fatal"),
        ("JAX_DEBUG_NANS", "1"),
        ("JAX_DISABLE_JIT", "1"),
        ("JAX_TRANSFER_GUARD", "disallow"),
        ("JAX_ERROR_CHECKING_BEHAVIOR_OOB", "raise"),
        ("JAX_TRACEBACK_FILTERING", "foo"),
        ("XLA_FLAGS", "--xla_cpu_use_thunk_runtime=perhaps"),
    ],
)
def test_a_setting_that_breaks_a_training(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 300.0)
    monkeypatch.delenv("XLA_FLAGS")  # the tests' own
    environment = {name: value}
    answer = probe("jax", **environment)
    found = [*doctor.jax(answer, [], environment), *doctor.settings(answer, environment)]
    (problem,) = (each for each in found if each.status != "ok")
    assert problem.status == "problem" and problem.said.startswith(f"{name}={value}: ")
    assert problem.fix.endswith(f"unset {name}")


def test_settings_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 300.0)
    environment = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    answer = probe("jax", **environment)
    assert only(doctor.jax(answer, [], environment)).status == "ok"
    found = [*doctor.settings(answer, environment)]
    assert [each.status for each in found] == ["note", "note"]
    assert found[0].said == "JAX_ENABLE_X64=1 has no effect: ezm computes in float32"
    assert [each.fix for each in found] == [f"unset {name}" for name in environment]


def test_a_broken_jax_is_not_blamed_on_settings_that_are_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a setting of the user's there is nothing to unset."""
    import jax

    def broken(function: object) -> None:
        raise RuntimeError("no such symbol; set JAX_PLATFORMS=cpu")

    monkeypatch.setattr(jax, "jit", broken)
    monkeypatch.setattr(os, "environ", {"MUJOCO_GL": "egl", "JAX_PLATFORMS": "cpu"})
    with pytest.raises(RuntimeError, match="no such symbol"):
        prepare_jax("cpu")
    monkeypatch.setattr(os, "environ", {"JAX_LOG_COMPILES": "1"})
    with pytest.raises(UserError, match="JAX_LOG_COMPILES=1: JAX fails: no such symbol"):
        prepare_jax("cpu")


# -- packages ----------------------------------------------------------------------------------


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [*doctor.packages()], "all are here"
    version = doctor.importlib.metadata.version

    def without_optax(name: str) -> str:
        return version("no-such-package" if name == "optax" else name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", without_optax)
    found = only(doctor.packages())
    assert found.said == "optax is missing, which ezm requires" and not can_train([found])
    assert found.fix == "pip install 'optax>=0.2.4'"


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers: programs are not kept, and all else works."""
    for name in ("EZM_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    found = only(doctor.settings(HEALTHY.jax, {}))
    assert found.status == "warning" and can_train([found])
    assert (
        found.said
        == "HOME is not set, and the system knows no home of this user: every run compiles anew"
    )
    assert "EZM_CACHE" in found.fix
    assert not [*doctor.settings(HEALTHY.jax, {"JAX_COMPILATION_CACHE_DIR": "/tmp"})]
    monkeypatch.setattr(os, "environ", variables := {"MUJOCO_GL": "egl"})
    prepare_jax("cpu")
    assert variables["JAX_PLATFORMS"] == "cpu" and "JAX_COMPILATION_CACHE_DIR" not in variables
