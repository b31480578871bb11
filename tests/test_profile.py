"""Where the time of a run goes: the stopwatch, and `ezm profile` on a tiny run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import ezm.cli
import ezm.platform
from ezm.config import to_dict
from ezm.config.presets import PRESETS
from ezm.runs.folder import RunFolder
from ezm.training import trainer
from ezm.training.profile import Occasion, Pace, Part, Profile, Stopwatch

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
    "--loss.no-path-consistency",
    "--updates-per-step",
    "1",
    "--action-repeat",
    "50",
    "--replay.alpha",
    "1",
]
PARTS = {
    "environments",
    "acting (search)",
    "sampling",
    "waiting for targets",
    "gradient step",
    "reading the loss",
    "storing searches",
    "priorities",
    "replay writes",
    "observation statistics",
    "metrics",
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ezm.platform, "prepare_jax", lambda device: None)
    monkeypatch.setattr(ezm.platform, "has_gpu", lambda: False)


class Owner:
    """What can be watched."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def wait(self, seconds: float, *, result: str = "done") -> str:
        self._clock[0] += seconds
        return result

    def fail(self) -> None:
        raise ValueError("failed")


def test_the_stopwatch_adds_up_what_the_clock_says() -> None:
    clock = [0.0]
    owner, other = Owner(clock), Owner(clock)
    watch = Stopwatch(lambda: clock[0])
    watch.watch("waiting", owner, "wait")
    watch.watch("failing", owner, "fail")
    assert watch.parts == {}
    assert owner.wait(2.0) == "done"
    assert owner.wait(0.5, result="again") == "again"
    other.wait(7.0)  # another object, which is not watched
    assert watch.parts == {"waiting": Part(2.5, 2)}
    with pytest.raises(ValueError, match="failed"):
        owner.fail()
    assert set(watch.parts) == {"waiting"}


def test_two_methods_can_be_one_part() -> None:
    clock = [0.0]
    owner, other = Owner(clock), Owner(clock)
    watch = Stopwatch(lambda: clock[0])
    for each in (owner, other):
        watch.watch("both", each, "wait")
    owner.wait(1.0)
    other.wait(2.0)
    assert watch.parts == {"both": Part(3.0, 2)}


def test_the_stopwatch_waits_for_what_jax_has_under_way() -> None:
    class Program:
        @staticmethod
        def run(x: jax.Array) -> dict[str, jax.Array]:
            def slow(x: jax.Array) -> jax.Array:
                time.sleep(0.2)
                return x

            return {"x": jax.pure_callback(slow, x, x)}

    program, x = Program(), jnp.ones(3)
    setattr(program, "run", jax.jit(program.run))  # noqa: B010 - an attribute that mypy need not know
    program.run(x)
    watch = Stopwatch()
    watch.watch("run", program, "run")
    program.run(x)
    assert watch.parts["run"].seconds >= 0.2


def example(**seconds: float) -> Profile:
    parts = {name.replace("_", " "): Part(value, 4) for name, value in seconds.items()}
    return Profile(
        "cartpole",
        "cpu",
        pace=Pace(10.0, 400, 200),
        timed=Pace(10.0, 300, 150),
        parts=parts,
        beside={"targets": Part(6.0, 4)},
        evaluation=Occasion(3.0, 500, 0.1),
        checkpoint=Occasion(1.0, 1_000, 0.02, mib=4.0),
        peak_memory_mib=900.0,
    )


def test_rates_and_what_is_unattributed_known_values() -> None:
    found = example(gradient_step=7.0, sampling=2.0)
    assert (found.pace.env_steps_per_s, found.pace.updates_per_s) == (40.0, 20.0)
    assert found.unattributed == 1.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({"gradient_step": 7.0, "sampling": 2.0}, "the learner: 70% of the time"),
        ({"gradient_step": 2.0, "waiting_for_targets": 6.0}, "the targets: 60% of the time"),
        ({"environments": 5.0, "sampling": 2.0}, "the environments: 50% of the time"),
        ({"gradient_step": 1.0, "sampling": 4.0}, "sampling: 40% of the time"),
    ],
)
def test_the_longest_part_bounds_the_run(seconds: dict[str, float], said: str) -> None:
    assert example(**seconds).bound.startswith(said)


@pytest.fixture
def short_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Losses are logged, and statistics renewed, often enough for a second of training."""
    monkeypatch.setattr(trainer, "_LOG_EVERY", 2)
    yield


def test_a_profile_of_a_tiny_run(
    tmp_path: Path, short_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["dmc:cartpole-balance", *TINY, "--seconds", "2", "--out", "profile"]
    assert ezm.cli.main(["profile", *options]) == 0
    printed = capsys.readouterr().out
    # The temporary folder is gone.
    assert {path.name for path in (tmp_path / "profile").iterdir()} == {
        "profile.json",
        "profile.png",
    }
    assert (tmp_path / "profile" / "profile.png").read_bytes().startswith(b"\x89PNG")

    found = json.loads((tmp_path / "profile" / "profile.json").read_text())
    parts = found["parts"]
    assert set(parts) == PARTS
    assert all(part["calls"] > 0 and part["seconds"] > 0 for part in parts.values())
    summed = sum(part["seconds"] for part in parts.values()) + found["unattributed"]
    assert summed == pytest.approx(found["timed"]["seconds"])
    # Parts do not lie within each other, and little is left out.
    assert 0 < found["unattributed"] < found["timed"]["seconds"] / 2
    updates = found["timed"]["updates"]
    assert parts["gradient step"]["calls"] == parts["sampling"]["calls"] == updates
    assert parts["environments"]["calls"] == found["timed"]["env_steps"]
    assert found["beside"]["targets"]["calls"] > 0
    assert found["timed"]["seconds"] >= 1 <= found["pace"]["seconds"]
    assert found["checkpoint"]["seconds"] > 0 and found["checkpoint"]["mib"] > 0
    assert found["evaluation"]["seconds"] > 0
    assert found["peak_memory_mib"] > 50
    # Evaluations take what part of the loop their number says.
    every, one = found["evaluation"]["every"], found["evaluation"]["seconds"]
    assert found["evaluation"]["share"] == pytest.approx(one * found["env_steps_per_s"] / every)

    for expected in (*PARTS, "unattributed", "targets, beside it", f"bound by {found['bound']}"):
        assert expected in printed
    assert printed.splitlines()[-2:] == ["profile/profile.json", "profile/profile.png"]


def test_a_resumed_run_is_profiled_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["dmc:cartpole-balance", *TINY, "--random-steps", "10", "--final-episodes", "1"]
    assert ezm.cli.main(["train", *options, "--steps", "20", "--out", "run"]) == 0

    def content() -> dict[str, bytes]:
        files = (tmp_path / "run").rglob("*")
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    before = content()
    assert ezm.cli.main(["profile", "--resume", "run", "--seconds", "0.2"]) == 0
    assert content() == before
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["suite"] == "dmc:cartpole-balance" and found["timed"]["updates"] >= 1
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


def test_help_says_what_waiting_takes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ezm.cli.main(["profile", "cartpole", "--help"])
    shown = capsys.readouterr().out
    assert "ezm profile cartpole" in shown and "overlap" in shown and "--seconds" in shown
