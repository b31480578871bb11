"""The short commands: ``ezm report``, ``tasks``, ``doctor``, ``convert`` and ``completion``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ezm import platform
from ezm.cli.options import Flag, Run
from ezm.cli.terminal import print_findings, print_table
from ezm.errors import UserError


@dataclass(frozen=True)
class Report:
    """Write a run's report, one self-contained HTML page, and print its path.

    Several runs give one page that compares them. Runs that differ only in their seed are drawn as one curve with a
    band.

    Examples:
      ezm report runs/RUN
      ezm report runs/A-s0 runs/A-s1 runs/B-s0 runs/B-s1 --out page.html
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
    """The folders of one run or more."""
    out: Path | None = None
    """The page to write. None: report.html in the run's folder, or comparison.html in this folder."""

    def __call__(self) -> None:
        if not self.runs:
            raise UserError(
                "Missing from ezm report: RUN; name the folder of a run, such as runs/NAME"
            )
        from ezm.report.report import write_report

        print(write_report(self.runs, self.out))


@dataclass(frozen=True)
class Tasks:
    """List the tasks of the named suites, or of the given suites and tasks.

    Columns: sizes of observation and action, the suite's own simulator steps for each action, and agent steps of an
    episode. The preset cpu repeats a humanoid's action 4 times.

    Examples:
      ezm tasks                          the named suites
      ezm tasks dmc                      all of dm_control
      ezm tasks h1-walk gym:Pendulum-v1
      ezm tasks my_tasks:make            your own task
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="NAMES", help_behavior_hint="(default: the named suites)"),
    ] = ()
    """Suites or tasks as for `ezm train`. dmc: everything in dm_control. hb: everything in HumanoidBench."""

    def __call__(self) -> None:
        from ezm.tasks import SUITES, listing
        from ezm.tasks.sources import REGISTRY, forms, split

        rows = listing(*self.names)
        notes = []
        if not self.names:
            notes.append(f"also: {forms()}, and lists of them; `ezm tasks dmc` lists all of dmc's")
            for source in REGISTRY.values():
                if lack := source.lack():
                    own = [
                        n
                        for n, tasks in SUITES.items()
                        if any(split(t)[0] is source for t in tasks)
                    ]
                    without = ", ".join(own) or source.title
                    notes.append(f"without {without}: {lack}; run: {source.install}")
        print_table(
            ("suite", "task", "obs", "act", "repeat", "steps", "source"),
            [["-" if value is None else str(value) for value in row] for row in rows],
            "\n".join(notes),
        )


@dataclass(frozen=True)
class Doctor:
    """Say whether this machine can train and draw, and how to fix what is wrong.

    Checks: Python, required packages, JAX and the GPU, settings of the environment, MuJoCo, libraries that draw
    pictures. Nothing is changed.

    ok: as it should be. note: something optional is missing or has no effect. warning: something works less well.
    problem: the machine cannot train. A problem gives exit code 1, otherwise the exit code is 0.

    Examples:
      ezm doctor
      ezm doctor --json    for a program to read
    """

    json: Flag = False
    """Print one JSON object instead of lines."""

    def __call__(self) -> int:
        from ezm.cli.doctor import can_train, examine

        findings = examine()
        able = can_train(findings)
        if self.json:
            rows = [dataclasses.asdict(finding) for finding in findings]
            print(json.dumps({"can_train": able, "findings": rows}, indent=2))
        else:
            print_findings(findings, able)
        return 0 if able else 1


@dataclass(frozen=True)
class Convert:
    """Convert a run that an older ezm wrote, so that it can be evaluated, filmed and reported.

    Options get their present names. The oldest runs have checkpoints in another format. The command keeps the model
    and the statistics of the newest of them and not the replay, so such a run cannot be trained further. Only that
    needs the extra `convert`.

    Examples:
      ezm convert runs/RUN
    """

    run: Run
    """The run's folder."""

    def __call__(self) -> None:
        platform.prepare_jax("cpu")
        from ezm.acting import conversion

        step = conversion.convert(self.run)
        kept = "no checkpoint" if step is None else f"the agent at step {step:,}"
        print(f"{self.run} has today's format, with {kept}")


@dataclass(frozen=True)
class Completion:
    """Print the script that completes `ezm` in a shell: commands, options and their values.

    The completion starts python3 at each Tab.

    Examples:
      eval "$(ezm completion bash)"                  in ~/.bashrc
      eval "$(ezm completion zsh)"                   in ~/.zshrc, below compinit
      ezm completion fish > ~/.config/fish/completions/ezm.fish
    """

    shell: Annotated[
        tyro.conf.Positional[Literal["bash", "zsh", "fish"]], tyro.conf.arg(metavar="SHELL")
    ]
    """bash, zsh or fish."""

    def __call__(self) -> None:
        from ezm.cli.main import COMMANDS

        script = io.StringIO()
        wanted = ["--tyro-print-completion", self.shell]
        with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
            tyro.extras.subcommand_cli_from_dict({**COMMANDS}, prog="ezm", args=wanted)
        # Without -o default bash would complete no folder of a run.
        print(script.getvalue().replace("complete -F", "complete -o default -F"))
