"""Runs as a user sees them: start one, go on with one, take its agent."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import jax

from ezm.config import TrainConfig, from_dict, to_dict
from ezm.errors import UserError
from ezm.learning import Agent, for_acting
from ezm.learning.sharding import mesh
from ezm.output import note
from ezm.plain import read
from ezm.tasks import Suite, TaskSpec, load_suite
from ezm.training.memory import Memory, check_that_it_fits
from ezm.training.metrics import MetricsLogger, read_metrics
from ezm.training.progress import TrainingProgress
from ezm.training.run_folder import RunFolder
from ezm.training.trainer import Trainer, memory_of, replay_rows, take_over
from ezm.validation import check

_LARGEST_REWARD = 1e6
"""Bounds of bins beyond it leave float32 too few digits for the differences between actions."""


def suite_of(config: TrainConfig) -> Suite:
    """The suite that a run trains on, as its tasks are now.

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
    """The suite with the bounds of rewards and the lengths of episodes that the run began with.

    Values and discounts are made of them. A line on standard error says where a task has others now.

    Raises:
        UserError: a task has other sizes now.
    """
    names = [field.name for field in fields(TaskSpec) if field.default is MISSING]
    before = {task.name: task for task in (read(TaskSpec, each, names) for each in run.tasks)}
    tasks = []
    for task in suite.tasks:
        was = before.get(task.name, task)
        for size in ("observation_size", "action_size"):
            now, then = getattr(task, size), getattr(was, size)
            if now != then:
                raise UserError(
                    f"task {task.name}: its {size} is {now}, and the run in {run.path} began with {then}: "
                    "bring the task back to that, or start a new run"
                )
        for name in ("reward_range", "episode_steps"):
            now, then = getattr(task, name), getattr(was, name)
            if now != then:
                note(f"task {task.name}: its {name} is {now}; the run keeps {then}")
        kept = replace(task, reward_range=was.reward_range, episode_steps=was.episode_steps)
        tasks.append(kept)
    return replace(suite, tasks=tuple(tasks))


def train(config: TrainConfig, path: Path, *, wandb: bool = False) -> bool:
    """Start a run in the new folder ``path``. Returns False where Ctrl-C stopped it.

    Raises:
        UserError: the configuration, the suite or the folder will not do.
    """
    suite = suite_of(config)
    config = config.for_tasks(suite.num_tasks)
    _check(config, suite)
    run = RunFolder.create(path, to_dict(config), [asdict(task) for task in suite.tasks])
    return _run(run, config, suite, wandb)


def resume(
    path: Path,
    *,
    steps: int | None = None,
    devices: int | None = None,
    replay_on_device: bool | None = None,
    wandb: bool = False,
) -> bool:
    """Go on with the run in ``path`` from its latest checkpoint.

    Args:
        path: the run's folder.
        steps: a new number of steps per task for the run; None: as it was.
        devices: a new number of devices for the learner; None: as it was.
        replay_on_device: whether the replay's rows are on the learner's device; None: as it was.
        wandb: also log to Weights & Biases.

    Raises:
        UserError: ``path`` is no run, or another process works on it, or there are fewer devices.
    """
    run = RunFolder.open(path)
    config: TrainConfig = from_dict(run.config)
    devices = config.devices if devices is None else devices
    config = replace(config, steps=steps or config.steps, devices=devices)
    if replay_on_device is not None:
        config = replace(config, replay=replace(config.replay, device=replay_on_device))
    suite = as_trained(suite_of(config), run)
    _check(config, suite)
    return _run(run, config, suite, wandb)


def announced(config: TrainConfig) -> tuple[Memory, int, int]:
    """What a run would take of memory, its replay's rows per task, and its tasks; no array is made.

    Raises:
        UserError: the suite will not do.
    """
    suite = suite_of(config)
    return _memory(config, suite), replay_rows(config, suite), suite.num_tasks


def _memory(config: TrainConfig, suite: Suite) -> Memory:
    model = for_acting(config, suite).state.model
    parameters = sum(
        math.prod(x.shape) for x in jax.tree.leaves(model) if isinstance(x, jax.ShapeDtypeStruct)
    )
    return memory_of(config, suite, parameters)


def _check(config: TrainConfig, suite: Suite) -> None:
    """Refuse a run that cannot be trained here before anything is written."""
    check(config, suite.num_tasks)
    mesh(config.devices)
    for task in suite.tasks:
        largest = max(map(abs, task.reward_range or (0.0,)))
        unbounded = not config.loss.reward_scaling and None in (
            config.model.reward_range,
            config.model.value_range,
        )
        if largest > _LARGEST_REWARD and unbounded:
            raise UserError(
                f"task {task.name}: its rewards reach {largest:g}, and {_LARGEST_REWARD:g} is the most that can be "
                "learned; scale its rewards and its reward_range"
            )
    check_that_it_fits(_memory(config, suite), replay_rows(config, suite), suite.num_tasks)


def _run(run: RunFolder, config: TrainConfig, suite: Suite, wandb: bool) -> bool:
    with ExitStack() as stack:
        stack.enter_context(run.lock())
        if config != from_dict(run.config):
            run.replace_config(to_dict(config))
        metrics = stack.enter_context(MetricsLogger(run, wandb=wandb))
        progress = stack.enter_context(
            TrainingProgress(suite.task_names, config.steps, folder=run.path)
        )
        trainer = Trainer(config, suite, run, metrics, progress)
        trainer.restore()
        progress.recall(read_metrics(run.metrics_path))
        return trainer.train()


def load_agent(run: RunFolder) -> tuple[Agent, int]:
    """The agent of a run's latest checkpoint, to act with, and its environment steps per task.

    Of the checkpoint, model and statistics are read; replay, slow copy and optimizer are not.

    Raises:
        UserError: the run has no checkpoint yet, or it is from another version.
    """
    config: TrainConfig = from_dict(run.config)
    suite = as_trained(suite_of(config), run)
    check(config, suite.num_tasks)
    agent = for_acting(config, suite)
    checkpoint = run.latest_checkpoint({"agent": agent.names()})
    if checkpoint is None:
        raise UserError(f"{run.path} has no checkpoint yet: train it further first")
    take_over(agent, checkpoint)
    return agent, checkpoint.step
