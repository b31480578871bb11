"""The command line: ``ezm train``, ``eval``, ``report``, ``profile``, ``tasks`` and ``demo``.

This module only wires: it parses options, prepares JAX and calls the library. Everything heavy is
imported inside the command that needs it, so that help and mistakes answer at once.

Every mistake of the user's is one line, ``error: ...``, and exit code 2; a run stopped by Ctrl-C
exits with 130 and says how to go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

import ezm
from ezm.config import CPU_SIZES, PRESETS, TrainConfig, defaults, from_dict, to_dict
from ezm.errors import UserError
from ezm.options import nearest, parse, value_of
from ezm.platform import Device, has_gpu, prepare_jax
from ezm.terminal import print_profile, print_results, print_table, write_report

INTERRUPTED = 130
DEMO_SUITE = "cartpole"

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Options(TrainConfig):
    """What a run is started with."""

    suite: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUITE")] = "cartpole"
    """cartpole, walker, mixed, or a list of tasks: `dmc:walker-walk,cheetah-run`, `gym:Pendulum-v1`,
    `my_pkg.tasks:make`. `ezm tasks` lists what there is. Not needed with --resume."""
    preset: Literal["cpu", "paper"] = "cpu"
    """Defaults of all other options: `cpu` learns on two cores, cartpole within minutes; `paper` has the
    published sizes. Without this option: paper where there is a GPU, otherwise cpu."""
    resume: Path | None = None
    device: Device = "auto"
    """What to compute on; auto: a GPU if there is one."""


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Train(Options):
    """Train one agent on all tasks of a suite.

    Ctrl-C stops after the current step and saves; a second one stops at once.

    Ablations, one option each:
      --model.no-task-embedding       the networks do not know the task
      --replay.no-per-task            one replay for all tasks instead of one for each
      --loss.consistency off          no temporal consistency
      --loss.no-path-consistency      no path consistency
      --loss.value-target n_step      or search, or mixed (the published one)
      ezm train dmc:cartpole-swingup  a single task
    """

    out: Path | None = None
    """Folder of the new run; None: a new one in runs/."""
    resume: Path | None = None
    """Go on with the run in this folder, with the options that it was started with; only --steps
    may be given anew, and only grow, and --devices."""
    wandb: Flag = False
    """Also log to Weights & Biases (needs the extra `wandb`)."""


@dataclass(frozen=True)
class Eval:
    """Evaluate a run's latest checkpoint: mean return and 95 % interval of every task.

    The returns are also written to eval.json in the run's folder.
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


@dataclass(frozen=True)
class Report:
    """Write a run's report, one HTML page that needs nothing else, and print its path."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""


@dataclass(frozen=True)
class Profile(Options):
    """Train for some seconds and show where they went, as a table and in profile.json and profile.png.

    It trains as `ezm train` does with the same options, in a temporary folder. Compilation and the random
    phase are left out. For half of the time training runs as ever, which gives its steps/s. For the other
    half each part is waited for, so that its seconds are its own: nothing but the targets then overlaps
    with an update, and what lies between the two rates is what overlapping gives.

    Typed as:
      ezm profile cartpole
      ezm profile h1 --preset paper --seconds 120 --out profiles
      ezm profile --resume runs/RUN
    """

    seconds: float = 30.0
    """Of training; one checkpoint and one evaluation come after them."""
    out: Path = Path()
    """Folder of profile.json and profile.png; the temporary folder is there too, and so the checkpoint."""
    resume: Path | None = None
    """Go on with a copy of the run in this folder: with its options, replay and parameters. It is not changed."""


@dataclass(frozen=True)
class Tasks:
    """List tasks: those of the named suites, or of the suites and tasks given."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")] = ()
    """Suites or tasks as for `ezm train`; `dmc` lists everything in dm_control."""


@dataclass(frozen=True)
class Demo:
    """Train one agent on the four cartpole tasks (minutes on two cores), and show what it learned."""

    seed: int = 0
    out: Path | None = None
    """Folder of the new run; None: a new one in runs/."""


# -- commands ----------------------------------------------------------------------------------


def train(arguments: Sequence[str]) -> int:
    """``ezm train``. Returns the exit code."""
    options = _parse_run(Train, "train", arguments)
    if options.resume is None:
        return _train(_config(options), options)
    if options.out is not None:
        raise UserError(f"--out {options.out} contradicts --resume: the run stays where it is")
    return _resume(options)


def _parse_run(kind: type[OptionsT], command: str, arguments: Sequence[str]) -> OptionsT:
    """The options of a new run, or those of the run to be resumed."""
    given = value_of("--resume", arguments)
    if given is None:
        return _parse_new_run(kind, command, arguments)
    from ezm.training.run_folder import RunFolder

    config = from_dict(RunFolder.open(Path(given)).config)
    options: OptionsT = parse(kind, command, arguments, _options(kind, config))
    _refuse_contradiction(config, options)
    return options


def _parse_new_run(kind: type[OptionsT], command: str, arguments: Sequence[str]) -> OptionsT:
    """The options of a new run, their defaults those of its preset and suite."""
    preset = value_of("--preset", arguments) or ("paper" if has_gpu() else "cpu")
    preset = preset if preset in PRESETS else "cpu"
    # A guess, so that --help shows the suite's own defaults; what counts is what the parser found.
    suite = next((argument for argument in arguments if argument in CPU_SIZES), "")
    while True:
        given = _options(kind, defaults(preset, suite), suite=tyro.MISSING)
        options: OptionsT = parse(kind, command, arguments, given)
        if defaults(preset, suite) == defaults(preset, options.suite):
            return options
        suite = options.suite


