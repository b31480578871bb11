"""Checks of ``ezm doctor``: can this machine train, evaluate and draw, and how to fix what fails.

A probe that could end or hang the process runs in a process of its own (:mod:`ezm.cli.probes`).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import ezm
from ezm.cli.probes import Answer, probe
from ezm.platform import cache_folder, cuda_plugin
from ezm.tasks import sources

PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
_INSTALL_GPU = "'ezm-rl[gpu]'"
_INSTALL_GL = "apt install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"
_REINSTALL = "in ezm's clone: pip install -c constraints.txt --force-reinstall"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: Literal["ok", "note", "warning", "problem"]
    """note: something optional is missing or has no effect. warning: something works less well. problem: ezm cannot train."""
    subject: str
    said: str
    fix: str = ""
    """Advice on how to fix it, "" where nothing is wrong."""


class Probes(NamedTuple):
    """Answers of the probes, each from a process of its own."""

    jax: Answer
    mujoco: Answer
    egl: Answer
    osmesa: Answer
    glfw: Answer


def examine() -> list[Finding]:
    """Returns all findings, within a few seconds."""
    probes = run_probes()
    return [
        *python(),
        *packages(),
        *jax(probes.jax, gpus()),
        *settings(probes.jax),
        *mujoco(probes.mujoco),
        *rendering(probes),
    ]


def can_train(findings: list[Finding]) -> bool:
    """Returns whether no finding prevents ``ezm train``."""
    return all(finding.status != "problem" for finding in findings)


def run_probes() -> Probes:
    """Runs all probes, as many at once as there are cores, but at least two."""
    # MUJOCO_GL is the probes' own, whatever the user has set. Only the JAX probe keeps the user's.
    wanted = {
        # Without the filter, the last line is the error.
        "jax": (
            "jax",
            {"JAX_TRACEBACK_FILTERING": os.environ.get("JAX_TRACEBACK_FILTERING", "off")},
        ),
        "mujoco": ("mujoco", {"MUJOCO_GL": "disabled"}),
        **{
            name: ("draw", {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": "" if name == "glfw" else name})
            for name in ("egl", "osmesa", "glfw")
        },
    }
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        answers = {
            key: pool.submit(probe, name, **environment)
            for key, (name, environment) in wanted.items()
        }
        return Probes(**{key: answer.result() for key, answer in answers.items()})


def python() -> Iterator[Finding]:
    """Checks the interpreter and the operating system."""
    version = sys.version_info[:2]
    system = f"{platform.system()} {platform.machine()}"
    said = f"Python {platform.python_version()}, ezm {ezm.__version__}, {system}"
    tested = ", ".join(".".join(map(str, each)) for each in PYTHONS)
    if version not in PYTHONS:
        yield Finding(
            "warning", "python", f"{said}: tested with {tested}", "use one of the tested versions"
        )
    elif platform.system() != "Linux":
        yield Finding("warning", "python", f"{said}: tested on Linux", "use Linux, or WSL 2")
    else:
        yield Finding("ok", "python", said)


def packages() -> Iterator[Finding]:
    """Checks that every package that ezm requires is installed. :func:`mujoco` checks dm_control."""
    for requirement in importlib.metadata.requires("ezm-rl") or ():
        requirement, _, condition = requirement.partition(";")
        if condition:  # an extra, or dm_control
            continue
        name = re.split(r"[^\w.-]", requirement.strip())[0]
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            fix = f"pip install '{requirement.strip()}'"
            yield Finding("problem", "packages", f"{name} is missing, which ezm requires", fix)


def gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs that the driver sees."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []


def jax(
    answer: Answer, gpus: list[str], environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Checks that JAX computes, and that it uses the GPU if there is one. :func:`settings` names a broken setting.

    Args:
        answer: from the JAX probe.
        gpus: names of the GPUs that the driver sees.
        environment: environment variables.
    """
    if answer.found is None:
        said, fix = f"JAX does not compute: {answer.said}", f"{_REINSTALL} jax jaxlib"
        yield Finding("problem", "jax", said, fix)
        return
    if "broken" in answer.found:
        return
    platforms = environment.get("JAX_PLATFORMS", "")
    devices = answer.found["devices"]
    said = ", ".join(f"{devices.count(each)} x {each}" for each in dict.fromkeys(devices))
    said = f"JAX {answer.found['version']} on {said}"
    if answer.found["platform"] != "cpu" or not gpus:
        yield Finding("ok", "jax", said)
        return
    if platforms:
        fix = f"unset JAX_PLATFORMS (it is {platforms})"
    elif environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        fix = "unset CUDA_VISIBLE_DEVICES, which hides it"
    elif not cuda_plugin():
        fix = f"pip install {_INSTALL_GPU}"
    else:
        fix = f"update the NVIDIA driver, or pip install --force-reinstall {_INSTALL_GPU}" + (
            f"; JAX says: {answer.said}" if answer.said else ""
        )
    yield Finding("warning", "jax", f"{said}, and does not use the {gpus[0]} that is here", fix)


def settings(answer: Answer, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks the environment for settings that break a training, slow it down or have no effect."""
    found = answer.found or {}
    if "broken" in found:
        yield Finding("problem", "settings", *found["broken"])
    for said in found.get("without_effect", ()):
        yield Finding("note", "settings", said, f"unset {said.partition('=')[0]}")
    if cache_folder() is None and not environment.get("JAX_COMPILATION_CACHE_DIR"):
        said = "HOME is not set, and the system knows no home of this user: every run compiles anew"
        fix = "set HOME, or EZM_CACHE to a folder that can be written to"
        yield Finding("warning", "settings", said, fix)


def mujoco(answer: Answer) -> Iterator[Finding]:
    """Checks that MuJoCo and, if it is installed, dm_control simulate."""
    if answer.found is None:
        names = "mujoco" if sources.lacks_dm_control() else "mujoco dm_control"
        yield Finding(
            "problem",
            "mujoco",
            f"MuJoCo does not simulate: {answer.said}",
            f"{_REINSTALL} --no-deps {names}",
        )
    else:
        yield Finding("ok", "mujoco", f"MuJoCo {answer.found['version']} simulates")


def rendering(probes: Probes, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks which libraries draw without a screen, and whether a window can be opened."""
    answers = {"egl": probes.egl, "osmesa": probes.osmesa, "glfw": probes.glfw}
    names = {"egl": "EGL", "osmesa": "OSMesa"}
    drawing = [name for name in names if answers[name].found is not None]
    chosen = environment.get("MUJOCO_GL", "").lower()
    if chosen in answers and answers[chosen].found is None:
        yield Finding(
            "warning",
            "rendering",
            f"MUJOCO_GL={chosen} does not draw: {answers[chosen].said}",
            "unset MUJOCO_GL" if drawing else f"unset MUJOCO_GL; {_INSTALL_GL}",
        )
    if drawing:
        said = " and ".join(names[name] for name in drawing)
        yield Finding("ok", "rendering", f"without a screen: {said}")
    else:
        said = "; ".join(f"{names[name]}: {answers[name].said}" for name in names)
        yield Finding(
            "warning",
            "rendering",
            f"no pictures and no films ({said}); training needs none",
            _INSTALL_GL,
        )
    if answers["glfw"].found is not None:
        yield Finding("ok", "display", "windows can be opened")
    else:
        yield Finding(
            "note",
            "display",
            "no window can be opened; films and training need none",
            "for windows: work at a screen, or ssh -X",
        )
