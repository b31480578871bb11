"""Functions that start a run and resume a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import jax

from ezm.acting.load import as_trained, suite_of
from ezm.agent import for_acting
from ezm.agent.learning.sharding import mesh
from ezm.config import TrainConfig, from_dict, to_dict
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger, read_metrics
from ezm.tasks import Suite
from ezm.training.display import Display
from ezm.training.memory import check_that_it_fits, memory_of, replay_rows
from ezm.training.trainer import Trainer

_LARGEST_REWARD = 1e6
"""Largest bound of bins. Beyond it float32 has too few digits for the differences between actions."""


def train(
    config: TrainConfig,
    path: Path,
    *,
    wandb: bool = False,
    display: Callable[..., Display] = Display,
) -> bool:
    """Trains a new run in the folder ``path``. Returns False if Ctrl-C stopped it.

    Args:
        config: the configuration, which names the suite.
        path: the folder to make.
        wandb: also log to Weights & Biases.
        display: makes what shows the progress, from the arguments of :class:`Display`. The default shows nothing.

    Raises:
        UserError: the configuration, the suite or the folder is unusable.
    """
    config, suite = prepared(config)
    run = RunFolder.create(path, to_dict(config), [asdict(task) for task in suite.tasks])
    return _run(run, config, suite, wandb, display)


def resume(
    path: Path,
    *,
    steps: int | None = None,
    devices: int | None = None,
    replay_on_device: bool | None = None,
    wandb: bool = False,
    display: Callable[..., Display] = Display,
) -> bool:
    """Resumes the run in ``path`` from its latest checkpoint. Returns False if Ctrl-C stopped it.

    Args:
        path: the run's folder.
        steps: a new number of steps per task for the run. None keeps the number.
        devices: a new number of devices for the learner. None keeps the number.
        replay_on_device: whether the replay's rows are on the learner's device. None keeps the setting.
        wandb: also log to Weights & Biases.
        display: as for :func:`train`.

    Raises:
        UserError: ``path`` is not a run, another process works on it, or there are fewer devices.
    """
    run = RunFolder.open(path)
    config: TrainConfig = from_dict(run.config)
    config = replace(config, steps=steps or config.steps)
    if devices is not None:
        config = replace(config, devices=devices)
    if replay_on_device is not None:
        config = replace(config, replay=replace(config.replay, device=replay_on_device))
    suite = as_trained(suite_of(config), run)
    _check(config, suite)
    return _run(run, config, suite, wandb, display)


def prepared(config: TrainConfig) -> tuple[TrainConfig, Suite]:
    """Returns the configuration of a new run, with the batch size of its number of tasks, and the suite.

    Raises:
        UserError: the run cannot be trained on this machine.
    """
    suite = suite_of(config)
    config = config.for_tasks(suite.num_tasks)
    _check(config, suite)
    return config, suite


def _check(config: TrainConfig, suite: Suite) -> None:
    """Refuses a run that cannot be trained on this machine, before anything is written."""
    check(config, suite.num_tasks)
    if config.steps <= config.random_steps:
        raise UserError(
            f"--steps {config.steps}: must exceed --random-steps {config.random_steps}, after which learning starts"
        )
    mesh(config.devices)
    ranges = (config.model.reward_range, config.model.value_range)
    derived = None in ranges and not config.loss.reward_scaling
    for task in suite.tasks:
        largest = max(map(abs, task.reward_range or (0.0,)))
        if derived and largest > _LARGEST_REWARD:
            raise UserError(
                f"task {task.name}: its rewards reach {largest:g}, and {_LARGEST_REWARD:g} is the most that can be "
                "learned; scale its rewards and its reward_range"
            )
    leaves = jax.tree.leaves(for_acting(config, suite).state.model)
    parameters = sum(x.size for x in leaves if isinstance(x, jax.ShapeDtypeStruct))
    memory = memory_of(config, suite, parameters)
    check_that_it_fits(memory, replay_rows(config, suite), suite.num_tasks)


def _run(
    run: RunFolder, config: TrainConfig, suite: Suite, wandb: bool, display: Callable[..., Display]
) -> bool:
    with ExitStack() as stack:
        stack.enter_context(run.lock())
        changed = config != from_dict(run.config)
        run.config = to_dict(config)
        metrics = stack.enter_context(MetricsLogger(run, wandb=wandb))
        shown = stack.enter_context(display(suite.task_names, config.steps, folder=run.path))
        trainer = Trainer(config, suite, run, metrics, shown)
        trainer.restore()
        if changed:  # only now, so that a run that cannot go on stays as it is
            run.replace_config(run.config)
        shown.recall(read_metrics(run.metrics_path))
        return trainer.train()
