"""Where dm_control is not installed: its tasks are refused in one line with the fix, everything else works."""

import sys

import pytest

import ezm.cli
from ezm.cli import doctor
from ezm.cli.doctor import Answer
from ezm.statistics.scores import score_matrix
from ezm.tasks import SUITES, load_suite
from ezm.tasks.sources import DM_CONTROL


@pytest.fixture(params=["dm_control", "dm_env", "lxml"])
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that importing and looking up do not find."""
    monkeypatch.setitem(sys.modules, request.param, None)
    return request.param


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("train cartpole", "task dmc:cartpole-balance"),
        ("train h1-stand,dmc:walker-walk", "task dmc:walker-walk"),
        ("train walker-walk", "unknown suite or task 'walker-walk'"),
        ("profile walker", "task dmc:walker-stand"),
        ("tasks dmc", "suite dmc"),
        ("demo", "task dmc:cartpole-balance"),
    ],
)
def test_its_tasks_are_refused_in_one_line(
    arguments: str,
    named: str,
    missing: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("runs"))
    monkeypatch.setattr("ezm.platform.prepare_jax", lambda device: None)
    assert ezm.cli.main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {named}")
    assert line.endswith(f"{missing} is not installed; run: {DM_CONTROL.install}")


def test_tasks_lists_the_others(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm.cli.main(["tasks"]) == 0
    printed = capsys.readouterr().out
    rows = printed.partition("also:")[0].splitlines()[1:]
    assert {row.split()[0] for row in rows} == {"h1", "h1hand"}
    assert f"without cartpole, walker, mixed: {missing} is not installed; run: pip" in printed


def test_other_tasks_are_built(missing: str) -> None:
    names = ("h1-stand", "Pendulum-v1")
    assert load_suite("h1-stand,gym:Pendulum-v1").task_names == names


def test_a_report_knows_the_scores_of_its_tasks(missing: str) -> None:
    returns = {source.removeprefix("dmc:"): [500.0] for source in SUITES["cartpole"]}
    assert score_matrix("cartpole", returns) == pytest.approx(0.5)


def test_doctor_finds_nothing_wrong(missing: str) -> None:
    assert "version" in doctor.PROBES["mujoco"]()
    (found,) = doctor.mujoco(Answer(None, "libmujoco.so: cannot open"))
    assert found.fix.endswith("--no-deps mujoco")
