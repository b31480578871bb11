"""Where tasks come from: HumanoidBench, dm_control, Gymnasium, or a factory of the user's.

A source is written ``prefix:name``: ``hb:h1-walk``, ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``; any other text with
a colon is a factory, ``module:function``. The libraries are imported only when a task needs them; modules of the user's are
found in the current directory too. dm_control may be missing: its tasks are refused then, all others work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.util import find_spec

from ezm.errors import UserError
from ezm.tasks.simulator import Simulator

# Before MuJoCo or dm_control is imported: physics needs no rendering, and without this the import
# looks for a graphics library.
os.environ.setdefault("MUJOCO_GL", "disabled")

HUMANOID_BENCH = "hb"
DM_CONTROL = "dmc"
GYMNASIUM = "gym"
LIBRARIES = (HUMANOID_BENCH, DM_CONTROL, GYMNASIUM)
"""Prefixes that name a library."""

INSTALL_DM_CONTROL = "pip install dm-env lxml && pip install --no-deps dm_control"
"""On every Python: labmaze, which dm_control requires and none of its tasks here uses, has no wheel from 3.13 on."""


def build(source: str, seed: int, *, pictures: bool = False) -> Simulator:
    """A new environment of a source.

    Args:
        source: as above.
        seed: at least 0; fixes everything random in the environment.
        pictures: whether it will be drawn: Gymnasium's render mode is chosen when an environment is made.

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
    """What keeps dm_control's tasks from being built; None where nothing does. Nothing is imported."""
    for module in ("dm_control", "dm_env", "lxml"):
        if find_spec(module) is None:
            return f"{module} is not installed"
    return None


def require_dm_control(name: str) -> None:
    """Refuse the task or suite ``name`` where dm_control's tasks cannot be built.

    Raises:
        UserError: a module is not installed.
    """
    if lack := lacks_dm_control():
        raise UserError(f"{name}: {lack}; run: {INSTALL_DM_CONTROL}")


def default_action_repeat(source: str) -> int:
    """Simulator steps for each agent step, unless the user says otherwise."""
    prefix, _, name = source.partition(":")
    if prefix != DM_CONTROL:
        return 1
    return _DM_CONTROL_REPEATS.get(name.partition("-")[0], 2)


# PlaNet's (Hafner et al. 2019, appendix): chosen so that one control step visibly matters. Hopper and
# point_mass are not in that list and follow the domains they resemble. Walker and finger have 4 instead of 2:
# with it they are learned in fewer agent steps (docs/lab-notes.md).
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
    """The name of a task within a suite: without the prefix of a library, a factory's in full."""
    prefix, _, name = source.partition(":")
    if prefix == HUMANOID_BENCH:
        return name.partition("?")[0]
    return name if prefix in (DM_CONTROL, GYMNASIUM) else source
