"""Sources of tasks: HumanoidBench, dm_control, Gymnasium, or a factory of the user's.

A source is written ``prefix:name``: ``hb:h1-walk``, ``dmc:cartpole-swingup``, ``gym:Pendulum-v1``. Any other text
with a colon is a factory, ``module:function``. Each prefix has one entry in :data:`REGISTRY`, and nothing else in ezm
knows the prefixes. The libraries are imported only when a task needs them. The user's modules may also lie in the
current directory. If dm_control is missing, its tasks are refused, and all others work.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from ezm.errors import UserError
from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.simulator import Simulator

# Set before MuJoCo or dm_control is imported: physics needs no rendering, but without this the import looks
# for a graphics library.
os.environ.setdefault("MUJOCO_GL", _NO_GRAPHICS := "disabled")


class Score(NamedTuple):
    """The scale of a task's undiscounted returns."""

    zero: float
    """The return that is normalised to 0."""
    one: float
    """The return that is normalised to 1."""
    bar: float | None = None
    """The return from which an episode counts as solved, None without such a bar."""


@dataclass(frozen=True)
class Source:
    """A source of tasks. Where a function takes a name, it is a task's name without the prefix and without options.

    An entry is made when ezm starts, so it imports no library before a task needs it.
    """

    title: str
    """Name of the library, for messages."""
    form: str
    """How its tasks are written, e.g. ``gym:Id``."""
    make: Callable[[str, int, bool], Simulator]
    """Makes an environment from the name with its options, a seed of at least 0, and whether it will be drawn."""
    names: Callable[[], Sequence[str]] = lambda: ()
    """Names of all its tasks, none where there is no end to them. It is called only where nothing is lacking."""
    action_repeat: Callable[[str], int] = lambda name: 1
    """Simulator steps for each agent step, for a user who sets no other number."""
    options: tuple[str, ...] = ()
    """Options of ezm, ``protocol`` or ``meshes``, that a name may end in: ``h1-walk?protocol=paper&meshes=DIR``."""
    stepper: Callable[[Sequence[Simulator], int], Any] | None = None
    """Makes a stepper of several of its simulators with some threads. None: each steps alone.

    The stepper's ``step(actions, repeats)`` returns for each simulator what its own :meth:`Simulator.step` would
    return, bit for bit. Its ``close()`` stops the threads.
    """
    made_in_threads: bool = False
    """Whether making an environment consists mostly of long calls that let other Python threads run."""
    score: Callable[[str], Score] | None = None
    """The score of a task, None where returns have no scale."""
    needs: tuple[str, ...] = ()
    """Modules that its tasks import and that ezm can do without."""
    install: str = ""
    """The command that installs them."""

    def lack(self) -> str | None:
        """Returns why its tasks cannot be built, or None where they can. Imports nothing."""
        missing = (module for module in self.needs if find_spec(module) is None)
        return next((f"{module} is not installed" for module in missing), None)

    def require(self, what: str) -> None:
        """Refuses the task or suite ``what`` where the tasks cannot be built.

        Raises:
            UserError: a module is not installed.
        """
        if lack := self.lack():
            raise UserError(f"{what}: {lack}; run: {self.install}")


def _late(module: str, name: str) -> Callable[..., Any]:
    """Returns a function of a module of this package, which is imported at the first call.

    The user's MUJOCO_GL does not count during the import, which fails where the chosen library is missing. It counts
    for :class:`ezm.tasks.rendering.Renderer`.
    """

    def function(*arguments: Any) -> Any:
        chosen = os.environ.get("MUJOCO_GL", _NO_GRAPHICS)
        os.environ["MUJOCO_GL"] = _NO_GRAPHICS
        try:
            imported = importlib.import_module(module, __name__)
        finally:
            os.environ["MUJOCO_GL"] = chosen
        return getattr(imported, name)(*arguments)

    return function


def _humanoid_score(name: str) -> Score:
    bar = catalog.success_bar(name)
    return Score(zero=catalog.RANDOM_RETURNS[name], one=bar, bar=bar)


# PlaNet's values (Hafner et al. 2019, appendix): one control step then visibly matters. That list lacks
# hopper and point_mass, which follow the domains they resemble. Walker and finger have 4 instead of 2, which
# takes fewer agent steps to learn (docs/lab-notes.md).
_DM_CONTROL_REPEATS = {
    "cartpole": 8,
    **dict.fromkeys(("ball_in_cup", "cheetah", "finger", "hopper", "point_mass"), 4),
    **dict.fromkeys(("reacher", "walker"), 4),
}

HUMANOID_BENCH = Source(
    title="HumanoidBench",
    form="hb:robot-task",
    make=_late(".humanoid_bench", "HumanoidBenchSimulator"),
    names=lambda: catalog.NAMES,
    options=("protocol", "meshes"),
    stepper=_late(".humanoid_bench", "HumanoidBenchStepper"),
    score=_humanoid_score,
)
DM_CONTROL = Source(
    title="dm_control",
    form="dmc:domain-task",
    make=_late(".dm_control", "DmControlSimulator"),
    names=_late(".dm_control", "task_names"),
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
GYMNASIUM = Source(title="Gymnasium", form="gym:Id", make=_late(".gymnasium", "from_id"))
FACTORY = Source(
    title="a factory", form="module:function", make=_late(".gymnasium", "from_factory")
)
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


def score(source: str) -> Score | None:
    """Returns the score of a task, or None where its returns have no scale."""
    own = split(source)[0]
    return own.score(task_name(source)) if own.score else None


def options(source: str) -> dict[str, str]:
    """Returns the options that a source's name ends in.

    Raises:
        UserError: an option that the source does not have.
    """
    own, name = split(source)
    given = dict(parse_qsl(name.partition("?")[2])) if own.options else {}
    for option in given:
        if option not in own.options:
            raise UserError(
                f"task {source}: no option {option!r}; it may be {' or '.join(own.options)}"
            )
    return given


def with_options(source: str, **changes: str | None) -> str:
    """Returns a source with other options.

    Args:
        source: as above.
        changes: new values by option. None and the default protocol take the option out. An option that the source
            does not have is skipped.
    """
    own = split(source)[0]
    if not own.options:
        return source
    wanted = options(source) | changes
    unsaid = (None, catalog.PROTOCOLS[0])
    given = {name: wanted[name] for name in own.options if wanted.get(name) not in unsaid}
    bare = source.partition("?")[0]
    return f"{bare}?{urlencode(given)}" if given else bare


def forms() -> str:
    """Returns how tasks are written, for messages."""
    return f"{', '.join(own.form for own in REGISTRY.values())} or {FACTORY.form}"
