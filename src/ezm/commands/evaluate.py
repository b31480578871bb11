"""``ezm eval``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ezm import platform
from ezm.config import from_dict
from ezm.errors import UserError
from ezm.options import parse
from ezm.platform import Device
from ezm.terminal import print_table


@dataclass(frozen=True)
class Eval:
    """Evaluate a run's latest checkpoint: mean return and 95 % interval of every task.

    The returns are also written to eval.json in the run's folder.

    Examples:
      ezm eval runs/RUN
      ezm eval runs/RUN --episodes 5 --mode policy
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    episodes: int = 20
    """Per task."""
    mode: Literal["search", "policy"] = "search"
    """Act on the search's best action, or on the policy's mean without search."""
    seed: int = 0
    """Of the environments and of the search; never those of the training."""
    protocol: Literal["benchmark", "paper"] | None = None
    """HumanoidBench's tasks: falls end an episode (benchmark), or it goes on (paper); None: as in training."""
    device: Device = "auto"
    """What to compute on; auto: a GPU if there is one."""


def evaluate(arguments: Sequence[str]) -> int:
    """``ezm eval``. Returns the exit code."""
    options = parse(Eval, "eval", arguments)
    if options.episodes < 1:
        raise UserError(f"--episodes {options.episodes}: must be at least 1")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must not be negative")
    from ezm.training.run_folder import RunFolder, write_atomically

    run = RunFolder.open(options.run)
    platform.prepare_jax(options.device)
    from ezm.evaluation.evaluate import Evaluator
    from ezm.evaluation.scores import scores
    from ezm.evaluation.statistics import mean_interval
    from ezm.training.actor import Actor
    from ezm.training.runs import load_agent, suite_of

    agent, step = load_agent(run)
    config = from_dict(run.config)
    protocol = options.protocol or config.protocol
    suite = suite_of(dataclasses.replace(config, protocol=protocol))
    seed = 500_000_000 + options.seed  # far from the seeds of training
    actor = Actor(agent.learner, seed, evaluating=True)
    act = actor.policy(agent.state.model, agent.statistics.normalizer(), options.mode)
    evaluator = Evaluator(suite, min(options.episodes, 20), seed)
    try:
        returns = evaluator.run(act, options.episodes)
    finally:
        evaluator.close()
    means = [mean_interval(values) for values in returns]
    names = suite.task_names
    solved = scores(suite, returns)
    columns: list[tuple[str, ...]] = [names, tuple(map(str, means))]
    headings = ["task", "return"]
    if any(solved):
        headings += ["success bar", "normalised", "episodes solved"]
        columns += [
            tuple("-" if each is None else text(each) for each in solved)
            for text in (
                lambda score: f"{score.success_bar:g}",
                lambda score: f"{score.normalised:.3f}",
                lambda score: f"{score.solved:.0%}",
            )
        ]
    print_table(
        headings,
        list(zip(*columns, strict=True)),
        f"mean and 95 % interval of {options.episodes} episodes after {step:,} steps per task, "
        f"acting with the {options.mode}",
    )
    result = {
        "step": step,
        "mode": options.mode,
        "protocol": protocol,
        "episodes": options.episodes,
        "seed": options.seed,
        "tasks": {
            name: {
                "mean": mean.mean,
                "half_width": mean.half_width,
                "returns": values,
                **(score._asdict() if score else {}),
            }
            for name, mean, values, score in zip(names, means, returns, solved, strict=True)
        },
    }
    write_atomically(run.path / "eval.json", json.dumps(result, indent=2) + "\n")
    return 0
