"""Loading a run: its suite with the tasks of today, and the agent of its latest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

import ezm
from ezm.agent import Agent, for_acting
from ezm.agent.agent import TO_ACT
from ezm.config import TrainConfig, from_dict
from ezm.config.plain import read
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.runs.checkpoints import Checkpoint
from ezm.runs.folder import RunFolder
from ezm.tasks import Suite, TaskSpec, load_suite

_log = logging.getLogger(__name__)


def suite_of(config: TrainConfig) -> Suite:
    """Returns the suite that a run trains on, with the present versions of its tasks.

    Raises:
        UserError: as :func:`ezm.tasks.load_suite`.
    """
    return load_suite(
        config.suite,
        action_repeat=config.action_repeat,
        protocol=config.protocol,
        meshes=config.meshes,
    )


def as_trained(suite: Suite, run: RunFolder) -> Suite:
    """Returns the suite with the reward bounds, the episode lengths and the embodiments that the run began with.

    The supports and discounts depend on the first two, and a warning names each task that has others now. The
    observations' statistics depend on the embodiments.

    Raises:
        UserError: a task now has another observation or action size.
    """
    before = {task.name: task for task in map(_begun, run.tasks)}
    tasks = []
    for task in suite.tasks:
        was = before.get(task.name, task)
        for name in ("observation_size", "action_size", "reward_range", "episode_steps"):
            now, then = getattr(task, name), getattr(was, name)
            if now != then and name.endswith("_size"):
                raise UserError(
                    f"task {task.name}: its {name} is {now}, and the run in {run.path} began with {then}: "
                    "bring the task back to that, or start a new run"
                )
            if now != then:
                _log.warning(f"task {task.name}: its {name} is {now}; the run keeps {then}")
        kept = {
            name: getattr(was, name) for name in ("reward_range", "episode_steps", "embodiment")
        }
        tasks.append(replace(task, **kept))
    return replace(suite, tasks=tuple(tasks))


def _begun(values: Any) -> TaskSpec:
    """Reads a task of config.json.

    Older runs do not name the embodiment. There it is the task's source up to the first dash.
    """
    names = [field.name for field in fields(TaskSpec) if field.default is MISSING]
    if isinstance(values, Mapping) and "embodiment" not in values:
        values = {**values, "embodiment": str(values.get("source")).split("-")[0]}
    return read(TaskSpec, values, names)


def load_agent(run: RunFolder) -> tuple[Agent, int]:
    """Returns the agent of a run's latest checkpoint, to act with, and its environment steps per task.

    It reads the model and the statistics from the checkpoint, but not the replay, the EMA copy and the optimizer.

    Raises:
        UserError: the run has no checkpoint yet, or its networks or tasks differ from the present ones.
    """
    config: TrainConfig = from_dict(run.config)
    suite = as_trained(suite_of(config), run)
    check(config, suite.num_tasks)
    agent = for_acting(config, suite)
    checkpoint = run.latest_checkpoint([f"agent/{name}" for name in TO_ACT])
    if checkpoint is None:
        raise UserError(f"{run.path} has no checkpoint yet: train it further first")
    take_over(agent, checkpoint)
    return agent, checkpoint.step


def take_over(agent: Agent, checkpoint: Checkpoint) -> None:
    """Loads a checkpoint of the same configuration into an agent.

    Raises:
        UserError: the checkpoint's networks differ.
    """
    try:
        agent.load(checkpoint.arrays["agent"])
    except ValueError as error:
        raise UserError(
            f"checkpoint {checkpoint.step} has other networks than config.json, the tasks and ezm "
            f"{ezm.__version__} make now: {error}; bring back what has changed, or start a new run"
        ) from error
