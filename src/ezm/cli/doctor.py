"""Checks of ``ezm doctor``: can this machine train, evaluate and draw, and how to fix what fails.

A broken driver or library can end or hang a process, so each probe runs in a process of its own. The command
``python -m ezm.cli.doctor PROBE`` prints the probe's result as its last line, one JSON object.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import ezm
from ezm.platform import BrokenSetting, cache_folder, check_settings, cuda_plugin
from ezm.tasks import sources
from ezm.tasks.parallel import cores

PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
_INSTALL_GPU = "'ezm-rl[gpu]'"
_INSTALL_GL = "apt install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"
_REINSTALL = "in ezm's clone: pip install -c constraints.txt --force-reinstall"
PATIENCE = 30.0
"""Seconds after which a probe counts as hanging. On an idle machine each takes one or two."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: Literal["ok", "note", "warning", "problem"]
    """note: something optional is missing or has no effect. warning: something works less well. problem: ezm cannot train."""
    subject: str
    said: str
    fix: str = ""
    """Advice on how to fix it, "" where nothing is wrong."""


class Answer(NamedTuple):
    """The result of a probe."""

    found: dict[str, Any] | None
    """The probe's JSON object, None where it failed."""
    said: str
    """The last line on its standard error, or how it ended."""


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
    # Without the filter, the last line is the error.
    filtering = os.environ.get("JAX_TRACEBACK_FILTERING", "off")
    with ThreadPoolExecutor(max(2, cores())) as pool:
        # MUJOCO_GL is the probes' own, whatever the user has set. Only the JAX probe keeps the user's.
        running = [
            pool.submit(probe, "jax", JAX_TRACEBACK_FILTERING=filtering),
            pool.submit(probe, "mujoco", MUJOCO_GL="disabled"),
            pool.submit(probe, "draw", MUJOCO_GL="egl", PYOPENGL_PLATFORM="egl"),
            pool.submit(probe, "draw", MUJOCO_GL="osmesa", PYOPENGL_PLATFORM="osmesa"),
            pool.submit(probe, "draw", MUJOCO_GL="glfw", PYOPENGL_PLATFORM=""),
        ]
        return Probes(*(each.result() for each in running))


def python() -> Iterator[Finding]:
    """Checks the interpreter and the operating system."""
    version = sys.version_info[:2]
    system = f"{platform.system()} {platform.machine()}"
    said = f"Python {platform.python_version()}, ezm {ezm.__version__}, {system}"
    tested = ", ".join(".".join(map(str, each)) for each in PYTHONS)
    if platform.system() == "Windows":
        said = f"{said}: a run's folder needs a lock that Windows does not have"
        yield Finding("problem", "python", said, "use WSL 2")
    elif version not in PYTHONS:
        said = f"{said}: tested with {tested}"
        yield Finding("warning", "python", said, "use one of the tested versions")
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
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


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
        fix = f"update the NVIDIA driver, or pip install --force-reinstall {_INSTALL_GPU}"
        fix += f"; JAX says: {answer.said}" if answer.said else ""
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
    if answer.found is not None:
        yield Finding("ok", "mujoco", f"MuJoCo {answer.found['version']} simulates")
        return
    names = "mujoco" if sources.DM_CONTROL.lack() else "mujoco dm_control"
    fix = f"{_REINSTALL} --no-deps {names}"
    yield Finding("problem", "mujoco", f"MuJoCo does not simulate: {answer.said}", fix)


def rendering(probes: Probes, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks which libraries draw without a screen, and whether a window can be opened."""
    answers = probes._asdict()
    names = {"egl": "EGL", "osmesa": "OSMesa"}
    drawing = [name for key, name in names.items() if answers[key].found is not None]
    chosen = environment.get("MUJOCO_GL", "").lower()
    if chosen in (*names, "glfw") and answers[chosen].found is None:
        said = f"MUJOCO_GL={chosen} does not draw: {answers[chosen].said}"
        fix = "unset MUJOCO_GL" if drawing else f"unset MUJOCO_GL; {_INSTALL_GL}"
        yield Finding("warning", "rendering", said, fix)
    if drawing:
        yield Finding("ok", "rendering", f"without a screen: {' and '.join(drawing)}")
    else:
        said = "; ".join(f"{name}: {answers[key].said}" for key, name in names.items())
        said = f"no pictures and no films ({said}); training needs none"
        yield Finding("warning", "rendering", said, _INSTALL_GL)
    if probes.glfw.found is not None:
        yield Finding("ok", "display", "windows can be opened")
    else:
        said = "no window can be opened; films and training need none"
        yield Finding("note", "display", said, "for windows: work at a screen, or ssh -X")


# -- probes ------------------------------------------------------------------------------------


def probe(name: str, **environment: str) -> Answer:
    """Runs a probe in a process of its own, with some environment variables changed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ezm.cli.doctor", name],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"no answer within {PATIENCE:.0f} s")
    except OSError as error:
        return Answer(None, str(error))
    said = ["", *filter(None, map(str.strip, done.stderr.splitlines()))][-1]
    if done.returncode < 0:
        return Answer(None, f"killed by signal {-done.returncode}" + (f": {said}" if said else ""))
    if done.returncode == 0:
        with contextlib.suppress(ValueError, IndexError):
            return Answer(json.loads(done.stdout.splitlines()[-1]), said)
    return Answer(None, said or f"exit code {done.returncode}")


def _jax() -> dict[str, Any]:
    """Prepares JAX as a training does, and computes with it. A setting that breaks either is the answer."""
    try:
        without_effect = check_settings()
    except BrokenSetting as error:
        return {"broken": [error.said, error.fix]}
    import jax
    import jax.numpy as jnp

    total = float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((8, 8))))
    if total != 8**3:
        raise ArithmeticError(f"the sum of a product is {total}, not {8**3}")
    devices = jax.devices()
    return {
        "version": jax.__version__,
        "platform": devices[0].platform,
        "devices": [each.device_kind for each in devices],
        "without_effect": without_effect,
    }


def _mujoco() -> dict[str, Any]:
    import mujoco
    import numpy as np

    model, data = _scene()
    mujoco.mj_step(model, data, 10)
    if not np.isfinite(data.qpos).all() or data.qpos[2] >= 1:
        raise ArithmeticError(f"a ball does not fall: {data.qpos[:3]}")
    if sources.DM_CONTROL.lack() is None:
        sources.build("dmc:cartpole-balance", seed=0).reset()
    return {"version": mujoco.__version__}


def _draw() -> dict[str, Any]:
    """Draws a picture with the backend that the environment variable MUJOCO_GL names."""
    import mujoco

    model, data = _scene()
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 64, 64) as renderer:
        renderer.update_scene(data)
        picture = renderer.render()
    if picture.max() == picture.min():
        raise RuntimeError("it draws an empty picture")
    return {}


def _scene() -> tuple[Any, Any]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 3'/><geom type='plane' size='2 2 .1'/>"
        "<body pos='0 0 1'><freejoint/><geom size='.2'/></body></worldbody></mujoco>"
    )
    return model, mujoco.MjData(model)


PROBES: dict[str, Callable[[], Any]] = {"jax": _jax, "mujoco": _mujoco, "draw": _draw}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))
