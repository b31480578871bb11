"""Where dm_control is not installed: its tasks are refused in one line with the fix, everything else works."""

import sys

import pytest

import ezm.cli
from ezm import doctor, probes
from ezm.evaluation.scores import score_matrix
from ezm.tasks import SUITES, load_suite
from ezm.tasks.sources import INSTALL_DM_CONTROL


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
    assert line.endswith(f"{missing} is not installed; run: {INSTALL_DM_CONTROL}")


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


def test_doctor_finds_nothing_worse_than_a_note(missing: str) -> None:
    (found,) = [each for each in doctor.optional() if each.subject == "dm_control"]
    assert (found.status, found.fix) == ("note", INSTALL_DM_CONTROL)
    assert found.said.startswith(f"{missing} is not installed; for: suites cartpole, walker")
    assert doctor.can_train(list(doctor.packages()))
    assert "version" in probes.PROBES["mujoco"]()
    assert list(probes.PROBES["memory"]()) == ["cpu h1", "paper h1", "paper h1hand"]


@pytest.mark.parametrize("name", ["dm_control", "dm-control"])  # of pyproject.toml, of a wheel
def test_doctor_does_not_require_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(asked: str) -> str:
        if asked != "jax":
            raise doctor.metadata.PackageNotFoundError(asked)
        return doctor.tested_versions()["jax"]

    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: [f"{name}>=1.0.28", "jax>=0.5"])
    (found,) = doctor.packages()
    assert (found.status, found.said) == ("ok", "1 required packages, none newer than tested")
