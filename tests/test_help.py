"""Help that fits a terminal, and tab completion in real shells."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

import ezm.cli
from ezm import platform
from ezm.cli.options import spellings
from ezm.cli.train import Train


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(platform, "has_gpu", lambda: False)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        ezm.cli.main(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


# -- options -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    size: int = 1
    on: bool = True


@dataclass(frozen=True)
class Outer:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    a_word: Literal["x", "y"] | None = None
    flag: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    inner: Inner = field(default_factory=Inner)


def test_spellings_known_values() -> None:
    assert spellings(Outer) == ["--a-word", "--flag", "--inner.size", "--inner.on", "--inner.no-on"]


# -- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ezm.cli.COMMANDS)
def test_help_fits_a_terminal_and_ends_in_examples(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = shown(capsys, command, "--help")
    assert f"usage: ezm {command}" in text
    assert max(map(len, text.splitlines())) <= 80
    examples = text.partition("\nExamples:\n")[2]
    assert f"ezm {command}" in examples


def test_help_of_the_whole_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm.cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"ezm {command} " in text for command in ezm.cli.COMMANDS)


def test_help_of_train_begins_with_what_one_needs(capsys: pytest.CaptureFixture[str]) -> None:
    first = shown(capsys, "train", "cartpole", "--help").partition("\nExamples:")[0]
    assert set(re.findall(r"^. (--[\w.-]+)", first, re.MULTILINE)) == {
        "--" + name.replace("_", "-") for name in Train.FIRST if name != "suite"
    }
    assert "ezm train --help-all" in first
    every = shown(capsys, "train", "cartpole", "--help-all")
    assert set(re.findall(r"(--[\w.-]+)[ ,]", every)) >= set(spellings(Train))
    assert max(map(len, every.splitlines())) <= 80


@pytest.mark.parametrize("command", ezm.cli.COMMANDS)
def test_every_option_is_explained(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = shown(capsys, command, "--help-all")
    lines = [line.strip("│| ") for line in text.splitlines()]
    # The default alone follows an option, on its line or the next.
    bare = [
        name
        for name, line in pairwise(lines)
        if re.match("--.*", name) and line.startswith("(default")
    ]
    assert not bare and not [line for line in lines if re.match(r"--\S+ \S+ +\(default", line)]


def test_what_help_shows_exists() -> None:
    for command in ezm.cli.COMMANDS.values():
        names = {each.name for each in fields(command)}
        assert set(getattr(command, "FIRST", ())) <= names


# -- tab completion ----------------------------------------------------------------------------


def script(capsys: pytest.CaptureFixture[str], shell: str) -> str:
    capsys.readouterr()
    assert ezm.cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


def run(shell: str, *arguments: str, text: str, cwd: Path) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run(
        [shell, *arguments], input=text, text=True, capture_output=True, check=False, cwd=cwd
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


TYPED: list[tuple[str, set[str], set[str]]] = [
    ("ezm ", {"train", "eval", "report", "completion"}, {"--preset"}),
    ("ezm tr", {"train"}, {"eval"}),
    ("ezm train cartpole --pre", {"--preset", "--precision"}, {"--steps"}),
    ("ezm train cartpole --preset ", {"cpu", "paper"}, {"cartpole"}),
    ("ezm train --model.no-", {"--model.no-task-embedding"}, {"--model.blocks"}),
    ("ezm train --loss.consistency m", {"mse"}, {"cosine"}),
    ("ezm eval run --device ", {"auto", "cpu", "gpu"}, {"run"}),
    ("ezm eval ru", set(), {"run", "--device"}),  # bash's own completion of folders takes over
]


@pytest.mark.parametrize(("line", "offered", "missing"), TYPED)
def test_bash_completes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    offered: set[str],
    missing: set[str],
) -> None:
    words = line.split(" ")
    text = script(capsys, "bash") + (
        f"\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\nCOMP_CWORD={len(words) - 1}\n"
        '_tyro_ezm\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    found = set(run("bash", "--norc", "-s", text=text, cwd=tmp_path))
    assert offered <= found and not missing & found


def test_bash_completes_folders_where_a_run_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(capsys, "bash") + "\ncomplete -p ezm\n"
    assert run("bash", "--norc", "-s", text=text, cwd=tmp_path) == [
        "complete -o default -F _tyro_ezm ezm"
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command_and_option(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    text = script(capsys, shell)
    assert all(command in text for command in ezm.cli.COMMANDS)
    assert all(f"'{spelling}'" in text for spelling in spellings(Train))
