"""Command-line options from dataclasses, with one-line error messages and help that fits 80 columns.

A command's help comes from its dataclass: the docstring, then the fields with their docstrings, then the examples.
The examples stand in the docstring below a line ``Examples:``. A dataclass with many fields lists the fields that
``--help`` shows in a class variable ``FIRST``. ``--help-all`` shows all fields.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from ezm import platform
from ezm.config import TrainConfig, from_dict, named_values
from ezm.config.presets import KINDS, PRESETS, defaults, kind_of
from ezm.config.schema import NOT_NEGATIVE, Bound
from ezm.errors import UserError, nearest
from ezm.platform import Device

_HELP = ("-h", "--help", "--help-all")
_COLUMNS = 80

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


def parse(kind: type[Any], command: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Parses a command's arguments into its dataclass. If they ask for help, prints the help and ends the process.

    Raises:
        UserError: an unknown option, or an unsuitable value.
    """
    asked = set(arguments) & set(_HELP)
    if asked:
        _print_help(kind, command, default, everything="--help-all" in asked)
        raise SystemExit(0)
    known = [*_HELP, *spellings(kind)]
    everything = f"`ezm {command} --help{'-all' if hasattr(kind, 'FIRST') else ''}`"
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise UserError(f"unknown option {name}{nearest(name, known)}; {everything} lists them")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = tyro.cli(kind, prog=f"ezm {command}", args=arguments, default=default)
    except SystemExit:
        raise UserError(f"{_first_sentence(printed.getvalue())}; see {everything}") from None
    if not isinstance(options, TrainConfig):  # which is checked with its suite
        for name, value, marks in named_values(options):
            for mark in marks:
                if isinstance(mark, Bound) and value is not None and not mark.holds(value):
                    raise UserError(f"--{name} {value:g}: must {mark.rule}")
    return options


def spellings(kind: type[Any], prefix: str = "--") -> list[str]:
    """Returns all spellings of all options of a nested dataclass: ``--model.latent-size``, ``--model.no-latent-norm``."""
    found: list[str] = []
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        hint = typing.get_args(hint)[0] if marks else hint
        name = name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            found += spellings(typing.cast(type, hint), f"{prefix}{name}.")
        elif tyro.conf.Positional not in marks and typing.get_origin(hint) is not ClassVar:
            found.append(prefix + name)
            if hint is bool and tyro.conf.FlagCreatePairsOff not in marks:
                found.append(f"{prefix}no-{name}")
    return found


def _print_help(kind: type[Any], command: str, default: Any, *, everything: bool) -> None:
    """Prints the description, then usage and options as tyro frames them, then the examples."""
    description, _, examples = (inspect.getdoc(kind) or "").partition("\nExamples:\n")
    first = None if everything else getattr(kind, "FIRST", None)
    shown = kind if first is None else _showing(kind, first)
    for paragraph in description.strip().split("\n\n"):
        print(paragraph if "\n  " in paragraph else textwrap.fill(paragraph, _COLUMNS), end="\n\n")
    with contextlib.suppress(SystemExit):  # tyro would join the description's lines
        tyro.cli(shown, prog=f"ezm {command}", description="", args=["--help"], default=default)
    if first is not None:
        print(f"All other options, by group: ezm {command} --help-all\n")
    if examples:
        print(f"Examples:\n{examples.rstrip()}")


def _showing(kind: type[Any], first: Sequence[str]) -> type[Any]:
    """Returns the same dataclass, with help for the given fields only."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name not in first:
            hints[field.name] = Annotated[hints[field.name], tyro.conf.Suppress]
    fields = [(field.name, hints[field.name], field) for field in dataclasses.fields(kind)]
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)


def _first_sentence(box: str) -> str:
    """Extracts the error from the framed message that tyro prints.

    The frame's first line is a title. The error ends at a rule or an empty line.
    """
    lines = [line.strip("│╰╯ ") for line in box.splitlines()[1:]]
    ends = (i for i, line in enumerate(lines) if not line.strip("─"))
    end = next(ends, len(lines))
    if lines[:1] and lines[0].startswith("Missing from"):
        end = 2  # the name alone, without its explanation
    sentence = " ".join(lines[:end]).rstrip(".")
    return sentence.removeprefix("Error parsing ") or "the options will not do"


@dataclass(frozen=True)
class ActingOptions:
    """Options to act with a trained agent."""

    run: Run
    """The run's folder."""
    planner: Literal["search", "policy"] = "search"
    """Act on the search's best action, or on the policy's mean without search."""
    protocol: Literal["benchmark", "paper"] | None = None
    """For HumanoidBench's tasks. benchmark: a fall ends the episode. paper: the episode goes on.
    None: as in training."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the environments and of the search, independent of the training's seeds."""
    device: Device = "auto"
    """Device to compute on. auto: a GPU if there is one."""


