"""``ezm eval``."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import ezm
from ezm import platform
from ezm.cli.options import parse
from ezm.config import TrainConfig, from_dict
from ezm.errors import UserError, nearest
from ezm.platform import Device


@dataclass(frozen=True)
class Eval:
    """Evaluate a run's latest checkpoint: returns, success rate and normalised score of every task.

    The command needs only the run's folder. It keeps every evaluation there, with the return and length of each
    episode, in eval.json and eval.csv.

    Examples:
      ezm eval runs/RUN
      ezm eval runs/RUN --episodes 5 --planner policy
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    task: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")] = ()
    """Evaluate only these tasks of the run. A task's results do not depend on the other tasks."""
    episodes: int = 20
    """Episodes per task."""
    protocol: Literal["benchmark", "paper"] | None = None
    """For HumanoidBench's tasks. benchmark: a fall ends the episode. paper: the episode goes on.
    None: as in training."""
    planner: Literal["search", "policy"] = "search"
    """Act on the search's best action, or on the policy's mean without search."""
    seed: int = 0
    """Seed of the environments and of the search, independent of the training's seeds."""
    device: Device = "auto"
    """Device to compute on. auto: a GPU if there is one."""


def evaluate(arguments: Sequence[str]) -> int:
    """Runs ``ezm eval`` and returns the exit code."""
    options = parse(Eval, "eval", arguments)
    if options.episodes < 1:
        raise UserError(f"--episodes {options.episodes}: must be at least 1")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must not be negative")
    from ezm.runs.folder import RunFolder

    run = RunFolder.open(options.run)
    config: TrainConfig = from_dict(run.config)
    tasks = _chosen(config.suite, options.task)
    platform.prepare_jax(options.device)
    from ezm.acting.results import read_evaluations, save_evaluation
    from ezm.cli.terminal import print_evaluation

    read_evaluations(run.path)  # an unreadable file fails before the work, not after it
    try:
        found = _evaluate(run, config, tasks, options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; nothing of this evaluation is kept") from None
    print_evaluation(found)
    try:
        save_evaluation(run.path, found)
    except UserError as error:
        raise UserError(f"the results above are not saved: {error}") from error
    return 0


def _evaluate(run: Any, config: TrainConfig, tasks: Sequence[str], options: Eval) -> Any:
    from ezm.acting.actor import Actor
    from ezm.acting.evaluate import derived_seed, episodes
    from ezm.acting.load import load_agent
    from ezm.acting.results import Evaluation, aggregate, task_result
    from ezm.cli.evaluation_progress import EvaluationProgress
    from ezm.runs.machine import machine
    from ezm.statistics.intervals import mean_interval
    from ezm.tasks import with_protocol

    agent, step = load_agent(run)
    suite = with_protocol(agent.suite, options.protocol) if options.protocol else agent.suite
    actor = Actor(agent.learner, 0, evaluating=True)
    act = actor.policy(agent.parameters, options.planner)
    results = {}
    with EvaluationProgress(options.episodes) as progress:
        for name in tasks:
            index = suite.task_names.index(name)
            progress.begin(name, suite.tasks[index].episode_steps)
            actor.reseed(derived_seed(options.seed, name))
            found = episodes(
                *(suite, index, act, options.episodes, options.seed),
                watch=progress.update,
                step_limit=config.step_limit or None,
            )
            results[name] = task_result(suite.tasks[index], found)
            progress.end(str(mean_interval(found.returns)))
    return Evaluation(
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        step=step,
        planner=options.planner,
        protocol=options.protocol or config.protocol,
        episodes=options.episodes,
        seed=options.seed,
        version=ezm.__version__,
        machine=machine(),
        tasks=results,
        aggregate=aggregate(list(results.values())),
    )


def _chosen(suite: str, wanted: Sequence[str]) -> list[str]:
    """Returns the names of the tasks to evaluate, in the suite's order, without heavy imports.

    Raises:
        UserError: a name that is not in the suite.
    """
    from ezm.tasks import sources, suites

    known = [sources.task_name(source) for source in suites.parse(suite)]
    names = {part for each in wanted for part in each.split(",")}
    for name in sorted(names):
        if name not in known:
            raise UserError(
                f"--task {name}: the run has no such task{nearest(name, known)}; "
                f"it has {', '.join(known)}"
            )
    return [name for name in known if not names or name in names]
