"""Checks of ``ezm doctor``: can this machine train, evaluate and draw, and how to fix what fails.

Each check yields findings and raises nothing. A probe that could end or hang the process runs in a process of its own
(:mod:`ezm.probes`).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import ezm
from ezm.errors import UserError
from ezm.platform import cache_folder, cuda_plugin
from ezm.probes import Answer, probe
from ezm.tasks import sources
from ezm.training import memory
from ezm.training.memory import Memory, size

DISTRIBUTION = "ezm-rl"
TESTED = Path(__file__).with_name("tested.txt")
"""Versions of ezm's direct dependencies that the tests pass with: a part of the repository's constraints.txt."""

PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
EXTRAS = {
    "wandb": ("wandb", "ezm train --wandb"),
    "tensorboard": ("tensorboard", "tensorboard --logdir runs"),
}
"""Package and purpose of each extra. :func:`jax` covers the extra `gpu`."""

_INSTALL_GL = "apt install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"
_LITTLE_DISK = 2**30
_LARGE_CACHE = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: Literal["ok", "note", "warning", "problem"]
    """note: something optional is missing. warning: something works less well. problem: ezm cannot train."""
    subject: str
    said: str
    fix: str = ""
    """Advice on how to fix it, "" where nothing is wrong."""


class Probes(NamedTuple):
    """Answers of the probes, each from a process of its own."""

    jax: Answer
    mujoco: Answer
    memory: Answer
    egl: Answer
    osmesa: Answer
    glfw: Answer


def examine() -> list[Finding]:
    """Returns all findings, within a few seconds."""
    probes = run_probes()
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", python),
        ("packages", packages),
        ("jax", lambda: jax(probes.jax, gpus())),
        ("mujoco", lambda: mujoco(probes.mujoco)),
        ("rendering", lambda: rendering(probes)),
        ("cores", cores),
        ("memory", lambda: fitting(probes.memory)),
        ("disk", disk),
        ("cache", cache),
        ("optional", optional),
    ]
    found: list[Finding] = []
    for subject, check in checks:
        try:
            found += check()
        except Exception as error:  # noqa: BLE001 - the examination goes on whatever is broken here
            found.append(_unexamined(subject, error))
    return found


def can_train(findings: list[Finding]) -> bool:
    """Returns whether no finding prevents ``ezm train``."""
    return all(finding.status != "problem" for finding in findings)


def run_probes() -> Probes:
    """Runs all probes, as many at once as there are cores, but at least two."""
    # The probes' MUJOCO_GL comes first, whatever the user has set. Only the JAX probe keeps the user's
    # JAX_PLATFORMS and MUJOCO_GL.
    without_gl, on_cpu = {"MUJOCO_GL": "disabled"}, {"JAX_PLATFORMS": "cpu"}
    wanted = {
        "jax": ("jax", {"JAX_TRACEBACK_FILTERING": "off"}),  # makes the last line the error
        "mujoco": ("mujoco", without_gl),
        "memory": ("memory", {**without_gl, **on_cpu}),
        **{
            name: ("draw", {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": "" if name == "glfw" else name})
            for name in ("egl", "osmesa", "glfw")
        },
    }
    with ThreadPoolExecutor(max(2, _cores())) as pool:
        answers = {
            key: pool.submit(probe, name, **environment)
            for key, (name, environment) in wanted.items()
        }
        return Probes(**{key: answer.result() for key, answer in answers.items()})


# -- Python and packages ---------------------------------------------------------------------------


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
    """Checks that ezm's requirements are installed, and whether their versions are newer than the tested ones."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "warning",
            "packages",
            f"{DISTRIBUTION} is not installed, only its source is here: what it requires is not known",
            "pip install -e . in the repository's folder",
        )
        return
    # A wheel's metadata says dm-control, other lists say dm_control.
    tested = {canonicalize_name(name): version for name, version in tested_versions().items()}
    newer, count = [], 0
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
        key = canonicalize_name(name)
        if key == "dm-control" and sources.lacks_dm_control():
            continue  # optional() reports it as a note, not as a problem
        count += 1
        version = _installed(name)
        if version is None:
            yield Finding(
                "problem", "packages", f"{name} is not installed", f"pip install '{wanted}'"
            )
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding(
                "problem",
                "packages",
                f"{name} {version} is out of the range {requirement.specifier}",
                f"pip install '{wanted}'",
            )
        elif key in tested and Version(version).release[:2] > Version(tested[key]).release[:2]:
            newer.append((name, version, tested[key]))
    if newer:
        yield Finding(
            "warning",
            "packages",
            "newer than tested: "
            + ", ".join(f"{name} {version} ({last})" for name, version, last in newer),
            "if something fails: pip install "
            + " ".join(f"{name}=={last}" for name, _, last in newer),
        )
    else:
        yield Finding("ok", "packages", f"{count} required packages, none newer than tested")


def optional() -> Iterator[Finding]:
    """Checks the optional packages."""
    for extra, (package, purpose) in EXTRAS.items():
        version = _installed(package)
        if version is None:
            yield Finding(
                "note",
                extra,
                f"not installed; for: {purpose}",
                f"pip install '{DISTRIBUTION}[{extra}]'",
            )
        else:
            yield Finding("ok", extra, f"{version}, for: {purpose}")
    purpose = "suites cartpole, walker, mixed and tasks dmc:..."
    if lack := sources.lacks_dm_control():
        yield Finding("note", "dm_control", f"{lack}; for: {purpose}", sources.INSTALL_DM_CONTROL)
    else:
        yield Finding("ok", "dm_control", f"{_installed('dm_control')}, for: {purpose}")


