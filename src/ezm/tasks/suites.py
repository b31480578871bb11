"""Suites: an ordered list of tasks, the named suites, and the suite that a command-line name stands for."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import numpy as np

from ezm.errors import UserError, nearest
from ezm.tasks import sources
from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.task import Task, TaskSpec, agent_steps

SUITES: dict[str, tuple[str, ...]] = {
    "cartpole": (
        "dmc:cartpole-balance",
        "dmc:cartpole-swingup",
        "dmc:cartpole-balance_sparse",
        "dmc:cartpole-swingup_sparse",
    ),
    "walker": ("dmc:walker-stand", "dmc:walker-walk", "dmc:walker-run"),
    "mixed": (
        "dmc:cartpole-swingup",
        "dmc:reacher-easy",
        "dmc:ball_in_cup-catch",
        "dmc:finger-spin",
        "dmc:walker-walk",
    ),
    **{suite: tuple(f"hb:{name}" for name in names) for suite, names in catalog.SUITES.items()},
}
"""Sources of the tasks of each named suite."""


@dataclass(frozen=True)
class Suite:
    """An ordered list of tasks, padded to the largest observation and action.

    K tasks, O = ``observation_size``, A = ``action_size``.
    """

    name: str
    tasks: tuple[TaskSpec, ...]

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @cached_property
    def embodiments(self) -> tuple[int, ...]:
        """For each task, the index of the first task with the same embodiment: an equal name, and equal sizes."""
        kinds = [(task.embodiment, task.observation_size, task.action_size) for task in self.tasks]
        return tuple(kinds.index(kind) for kind in kinds)

    @cached_property
    def observation_size(self) -> int:
        return max(task.observation_size for task in self.tasks)

    @cached_property
    def action_size(self) -> int:
        return max(task.action_size for task in self.tasks)

    @cached_property
    def action_mask(self) -> np.ndarray:
        """(K, A) float32, read-only: 1 for a task's real actions, 0 for padding."""
        sizes = np.array([task.action_size for task in self.tasks])
        mask = (np.arange(self.action_size) < sizes[:, None]).astype(np.float32)
        mask.flags.writeable = False
        return mask

    @cached_property
    def neutral_action(self) -> np.ndarray:
        """(K, A) float32, read-only: each task's neutral action, 0 in padding and where a task declares none."""
        actions = np.zeros((self.num_tasks, self.action_size), np.float32)
        for row, task in zip(actions, self.tasks, strict=True):
            if task.neutral_action is not None:
                row[: task.action_size] = task.neutral_action
        actions.flags.writeable = False
        return actions

    def make(self, task: int, seed: int, *, pictures: bool = False) -> Task:
        """Makes a new environment of task number ``task``, padded to this suite's sizes.

        Args:
            seed: at least 0. It fixes everything random in the environment, over all its episodes.
            pictures: whether it will be drawn, which some environments must know.
        """
        spec = self.tasks[task]
        simulator = sources.build(spec.source, seed, pictures=pictures)
        return Task(spec, simulator, self.observation_size, self.action_size)

    def only(self, *names: str) -> Suite:
        """Returns the suite of the tasks with these names, in this order, padded to their own largest sizes.

        Raises:
            UserError: a name that is not in the suite.
        """
        by_name = dict(zip(self.task_names, self.tasks, strict=True))
        for name in names:
            if name not in by_name:
                raise UserError(
                    f"suite {self.name} has no task {name!r}{nearest(name, by_name)}; "
                    f"it has {', '.join(by_name)}"
                )
        return dataclasses.replace(self, tasks=tuple(by_name[name] for name in names))


def load_suite(
    name: str,
    *,
    action_repeat: int | None = None,
    episode_steps: int | None = None,
    protocol: str = "benchmark",
    meshes: str | None = None,
) -> Suite:
    """Returns the suite called ``name``. Builds each task once to find its sizes.

    Args:
        name: a named suite (``cartpole``, ``h1``), or a list of tasks separated by commas: ``hb:h1-walk``,
            ``dmc:domain-task``, ``gym:Id``, ``module:function``. A library's prefix holds for the elements after it
            (``dmc:walker-walk,cheetah-run``), up to the next colon. An element to which no prefix applies is the bare
            name of a HumanoidBench or dm_control task, or of a suite.
        action_repeat: simulator steps for each agent step, for every task. None: each task's own.
        episode_steps: agent steps until truncation, for every task. None: each task's own. A time limit inside a
            factory's environment can be shortened, not lengthened.
        protocol: of HumanoidBench's tasks. ``benchmark``: falls end the episode. ``paper``: they do not.
        meshes: a folder with the meshes of HumanoidBench's robots. None: the robots collide as primitives.

    Raises:
        UserError: an unknown or unusable task, a task named twice, an unknown protocol, missing meshes, or a number
            below 1.
    """
    for option, value in (("--action-repeat ", action_repeat), ("episode_steps=", episode_steps)):
        if value is not None and value < 1:
            raise UserError(f"{option}{value}: must be at least 1")
    catalog.check_protocol(protocol)
    options = {"protocol": protocol, "meshes": meshes and str(Path(meshes).resolve())}
    named = [
        sources.with_options(source, **options | sources.options(source)) for source in parse(name)
    ]
    specs = [_probe(source, action_repeat, episode_steps) for source in named]
    return Suite(name, tuple(specs))


