"""Options to start or resume a run, which ``ezm train`` and ``ezm profile`` share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from ezm import platform
from ezm.cli.options import parse, value_of
from ezm.config import TrainConfig, from_dict, named_values
from ezm.config.presets import KINDS, PRESETS, defaults, kind_of
from ezm.errors import UserError
from ezm.platform import Device


@dataclass(frozen=True)
class Options(TrainConfig):
    """Options to start a run."""

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
    Without this option: paper if there is a GPU, otherwise cpu."""
    resume: Path | None = None
    device: Device = "auto"
    """Device to compute on. auto: a GPU if there is one."""


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_run(kind: type[OptionsT], command: str, arguments: Sequence[str]) -> OptionsT:
    """Parses the options of a new run, or of a resumed one, which keeps its options except for a few."""
    given = value_of("--resume", arguments)
    if given is None:
        return _parse_new_run(kind, command, arguments)
    from ezm.runs.folder import RunFolder

    config = from_dict(RunFolder.open(Path(given)).config)
    options: OptionsT = parse(kind, command, arguments, with_defaults(kind, config))
    _refuse_contradiction(config, options)
    return options


def _parse_new_run(kind: type[OptionsT], command: str, arguments: Sequence[str]) -> OptionsT:
    """Parses the options of a new run, with the defaults of its preset and suite."""
    preset = value_of("--preset", arguments) or ("paper" if platform.has_gpu() else "cpu")
    preset = preset if preset in PRESETS else "cpu"
    # A guess, so that --help shows the suite's own defaults. The parser's result decides.
    suite = next((word for word in arguments if kind_of(word) is not KINDS[-1]), "")
    while True:
        given = with_defaults(kind, defaults(preset, suite), suite=tyro.MISSING)
        options: OptionsT = parse(kind, command, arguments, given)
        if defaults(preset, suite) == defaults(preset, options.suite):
            return options
        suite = options.suite


def with_defaults(kind: type[OptionsT], config: TrainConfig, **others: Any) -> OptionsT:
    """Returns a command's options with the values of a configuration, and with ``others``."""
    return kind(**{**vars(config), **others})


def config_of(options: Options) -> TrainConfig:
    """Returns the configuration without the command's other options."""
    return TrainConfig(
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig)}
    )


def _refuse_contradiction(config: TrainConfig, options: Options) -> None:
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
