"""Functions that start a run, resume a run, and load a run's agent."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import jax

from ezm.config import TrainConfig, from_dict, to_dict
from ezm.errors import UserError
from ezm.learning import Agent, for_acting
from ezm.learning.agent import TO_ACT
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
"""Largest bound of bins. Beyond it float32 has too few digits for the differences between actions."""


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
    """Returns the suite with the reward bounds and the episode lengths that the run began with.

    The supports and discounts depend on them. A line on standard error names each task that has others now.

    Raises:
        UserError: a task now has another observation or action size.
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
    """Trains a new run in the folder ``path``. Returns False if Ctrl-C stopped it.

    Raises:
        UserError: the configuration, the suite or the folder is unusable.
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
    """Resumes the run in ``path`` from its latest checkpoint. Returns False if Ctrl-C stopped it.

    Args:
        path: the run's folder.
        steps: a new number of steps per task for the run. None keeps the number.
        devices: a new number of devices for the learner. None keeps the number.
        replay_on_device: whether the replay's rows are on the learner's device. None keeps the setting.
        wandb: also log to Weights & Biases.

    Raises:
        UserError: ``path`` is not a run, another process works on it, or there are fewer devices.
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


def _memory(config: TrainConfig, suite: Suite) -> Memory:
    model = for_acting(config, suite).state.model
    parameters = sum(
        math.prod(x.shape) for x in jax.tree.leaves(model) if isinstance(x, jax.ShapeDtypeStruct)
    )
    return memory_of(config, suite, parameters)


def _check(config: TrainConfig, suite: Suite) -> None:
    """Refuses a run that cannot be trained on this machine, before anything is written."""
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
        changed = config != from_dict(run.config)
        run.config = to_dict(config)
        metrics = stack.enter_context(MetricsLogger(run, wandb=wandb))
        progress = stack.enter_context(
            TrainingProgress(suite.task_names, config.steps, folder=run.path)
        )
        trainer = Trainer(config, suite, run, metrics, progress)
        trainer.restore()
        if changed:  # only now, so that a run that cannot go on stays as it is
            run.replace_config(run.config)
        progress.recall(read_metrics(run.metrics_path))
        return trainer.train()


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
