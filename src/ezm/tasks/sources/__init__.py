"""Sources of tasks: HumanoidBench, dm_control, Gymnasium, or a factory of the user's.

A source is written ``prefix:name``: ``hb:h1-walk``, ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``. Any other text
with a colon is a factory, ``module:function``. Each prefix has one entry in :data:`REGISTRY`, and nothing else in ezm
knows the prefixes. The libraries are imported only when a task needs them. The user's modules may also lie in the
current directory. If dm_control is missing, its tasks are refused, and all others work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode

from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.simulator import Simulator, Stepper
from ezm.tasks.sources.source import Score, Source

# Set before MuJoCo or dm_control is imported: physics needs no rendering, but without this the import looks
# for a graphics library.
os.environ.setdefault("MUJOCO_GL", "disabled")


# HumanoidBench


def _make_humanoid(name: str, seed: int, pictures: bool) -> Simulator:
    from ezm.tasks.sources.humanoid_bench import HumanoidBenchSimulator

    return HumanoidBenchSimulator(name, seed)


def _step_humanoids(simulators: Sequence[Simulator], threads: int) -> Stepper:
    from ezm.tasks.sources.humanoid_bench import HumanoidBenchStepper

    return HumanoidBenchStepper(simulators, threads)


def _humanoid_score(name: str) -> Score:
    bar = catalog.success_bar(name)
    return Score(zero=catalog.RANDOM_RETURNS[name], one=bar, bar=bar)


HUMANOID_BENCH = Source(
    title="HumanoidBench",
    form="hb:robot-task",
    make=_make_humanoid,
    names=lambda: catalog.NAMES,
    options=("protocol", "meshes"),
    stepper=_step_humanoids,
    score=_humanoid_score,
)


# dm_control

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


def _make_dm_control(name: str, seed: int, pictures: bool) -> Simulator:
    from ezm.tasks.sources.dm_control import DmControlSimulator

    return DmControlSimulator(name, seed)


def _dm_control_names() -> Sequence[str]:
    from ezm.tasks.sources.dm_control import task_names

    return task_names()


DM_CONTROL = Source(
    title="dm_control",
    form="dmc:domain-task",
    make=_make_dm_control,
    names=_dm_control_names,
    action_repeat=lambda name: _DM_CONTROL_REPEATS.get(name.partition("-")[0], 2),
    # MuJoCo compiles each environment for 50 ms outside Python's lock.
    made_in_threads=True,
    # Rewards lie in [0, 1], an episode has 1,000 control steps (Tassa et al. 2018), and there is no standard bar.
    score=lambda name: Score(zero=0.0, one=1_000.0),
    needs=("dm_control", "dm_env", "lxml"),
    # For every Python. dm_control requires labmaze, which has no wheel from 3.13 on. None of its tasks here uses
    # labmaze.
    install="pip install dm-env lxml && pip install --no-deps dm_control",
)


# Gymnasium, and a user's own factories


def _look_here() -> None:
    """Lets imports find modules in the current folder, where an installed command does not look by itself."""
    with contextlib.suppress(FileNotFoundError):  # the current folder may be gone
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)


def _make_gymnasium(name: str, seed: int, pictures: bool) -> Simulator:
    _look_here()
    from ezm.tasks.sources.gymnasium import from_id

    return from_id(name, seed, pictures)


def _make_own(name: str, seed: int, pictures: bool) -> Simulator:
    _look_here()
    from ezm.tasks.sources.factory import from_factory

    return from_factory(name, seed, pictures)


GYMNASIUM = Source(title="Gymnasium", form="gym:Id", make=_make_gymnasium)
FACTORY = Source(title="a factory", form="module:function", make=_make_own)
"""The source of every text without a registered prefix."""


REGISTRY: dict[str, Source] = {"hb": HUMANOID_BENCH, "dmc": DM_CONTROL, "gym": GYMNASIUM}
"""The entry of each prefix. A bare name is looked up in this order."""


def split(source: str) -> tuple[Source, str]:
    """Returns the entry and the name of a task's source, the name with its options. A factory's name is the whole
    text."""
    prefix, _, name = source.partition(":")
    return (REGISTRY[prefix], name) if prefix in REGISTRY else (FACTORY, source)


def build(source: str, seed: int, *, pictures: bool = False) -> Simulator:
    """Makes a new environment of a source.

    Args:
        source: as above.
        seed: at least 0. It fixes everything random in the environment.
        pictures: whether it will be drawn. Gymnasium chooses its render mode when it makes an environment.

    Raises:
        UserError: the task does not exist, is not installed, or has spaces that ezm cannot use.
    """
    own, name = split(source)
    own.require(f"task {source}")
    return own.make(name, seed, pictures)


def task_name(source: str) -> str:
    """Returns the name of a task within a suite: without a prefix and options, but a factory's in full."""
    own, name = split(source)
    return name.partition("?")[0] if own.options else name


def default_action_repeat(source: str) -> int:
    """Returns the simulator steps for each agent step, for a user who sets no other number."""
    return split(source)[0].action_repeat(task_name(source))


def score(source: str) -> Score | None:
    """Returns the score of a task, or None where its returns have no scale."""
    own = split(source)[0]
    return own.score(task_name(source)) if own.score else None


def options(source: str) -> dict[str, str]:
    """Returns the options that a source's name ends in."""
    own, name = split(source)
    return dict(parse_qsl(name.partition("?")[2])) if own.options else {}


def with_options(source: str, **changes: str | None) -> str:
    """Returns a source with other options.

    Args:
        source: as above.
        changes: new values by option. None takes the option out. An option that the source does not have is skipped.
    """
    own = split(source)[0]
    if not own.options:
        return source
    wanted = options(source) | changes
    given = {name: value for name in own.options if (value := wanted.get(name)) is not None}
    bare = source.partition("?")[0]
    return f"{bare}?{urlencode(given)}" if given else bare


def forms() -> str:
    """Returns how tasks are written, for messages."""
    return f"{', '.join(own.form for own in REGISTRY.values())} or {FACTORY.form}"