def parse(name: str) -> list[str]:
    """Returns the sources that a suite's name stands for (see :func:`load_suite`), without building them.

    Raises:
        UserError: an empty name, a task named twice, or an unknown bare name.
    """
    found: list[str] = []
    prefix: str | None = None
    for element in (part.strip() for part in name.split(",")):
        if not element:
            raise UserError(f"suite {name!r}: an empty task name; write tasks as a,b,c")
        if ":" in element:
            head = element.partition(":")[0]
            prefix = head if head in sources.REGISTRY else None
            found.append(element)
        elif prefix is not None:
            found.append(f"{prefix}:{element}")
        else:
            found.extend(SUITES.get(element) or [_bare_task(element)])
    names = [sources.task_name(source) for source in found]
    for task in names:
        if names.count(task) > 1:
            raise UserError(f"suite {name!r}: task {task} is named twice; name it once")
    return found


def _bare_task(name: str) -> str:
    known, lacks = list(SUITES), []
    for prefix, source in sources.REGISTRY.items():
        if lack := source.lack():
            lacks.append(f"{source.title}'s tasks are unknown, since {lack}; run: {source.install}")
            continue
        names = source.names()
        if name in names:
            return f"{prefix}:{name}"
        known += names
    fix = "; ".join(lacks) or "`ezm tasks` lists them"
    raise UserError(f"unknown suite or task {name!r}{nearest(name, known)}; {fix}")


def with_protocol(suite: Suite, protocol: str) -> Suite:
    """Returns the same suite with this protocol for its HumanoidBench tasks. Other tasks have no protocol.

    Raises:
        UserError: an unknown protocol.
    """
    catalog.check_protocol(protocol)
    tasks = (
        dataclasses.replace(task, source=sources.with_options(task.source, protocol=protocol))
        for task in suite.tasks
    )
    return dataclasses.replace(suite, tasks=tuple(tasks))


def protocol_of(task: TaskSpec) -> str | None:
    """Returns the protocol of a HumanoidBench task, or None for any other task."""
    if "protocol" not in sources.split(task.source)[0].options:
        return None
    return sources.options(task.source).get("protocol", catalog.PROTOCOLS[0])


def _probe(source: str, action_repeat: int | None, episode_steps: int | None) -> TaskSpec:
    simulator = sources.build(source, seed=0)
    name = sources.task_name(source)
    repeat = action_repeat or sources.split(source)[0].action_repeat(name)
    if episode_steps is None and simulator.episode_limit is not None:
        episode_steps = agent_steps(simulator.episode_limit, repeat)
    bounds = simulator.reward_range
    spec = TaskSpec(
        name=name,
        source=source,
        observation_size=simulator.observation_size,
        action_size=simulator.action_size,
        action_repeat=repeat,
        episode_steps=episode_steps,
        reward_range=None if bounds is None else (bounds[0] * repeat, bounds[1] * repeat),
        embodiment=simulator.embodiment,
        neutral_action=simulator.neutral_action,
    )
    simulator.close()
    return spec


Listed = namedtuple(
    "Listed", "suite task observation_size action_size action_repeat episode_steps source"
)
"""A row of :func:`listing`."""


def listing(*names: str) -> list[Listed]:
    """Returns one row for each task of the suites ``names`` (default: the named suites whose libraries are installed).

    A source's prefix, such as ``dmc``, stands for all of its tasks.

    Raises:
        UserError: as for :func:`load_suite`.
    """
    usable = (
        name
        for name, tasks in SUITES.items()
        if not any(sources.split(task)[0].lack() for task in tasks)
    )
    columns = attrgetter(
        *("name", "observation_size", "action_size", "action_repeat", "episode_steps", "source")
    )
    rows = []
    for name in names or usable:
        every: Sequence[str] = ()
        if source := sources.REGISTRY.get(name):
            source.require(f"suite {name}")
            every = source.names()
        suite = load_suite(",".join(f"{name}:{task}" for task in every) or name)
        rows += [Listed(name, *columns(task)) for task in suite.tasks]
    return rows
