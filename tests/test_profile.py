"""Where the time of a run goes: the timer, and `ezm profile` on a tiny run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ezm.cli
import ezm.platform
from ezm.config import to_dict
from ezm.config.presets import PRESETS
from ezm.runs.folder import RunFolder
from ezm.training import trainer
from ezm.training.timer import Taken, Timer

TINY = [
    "--evaluation-episodes",
    "1",
    "--planner.simulations",
    "4",
    "--planner.root-actions",
    "4",
    "--planner.policy-actions",
    "2",
    "--planner.leaf-rollout",
    "0",
    "--model.latent-size",
    "16",
    "--optimizer.batch-size",
    "8",
    "--loss.unroll",
    "2",
    "--loss.n-step",
    "2",
    "--loss.path-weight",
    "0",
    "--updates-per-step",
    "1",
    "--action-repeat",
    "50",
    "--replay.alpha",
    "1",
    "--optimizer.schedule-steps",  # the same programs, whatever the number of steps
    "1000",
]
SECTIONS = {
    "environments",
    "search",
    "replay",
    "waiting for targets",
    "starting updates",
    "waiting for updates",
    "metrics",
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ezm.platform, "prepare_jax", lambda device: None)
    monkeypatch.setattr(ezm.platform, "has_gpu", lambda: False)


class Clock:
    """Seconds that pass only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sections_add_up_to_all_the_time() -> None:
    clock = Clock()
    timer = Timer(clock)
    clock.now += 1.0
    for seconds in (2.0, 0.5):
        with timer.section("search"):
            clock.now += seconds
    clock.now += 4.0
    assert timer.taken() == {"rest": Taken(5.0, 0), "search": Taken(2.5, 2)}


def test_a_section_interrupts_the_one_around_it_and_ends_with_an_error() -> None:
    clock = Clock()
    timer = Timer(clock)
    with pytest.raises(ValueError, match="failed"), timer.section("replay"):
        clock.now += 1.0
        with timer.section("metrics"):
            clock.now += 2.0
        with timer.section("replay"):
            clock.now += 4.0
        raise ValueError("failed")
    clock.now += 8.0
    assert timer.taken() == {
        "rest": Taken(8.0, 0),
        "replay": Taken(5.0, 2),
        "metrics": Taken(2.0, 1),
    }


def test_what_was_taken_since_includes_the_section_that_runs() -> None:
    clock = Clock()
    timer = Timer(clock)
    with timer.section("search"):
        clock.now += 1.0
        before = timer.taken()
        clock.now += 2.0
        assert timer.taken(before) == {"rest": Taken(0.0, 0), "search": Taken(2.0, 0)}
        assert timer.taken(timer.taken())["search"] == Taken(0.0, 0)
    with timer.section("replay"):
        clock.now += 4.0
    assert timer.taken(before)["replay"] == Taken(4.0, 1)


@pytest.fixture
def short_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Losses are logged, and statistics reanalysed, often enough for a second of training."""
    monkeypatch.setattr(trainer, "_LOG_EVERY", 2)
    yield


def test_a_profile_of_a_tiny_run(
    tmp_path: Path, short_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["dmc:cartpole-balance", *TINY, "--seconds", "2", "--out", "profile"]
    options += ["--trace", "trace"]
    assert ezm.cli.main(["profile", *options]) == 0
    printed = capsys.readouterr().out
    # The temporary folders are gone.
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["profile.json"]
    assert [path.name for path in (tmp_path / "trace").iterdir()] == ["plugins"]
    assert list((tmp_path / "trace").rglob("*.trace.json.gz"))

    found = json.loads((tmp_path / "profile" / "profile.json").read_text())
    sections = found["sections"]
    assert set(sections) == {*SECTIONS, "compiling", "rest"}
    assert all(sections[name]["calls"] > 0 < sections[name]["seconds"] for name in SECTIONS)
    assert sections["compiling"] == {"seconds": 0.0, "calls": 0}, "it came before"
    assert sum(each["seconds"] for each in sections.values()) == pytest.approx(found["seconds"])
    assert found["seconds"] >= 2
    # Little is left out.
    assert 0 < sections["rest"]["seconds"] < found["seconds"] / 2
    updates = sections["starting updates"]["calls"]  # one a step
    assert updates == sections["environments"]["calls"] == sections["waiting for targets"]["calls"]
    assert found["updates_per_s"] == pytest.approx(updates / found["seconds"])
    assert found["env_steps_per_s"] == pytest.approx(found["updates_per_s"])
    assert list(found["beside"]) == ["targets"] and found["beside"]["targets"]["calls"] > 0
    assert found["checkpoint"]["seconds"] > 0 and found["checkpoint_mib"] > 0
    assert found["evaluation"]["seconds"] > 0
    assert found["peak_memory_mib"] > 50
    # Evaluations take what part of the loop their number says.
    every, one = found["evaluation"]["every"], found["evaluation"]["seconds"]
    assert found["evaluation"]["share"] == pytest.approx(one * found["env_steps_per_s"] / every)

    longest = max(sections, key=lambda name: sections[name]["seconds"])
    assert found["bound"].startswith(f"{longest}: ")
    for expected in (*SECTIONS, "rest", "targets, beside it", f"bound by {found['bound']}"):
        assert expected in printed
    assert printed.splitlines()[-1] == "profile/profile.json"


def test_a_resumed_run_is_profiled_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["dmc:cartpole-balance", *TINY, "--random-steps", "5", "--final-episodes", "1"]
    assert ezm.cli.main(["train", *options, "--steps", "20", "--out", "run"]) == 0

    def content() -> dict[str, bytes]:
        files = (tmp_path / "run").rglob("*")
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    before = content()
    assert ezm.cli.main(["profile", "--resume", "run", "--seconds", "0.2"]) == 0
    assert content() == before
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["suite"] == "dmc:cartpole-balance" and found["updates_per_s"] > 0
    assert "bound by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("cartpol", "unknown suite or task 'cartpol' (did you mean cartpole?)"),
        ("cartpole --seconds 0", "--seconds 0: must be finite and greater than 0"),
        ("cartpole --seconds nan", "--seconds nan: must be finite and greater than 0"),
        ("cartpole --seconds inf", "--seconds inf: must be finite and greater than 0"),
        ("cartpole --second 3", "unknown option --second (did you mean --seconds?)"),
        ("cartpole --model.latent-size 0", "--model.latent-size 0: must be greater than 0"),
        ("cartpole --out file/profile", "cannot write to file/profile"),
        ("cartpole --trace file/trace", "cannot write to file/trace"),
        ("--resume nothing", "nothing is not a run folder"),
        ("--resume begun", "begun has no checkpoint yet: train it further first"),
        ("walker --resume begun", "suite walker contradicts --resume"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    (tmp_path / "file").write_text("")
    RunFolder.create(tmp_path / "begun", to_dict(PRESETS["cpu"]))
    assert ezm.cli.main(["profile", *arguments.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], lines


def test_help_says_what_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ezm.cli.main(["profile", "cartpole", "--help"])
    shown = capsys.readouterr().out
    assert "ezm profile cartpole" in shown and "overlap" in shown and "--seconds" in shown