# -- runs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunOptions(TrainConfig):
    """Options to start or resume a run."""

    FIRST: ClassVar[tuple[str, ...]] = (
        *("suite", "preset", "steps", "seed", "out", "resume", "device", "devices"),
        *("evaluate_every", "checkpoint_every", "action_repeat", "protocol"),
    )
    """The options that ``--help`` shows: enough for a newcomer."""

    suite: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUITE")] = "cartpole"
    """A suite (cartpole, walker, mixed, h1, h1hand) or tasks, separated by commas: h1-walk, dmc:walker-walk,
    gym:Pendulum-v1, my_module:make. `ezm tasks` lists them. Not needed with --resume."""
    preset: Literal["cpu", "paper"] = "cpu"
    """Source of all other defaults. cpu learns on two cores, paper has the published sizes.
    Without this option: paper if there is a GPU and --device is not cpu, otherwise cpu."""
    resume: Path | None = None
    device: Device = "auto"
    """Device to compute on. auto: a GPU if there is one."""


OptionsT = TypeVar("OptionsT", bound=RunOptions)


def parse_run(kind: type[OptionsT], command: str, arguments: Sequence[str]) -> OptionsT:
    """Parses the options of a new run, or of a resumed one, which keeps its options except for a few."""
    options: OptionsT
    if (resumed := _value_of("--resume", arguments)) is not None:
        from ezm.runs.folder import RunFolder

        config = from_dict(RunFolder.open(Path(resumed)).config)
        options = parse(kind, command, arguments, kind(**vars(config)))
        _refuse_contradiction(config, options)
        return options
    on_gpu = _value_of("--device", arguments) != "cpu" and platform.has_gpu()
    preset = _value_of("--preset", arguments) or ("paper" if on_gpu else "cpu")
    preset = preset if preset in PRESETS else "cpu"
    # A guess, so that --help shows the suite's own defaults. The parser's result decides.
    suite = next((word for word in arguments if kind_of(word) is not KINDS[-1]), "")
    while True:
        given = defaults(preset, suite)
        default = kind(**vars(given) | {"suite": tyro.MISSING})
        options = parse(kind, command, arguments, default)
        if given == defaults(preset, options.suite):
            return options
        suite = options.suite


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Returns the value of an option that decides the defaults of all others, before parsing."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, nargs="?", dest="value")
    return typing.cast(str | None, parser.parse_known_args(arguments)[0].value)


def config_of(options: RunOptions) -> TrainConfig:
    """Returns the configuration without the command's other options."""
    return TrainConfig(
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig)}
    )


def _refuse_contradiction(config: TrainConfig, options: RunOptions) -> None:
    """Refuses changes to a resumed run, except more steps, other devices and another place of the replay.

    Raises:
        UserError: names the first option that differs from the run's.
    """
    if options.steps < config.steps:
        raise UserError(
            f"--steps {options.steps} contradicts --resume: the run has {config.steps}, and steps "
            "can only grow"
        )
    theirs = {name: value for name, value, _ in named_values(config)}
    for name, value, _ in named_values(config_of(options)):
        if name not in ("steps", "devices", "replay.device") and value != theirs[name]:
            option = "suite" if name == "suite" else f"--{name}"
            raise UserError(
                f"{option} {value} contradicts --resume: the run was started with {theirs[name]}; "
                "leave it out or start a new run"
            )
