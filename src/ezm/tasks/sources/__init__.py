"""Sources of tasks: HumanoidBench, dm_control, Gymnasium, or a factory of the user's.

A source is written ``prefix:name``: ``hb:h1-walk``, ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``. Any other text
with a colon is a factory, ``module:function``. The libraries are imported only when a task needs them. The user's
modules may also lie in the current directory. If dm_control is missing, its tasks are refused, and all others work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.util import find_spec

from ezm.errors import UserError
from ezm.tasks.simulator import Simulator

# Set before MuJoCo or dm_control is imported: physics needs no rendering, but without this the import looks
# for a graphics library.
os.environ.setdefault("MUJOCO_GL", "disabled")

HUMANOID_BENCH = "hb"
DM_CONTROL = "dmc"
GYMNASIUM = "gym"
LIBRARIES = (HUMANOID_BENCH, DM_CONTROL, GYMNASIUM)
"""Prefixes that name a library."""

INSTALL_DM_CONTROL = "pip install dm-env lxml && pip install --no-deps dm_control"
"""The command for every Python. dm_control requires labmaze, which has no wheel from 3.13 on. None of its tasks here
uses labmaze."""


def build(source: str, seed: int, *, pictures: bool = False) -> Simulator:
    """Makes a new environment of a source.

    Args:
        source: as above.
        seed: at least 0. It fixes everything random in the environment.
        pictures: whether it will be drawn. Gymnasium chooses its render mode when it makes an environment.

    Raises:
        UserError: the task does not exist, is not installed, or has spaces that ezm cannot use.
    """
    prefix, _, name = source.partition(":")
    if prefix == HUMANOID_BENCH:
        from ezm.tasks.sources.humanoid_bench import HumanoidBenchSimulator

        return HumanoidBenchSimulator(name, seed)
    if prefix == DM_CONTROL:
        require_dm_control(f"task {source}")
        from ezm.tasks.sources.dm_control import DmControlSimulator

        return DmControlSimulator(name, seed)
    with contextlib.suppress(FileNotFoundError):  # the current folder may be gone
        if (
            here := os.getcwd()
        ) not in sys.path:  # an installed command does not look there by itself
            sys.path.insert(0, here)
    if prefix == GYMNASIUM:
        from ezm.tasks.sources.gymnasium import from_id

        return from_id(name, seed, pictures)
    from ezm.tasks.sources.factory import from_factory

    return from_factory(source, seed, pictures)


def lacks_dm_control() -> str | None:
    """Returns why dm_control's tasks cannot be built, or None where they can. Imports nothing."""
    for module in ("dm_control", "dm_env", "lxml"):
        if find_spec(module) is None:
            return f"{module} is not installed"
    return None


def require_dm_control(name: str) -> None:
    """Refuses the task or suite ``name`` where dm_control's tasks cannot be built.

    Raises:
        UserError: a module is not installed.
    """
    if lack := lacks_dm_control():
        raise UserError(f"{name}: {lack}; run: {INSTALL_DM_CONTROL}")


def default_action_repeat(source: str) -> int:
    """Returns the simulator steps for each agent step, for a user who sets no other number."""
    prefix, _, name = source.partition(":")
    if prefix != DM_CONTROL:
        return 1
    return _DM_CONTROL_REPEATS.get(name.partition("-")[0], 2)


# PlaNet's values (Hafner et al. 2019, appendix): one control step then visibly matters. That list lacks
# hopper and point_mass, which follow the domains they resemble. Walker and finger have 4 instead of 2, which
# takes fewer agent steps to learn (docs/lab-notes.md).
_DM_CONTROL_REPEATS = {
    "ball_in_cup": 4,
    "cartpole": 8,
    "cheetah": 4,
    "finger": 4,
    "hopper": 4,
    "point_mass": 4,
    "reacher": 4,
    "walker": 4,
}


def task_name(source: str) -> str:
    """Returns the name of a task within a suite: without a library's prefix, but a factory's in full."""
    prefix, _, name = source.partition(":")
    if prefix == HUMANOID_BENCH:
        return name.partition("?")[0]
    return name if prefix in (DM_CONTROL, GYMNASIUM) else source