def tested_versions() -> dict[str, str]:
    """Reads the version of each distribution from :data:`TESTED`."""
    lines = TESTED.read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# -- JAX, MuJoCo, OpenGL ---------------------------------------------------------------------------


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
    """Checks that JAX computes, and that it uses the GPU if there is one.

    Args:
        answer: from the JAX probe.
        gpus: names of the GPUs that the driver sees.
        environment: environment variables.
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if answer.found is None:
        fix = "pip install --force-reinstall " + " ".join(
            f"{name}=={version}"
            for name, version in tested_versions().items()
            if name in ("jax", "jaxlib")
        )
        if platforms:
            fix = f"unset JAX_PLATFORMS (it is {platforms}); or {fix}"
        yield Finding("problem", "jax", f"JAX does not compute: {answer.said}", fix)
        return
    devices = answer.found["devices"]
    said = ", ".join(f"{devices.count(each)} x {each}" for each in dict.fromkeys(devices))
    said = f"JAX {_installed('jax')} on {said}"
    if answer.found["platform"] != "cpu" or not gpus:
        yield Finding("ok", "jax", said)
        return
    if platforms:
        fix = f"unset JAX_PLATFORMS (it is {platforms})"
    elif environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        fix = "unset CUDA_VISIBLE_DEVICES, which hides it"
    elif not cuda_plugin():
        fix = f"pip install '{DISTRIBUTION}[gpu]'"
    else:
        fix = (
            f"update the NVIDIA driver, or pip install --force-reinstall '{DISTRIBUTION}[gpu]'"
            + (f"; JAX says: {answer.said}" if answer.said else "")
        )
    yield Finding("warning", "jax", f"{said}, and does not use the {gpus[0]} that is here", fix)


def mujoco(answer: Answer) -> Iterator[Finding]:
    """Checks that MuJoCo and, if it is installed, dm_control simulate."""
    if answer.found is None:
        names = ("mujoco",) if sources.lacks_dm_control() else ("mujoco", "dm_control")
        pins = " ".join(f"{name}=={tested_versions()[name]}" for name in names)
        yield Finding(
            "problem",
            "mujoco",
            f"MuJoCo does not simulate: {answer.said}",
            f"pip install --force-reinstall --no-deps {pins}",
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


# -- memory, cores, disk ---------------------------------------------------------------------------


def cores() -> Iterator[Finding]:
    """Checks the number of processor cores that this process may use."""
    count = _cores()
    if count == 1:
        yield Finding(
            "warning",
            "cores",
            "1 core: targets and updates cannot overlap",
            "give the process two or more",
        )
    else:
        yield Finding("ok", "cores", f"{count} cores")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fitting(answer: Answer) -> Iterator[Finding]:
    """Checks which presets' runs fit into the free memory."""
    free = memory.available()
    if free is None or answer.found is None:
        why = answer.said if answer.found is None else "the system does not say how much is free"
        yield Finding(
            "note",
            "memory",
            f"not worked out: {why}",
            "docs/training-engine.md says what runs take",
        )
        return
    fit: list[str] = []
    for run, found in answer.found.items():
        needs = Memory(*found["memory"])
        try:
            memory.check_that_it_fits(needs, found["rows"], found["tasks"])
        except UserError as error:
            said, _, fix = str(error).rpartition(": ")
            # The smallest run comes first: if it does not fit, no run does.
            status: Literal["problem", "warning"] = "warning" if fit else "problem"
            yield Finding(status, "memory", f"preset and suite {run}: {said}", fix)
        else:
            fit.append(f"{run} ({size(needs.total)})")
    if fit:
        yield Finding("ok", "memory", f"{size(free)} free; presets that fit: {', '.join(fit)}")


def disk(folder: Path = Path("runs")) -> Iterator[Finding]:
    """Checks that the folder of runs can be written, and how much disk space is free."""
    place = _nearest(folder.absolute())
    if (error := _refused(place)) is not None:
        yield Finding(
            "warning",
            "disk",
            f"{place} cannot be written to ({error})",
            "work in another folder, or name one: ezm train --out FOLDER",
        )
        return
    free = shutil.disk_usage(place).free
    if free < _LITTLE_DISK:
        yield Finding(
            "warning",
            "disk",
            f"{size(free)} free in {place}: checkpoints of large runs take more",
            "free some, or ezm train --out FOLDER on another disk",
        )
    else:
        yield Finding("ok", "disk", f"{size(free)} free in {place}")


def cache(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks the folder of compiled programs."""
    own = cache_folder()
    place = environment.get("JAX_COMPILATION_CACHE_DIR") or (own and own / "jax")
    problem = "this user has no home folder"
    if place:
        folder = Path(place).absolute()
        error = _refused(_nearest(folder))
        problem = f"{folder} cannot be written to ({error})" if error else ""
    if problem:
        yield Finding(
            "warning",
            "cache",
            f"{problem}: every run compiles anew",
            "set EZM_CACHE to a folder that can be written to",
        )
        return
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    said = f"{size(taken)} of compiled programs in {folder}"
    if taken > _LARGE_CACHE:
        yield Finding("note", "cache", said, "delete the folder: runs compile once more, then")
    else:
        yield Finding("ok", "cache", said)


def _nearest(path: Path) -> Path:
    """Returns the path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _refused(folder: Path) -> str | None:
    """Returns why no file can be made in a folder, or None where one can."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ezm-doctor-"):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _unexamined(subject: str, error: Exception) -> Finding:
    said = " ".join(str(error).split()) or type(error).__name__
    fix = f"pip install --force-reinstall {DISTRIBUTION}" if isinstance(error, ImportError) else ""
    return Finding("warning", subject, f"the check failed: {said}", fix)
