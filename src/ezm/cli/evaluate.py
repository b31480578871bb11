"""``ezm eval``."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

import ezm
from ezm import platform
from ezm.cli.options import ActingOptions
from ezm.cli.terminal import print_evaluation
from ezm.config import TrainConfig, from_dict
from ezm.config.schema import Bound
from ezm.errors import UserError, nearest


@dataclass(frozen=True)
class Eval(ActingOptions):
    """Evaluate a run's latest checkpoint: returns, success rate and normalised score of every task.

    The command needs only the run's folder. It keeps every evaluation there, with the return and length of each
    episode, in eval.json and eval.csv.

    Examples:
      ezm eval runs/RUN
      ezm eval runs/RUN --episodes 5 --planner policy
    """

    task: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")] = ()
    """Evaluate only these tasks of the run. A task's results do not depend on the other tasks."""
    episodes: Annotated[int, Bound(lambda value: value >= 1, "be at least 1")] = 20
    """Episodes per task."""

    def __call__(self) -> None:
        from ezm.runs.folder import RunFolder

        run = RunFolder.open(self.run)
        config: TrainConfig = from_dict(run.config)
        tasks = _chosen(config.suite, self.task)
        platform.prepare_jax(self.device)
        from ezm.acting.results import read_evaluations, save_evaluation

        read_evaluations(run.path)  # an unreadable file fails before the work, not after it
        try:
            found = _evaluate(run, config, tasks, self)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; nothing of this evaluation is kept") from None
        print_evaluation(found)
        try:
            save_evaluation(run.path, found)
        except UserError as error:
            raise UserError(f"the results above are not saved: {error}") from error


def _evaluate(run: Any, config: TrainConfig, tasks: Sequence[str], options: Eval) -> Any:
    from ezm.acting.actor import Actor
    from ezm.acting.evaluate import derived_seed, episodes
    from ezm.acting.load import load_agent
    from ezm.acting.results import Evaluation, aggregate, task_result
    from ezm.cli.progress import EvaluationProgress
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
