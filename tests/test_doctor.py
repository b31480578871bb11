"""`ezm doctor`: every fault is named, with its fix, and none is a traceback."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ezm.cli
from ezm import doctor, probes
from ezm.doctor import EXTRAS, TESTED, Finding, Probes, can_train
from ezm.platform import prepare_jax
from ezm.probes import Answer, probe
from ezm.training import memory

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Extras of those who work on ezm.
DEVELOPERS = {"dev", "benchmarks", "docs"}

GIB = 2**30
SMALL = {"memory": [GIB // 4, GIB, 2**20, 0], "rows": 3_000, "tasks": 4}
LARGE = {"memory": [GIB // 4, GIB, 12 * GIB, 0], "rows": 850_000, "tasks": 14}
HEALTHY = Probes(
    jax=Answer({"platform": "cpu", "devices": ["cpu"]}, ""),
    mujoco=Answer({"version": "3.17.0"}, ""),
    memory=Answer({"cpu cartpole": SMALL, "paper h1hand": LARGE}, ""),
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
    monkeypatch.setattr(probes, "PATIENCE", 300.0)  # the machine may be busy with other tests
    assert ezm.cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["can_train"] is True
    by_subject = {each["subject"]: each for each in found["findings"]}
    assert {"python", "packages", "jax", "mujoco", "rendering", "cores", "memory"} < set(by_subject)
    assert by_subject["jax"]["said"].startswith("JAX ")
    assert "cpu cartpole" in by_subject["memory"]["said"]
    assert not any("failed" in each["said"] for each in found["findings"])


def test_a_machine_that_cannot_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = HEALTHY._replace(mujoco=Answer(None, "ImportError: libmujoco.so: cannot open"))
    monkeypatch.setattr(doctor, "run_probes", lambda: broken)
    assert ezm.cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("problem") and "libmujoco.so: cannot open" in line for line in lines)
    assert any("fix: pip install --force-reinstall --no-deps mujoco==" in line for line in lines)
    assert lines[-1] == "this machine cannot train"


def test_lines_fit_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    ezm.terminal.print_findings(
        [Finding("warning", "rendering", "word " * 50, "apt install " + "package " * 20)], True
    )
    plain = [line.split("\x1b[0m")[0] for line in capsys.readouterr().out.splitlines()]
    assert max(len(line) for line in plain) <= 60 and len(plain) > 5


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[Finding]:
        raise ModuleNotFoundError("No module named 'packaging'")

    monkeypatch.setattr(doctor, "run_probes", lambda: HEALTHY)
    monkeypatch.setattr(doctor, "packages", broken)
    found = {each.subject: each for each in doctor.examine()}
    assert found["packages"].status == "warning"
    assert "No module named 'packaging'" in found["packages"].said
    assert found["packages"].fix == "pip install --force-reinstall ezm-rl"


# -- Python and packages -----------------------------------------------------------------------


def test_the_tested_versions_are_the_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    names = [*(Requirement(line).name for line in PROJECT["dependencies"]), "jaxlib"]
    expected = [f"{name}=={pins[canonicalize_name(name)]}" for name in sorted(names, key=str.lower)]
    assert TESTED.read_text().split() == expected


def test_every_optional_package_is_looked_at() -> None:
    assert set(PROJECT["optional-dependencies"]) - DEVELOPERS == {*EXTRAS, "gpu"}
    for extra, (package, _) in EXTRAS.items():
        names = [Requirement(line).name for line in PROJECT["optional-dependencies"][extra]]
        assert package in names


def installed(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """All requirements in their tested versions, but those named."""
    versions: dict[str, str | None] = {**doctor.tested_versions(), "wandb": "0.31.0", **changed}

    def version(name: str) -> str:
        if (found := versions.get(name)) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: PROJECT["dependencies"])


def test_packages_as_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    assert only(doctor.packages()).status == "ok"
    installed(monkeypatch, numpy="2.0.1", scipy="1.17.99")
    assert only(doctor.packages()).status == "ok", "within the range, and not newer than tested"


@pytest.mark.parametrize(
    ("changed", "said", "fix"),
    [
        ({"optax": None}, "optax is not installed", "pip install 'optax>=0.2.4'"),
        ({"jax": "0.4.30"}, "jax 0.4.30 is out of the range >=0.5", "pip install 'jax>=0.5'"),
        (
            {"mujoco": "4.0.0"},
            "mujoco 4.0.0 is out of the range <4,>=3.3",
            "pip install 'mujoco<4,>=3.3'",
        ),
    ],
)
def test_a_package_that_will_not_do(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], said: str, fix: str
) -> None:
    installed(monkeypatch, **changed)
    found = [each for each in doctor.packages() if each.status != "ok"]
    assert [(each.status, each.said, each.fix) for each in found] == [("problem", said, fix)]


def test_a_package_newer_than_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, numpy="3.0.0")
    tested = doctor.tested_versions()["numpy"]
    found = only(doctor.packages())
    assert (found.status, found.said) == ("warning", f"newer than tested: numpy 3.0.0 ({tested})")
    assert found.fix.endswith(f"pip install numpy=={tested}")


def test_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    found = only(doctor.packages())
    assert found.status == "warning" and "pip install -e ." in found.fix


def test_an_optional_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, wandb=None)
    found = {each.subject: each for each in doctor.optional()}
    assert found["wandb"].status == "note"
    assert found["wandb"].fix == "pip install 'ezm-rl[wandb]'"


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
GPU = Answer({"platform": "gpu", "devices": ["NVIDIA H100", "NVIDIA H100"]}, "")


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
        (Answer(None, ""), [], {}, False, "problem", "pip install --force-reinstall jax=="),
        (Answer(None, ""), [], {"JAX_PLATFORMS": "rocm"}, False, "problem", "unset JAX_PLATFORMS"),
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
    """What runs in place of Python."""

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
    monkeypatch.setattr(probes, "PATIENCE", 0.2)
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


# -- memory, cores, disk -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "statuses", "part"),
    [
        (24 * GIB, ["ok"], "cpu cartpole (1.3 GiB), paper h1hand (13.2 GiB)"),
        (4 * GIB, ["warning", "ok"], "--replay.capacity 212000 would do"),
        (GIB // 2, ["problem", "problem"], "preset and suite cpu cartpole: the run needs 1.0 GiB"),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int, statuses: list[str], part: str) -> None:
    monkeypatch.setattr(memory, "available", lambda: free)
    found = list(doctor.fitting(HEALTHY.memory))
    assert [each.status for each in found] == statuses
    assert any(part in each.said + each.fix for each in found)


def test_memory_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: None)
    assert [each.status for each in doctor.fitting(HEALTHY.memory)] == ["note"]
    assert [each.status for each in doctor.fitting(Answer(None, "no jax"))] == ["note"]


def test_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0})
    assert only(doctor.cores()).status == "warning"
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 1})
    assert only(doctor.cores()) == Finding("ok", "cores", "2 cores")


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor.disk(tmp_path / "runs")).status == "ok"
    (tmp_path / "file").write_text("")
    found = only(doctor.disk(tmp_path / "file" / "runs"))
    assert found.status == "warning" and "cannot be written to (Not a directory)" in found.said
    assert "--out" in found.fix
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * 2**20))
    assert only(doctor.disk(tmp_path)).said.startswith("100 MiB free in")


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    assert only(doctor.cache(where)).said == f"0 MiB of compiled programs in {tmp_path}/cache"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "program").write_bytes(bytes(2**20))
    assert only(doctor.cache(where)).said.startswith("1 MiB of")
    monkeypatch.setattr(doctor, "_LARGE_CACHE", 2**19)
    assert only(doctor.cache(where)).status == "note"
    monkeypatch.setenv("EZM_CACHE", str(tmp_path / "cache" / "program"))
    found = only(doctor.cache({}))
    assert found.status == "warning" and "EZM_CACHE" in found.fix
    assert not list(tmp_path.rglob(".ezm-doctor-*")), "nothing is left behind"


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers: programs are not kept, and all else works."""
    for name in ("EZM_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    found = only(doctor.cache({}))
    assert found.status == "warning" and can_train([found])
    assert found.said == "this user has no home folder: every run compiles anew"
    monkeypatch.setattr(os, "environ", variables := {"MUJOCO_GL": "egl"})
    prepare_jax("cpu")
    assert variables["JAX_PLATFORMS"] == "cpu" and "JAX_COMPILATION_CACHE_DIR" not in variables