def _train(config: TrainConfig, options: Train) -> int:
    from ezm.training.run_folder import default_run_path

    prepare_jax(options.device)
    path = options.out or default_run_path(Path("runs"), config.suite, config.preset, config.seed)
    if config.model == PRESETS["paper"].model:
        print(
            "preset paper: the published widths and depths come to 15M parameters, the paper says "
            "about 16M; docs/presets.md says what is left open"
        )
    from ezm.training import runs

    with _interruptible(path):
        finished = runs.train(config, path, wandb=options.wandb)
    return _finish(path, finished)


def _resume(options: Train) -> int:
    assert options.resume is not None
    prepare_jax(options.device)
    from ezm.training import runs

    with _interruptible(options.resume):
        finished = runs.resume(
            options.resume, steps=options.steps, devices=options.devices, wandb=options.wandb
        )
    return _finish(options.resume, finished)


def evaluate(arguments: Sequence[str]) -> int:
    """``ezm eval``. Returns the exit code."""
    options = parse(Eval, "eval", arguments)
    if options.episodes < 1:
        raise UserError(f"--episodes {options.episodes}: must be at least 1")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must not be negative")
    from ezm.training.run_folder import RunFolder, write_atomically

    run = RunFolder.open(options.run)
    prepare_jax(options.device)
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


def report(arguments: Sequence[str]) -> int:
    """``ezm report``. Returns the exit code."""
    print(write_report(parse(Report, "report", arguments).run))
    return 0


def profile(arguments: Sequence[str]) -> int:
    """``ezm profile``. Returns the exit code."""
    options = _parse_run(Profile, "profile", arguments)
    if not options.seconds > 0:
        raise UserError(f"--seconds {options.seconds:g}: must be greater than 0")
    prepare_jax(options.device)
    from ezm.training import profile as profiling

    found = profiling.profile(_config(options), options.seconds, options.out, options.resume)
    print_profile(found)
    for path in profiling.write_profile(found, options.out):
        print(path)
    return 0


def tasks(arguments: Sequence[str]) -> int:
    """``ezm tasks``. Returns the exit code."""
    options = parse(Tasks, "tasks", arguments)
    from ezm.tasks import listing

    rows = listing(*options.names)
    headings = ("suite", "task", "obs", "act", "repeat", "steps", "source")
    print_table(
        headings,
        [tuple("-" if value is None else str(value) for value in row) for row in rows],
        ""
        if options.names
        else "also: dmc:domain-task (`ezm tasks dmc` lists them), "
        "gym:Id, module:function, and lists of them",
    )
    return 0


def demo(arguments: Sequence[str]) -> int:
    """``ezm demo``. Returns the exit code."""
    options = parse(Demo, "demo", arguments)
    from ezm.training.run_folder import default_run_path

    path = options.out or default_run_path(Path("runs"), "demo", "cpu", options.seed)
    config = dataclasses.replace(defaults("cpu", DEMO_SUITE), suite=DEMO_SUITE, seed=options.seed)
    return _train(config, _options(Train, config, out=path))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "report": report,
    "profile": profile,
    "tasks": tasks,
    "demo": demo,
}

HELP = """usage: ezm COMMAND [OPTIONS]

EfficientZero-Multitask: one model-based agent learns many control tasks.

  ezm demo          train one agent on four cartpole tasks, in minutes, and show what it learned
  ezm train SUITE   train an agent; --resume RUN goes on with a stopped run
  ezm eval RUN      evaluate a trained agent: mean return and 95 % interval of every task
  ezm report RUN    write a run's report, one HTML page
  ezm profile SUITE where the time of a run goes, as a table and a picture
  ezm tasks         list suites and tasks
  ezm --version

ezm COMMAND --help explains its options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(HELP)
        return 0
    if command == "--version":
        print(f"ezm {ezm.__version__}")
        return 0
    try:
        if command not in COMMANDS:
            raise UserError(
                f"unknown command {command!r}{nearest(command, COMMANDS)}; `ezm --help` lists them"
            )
        return COMMANDS[command](rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # e.g. `ezm tasks | head`
        sys.stderr.close()
        return 1


# -- options of ezm train ----------------------------------------------------------------------


def _options(kind: type[OptionsT], config: TrainConfig, **others: Any) -> OptionsT:
    return kind(**{**vars(config), **others})


def _config(options: Options) -> TrainConfig:
    return TrainConfig(
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig)}
    )


def _refuse_contradiction(config: TrainConfig, options: Options) -> None:
    """Only the numbers of steps, which only grow, and of devices may change when a run goes on.

    Raises:
        UserError: naming the first option that differs from the run's.
    """
    if options.steps < config.steps:
        raise UserError(
            f"--steps {options.steps} contradicts --resume: the run has {config.steps}, and steps "
            "can only grow"
        )
    ours, theirs = _flat(to_dict(_config(options))), _flat(to_dict(config))
    for name, value in ours.items():
        if name not in ("steps", "devices") and value != theirs[name]:
            option = "suite" if name == "suite" else f"--{name}"
            raise UserError(
                f"{option} {value} contradicts --resume: the run was started with {theirs[name]}; "
                "leave it out or start a new run"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        name = prefix + name.replace("_", "-")
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


# -- what is shown -----------------------------------------------------------------------------


@contextlib.contextmanager
def _interruptible(path: Path) -> Iterator[None]:
    """Say how to go on where Ctrl-C ends the run at once."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped(path)) from None


def _stopped(path: Path) -> str:
    if not (path / "config.json").exists():
        return "stopped"
    return f"stopped; go on with: ezm train --resume {shlex.quote(str(path))}"


def _finish(path: Path, finished: bool) -> int:
    """Results and report of a run; or, where it was stopped, how to go on."""
    if not finished:
        raise KeyboardInterrupt(_stopped(path))
    page = write_report(path)
    print_results(path)
    print(f"report: {page}")
    return 0
