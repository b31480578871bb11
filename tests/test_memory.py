"""What a run says about memory, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import pytest

import ezm.cli
from ezm import platform
from ezm.config import ReplayConfig
from ezm.config.presets import PRESETS
from ezm.errors import UserError
from ezm.experience import Replay, RowSizes
from ezm.tasks import Suite, TaskSpec
from ezm.training import memory, trainer
from ezm.training.memory import Memory, check_that_it_fits, memory_of, replay_rows


@pytest.mark.parametrize("root_actions", [1, 16])
def test_a_row_is_what_the_replay_takes(root_actions: int) -> None:
    rows = 10_000
    replay = Replay(3, 51, 19, ReplayConfig(capacity=rows), 10, 6, root_actions)
    row = Replay.bytes_per_row(RowSizes(51, 19, root_actions))
    assert replay.nbytes == pytest.approx(3 * rows * sum(row), rel=0.01)


def test_the_published_replay_known_value() -> None:
    """14 tasks of 1M rows: observations 177, actions 61 twice, once in half precision, and 44 bytes more."""
    places, content = Replay.bytes_per_row(RowSizes(177, 61, 1))
    assert content == 4 * 177 + 4 * 61 + 2 * 61 + 14
    assert (row := places + content) == pytest.approx(4 * 177 + 4 * 61 + 2 * 61 + 44, abs=2)
    assert memory.size(14 * 1_000_000 * row) == "14.6 GiB"


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 9 * 2**30)
    run = Memory(process=2**30, programs=2**30, replay=16 * 2**30, agent=0)
    with pytest.raises(
        UserError,
        match=r"needs 17.0 GiB more memory, 16.0 GiB of it for 14 replays of 1,000,000 rows, and 9.0 GiB are "
        r"free: --replay.capacity 500000 would do",
    ):
        check_that_it_fits(run, 1_000_000, 14)
    check_that_it_fits(run._replace(replay=8 * 2**30), 500_000, 14)
    with pytest.raises(UserError, match="a larger machine or a smaller model"):
        check_that_it_fits(run._replace(agent=10 * 2**30), 1_000_000, 14)


class Device:
    """Stands for an accelerator with 10 GiB, of which JAX has taken one."""

    def __init__(self, **stats: int) -> None:
        self._stats = stats or {"bytes_limit": 10 * 2**30, "bytes_in_use": 2**30}

    def memory_stats(self) -> dict[str, int]:
        return self._stats


def test_rows_that_do_not_fit_on_the_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 100 * 2**30)
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    run = Memory(process=0, programs=0, replay=2**30, agent=2**30, on_device=16 * 2**30)
    with pytest.raises(
        UserError,
        match=r"^--replay.device: the run needs 17.0 GiB on the device, 16.0 GiB of it for 14 replays of "
        r"1,000,000 rows, and 9.0 GiB are free there: --replay.capacity 500000 would do, or leave "
        r"--replay.device out$",
    ):
        check_that_it_fits(run, 1_000_000, 14)
    check_that_it_fits(run._replace(on_device=8 * 2**30), 500_000, 14)
    with pytest.raises(UserError, match="free there: leave --replay.device out"):
        check_that_it_fits(run._replace(agent=10 * 2**30), 1_000_000, 14)
    monkeypatch.setattr(jax, "devices", lambda: [Device(bytes_in_use=1)])  # says no limit
    check_that_it_fits(run, 1_000_000, 14)


def test_rows_on_a_device_of_its_own_memory_are_no_part_of_the_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "resident", lambda: 0)
    config = replace(PRESETS["paper"], replay=replace(PRESETS["paper"].replay, device=True))
    suite = Suite("one", (TaskSpec("one", "test:one", 177, 61, 1, 1_000, (0.0, 1.0), "one"),))
    there = memory_of(config, suite, 1_000)  # JAX computes on the CPU
    assert there.on_device == 0
    assert there == memory_of(replace(config, replay=ReplayConfig()), suite, 1_000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    apart = memory_of(config, suite, 1_000)
    rows = replay_rows(config, suite)
    assert apart.on_device == rows * RowSizes(177, 61, 1).nbytes
    assert apart.replay == there.replay - apart.on_device
    assert apart.total == there.total - apart.on_device
    assert str(apart).endswith(f"; on the device: replay {memory.size(apart.on_device)}")


def test_a_run_that_the_device_cannot_hold_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "has_own_memory", lambda: True)
    monkeypatch.setattr(memory, "available_on_device", lambda: 5 * 2**19)
    monkeypatch.setattr(platform, "prepare_jax", lambda device: None)
    monkeypatch.setattr(trainer.Trainer, "train", lambda run: pytest.fail("not refused"))
    command = ["train", "cartpole", "--preset=cpu", "--device=cpu", "--replay.device"]
    assert ezm.cli.main([*command, f"--out={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "replays of 3,026 rows, and 2.5 MiB are free there: --replay" in said
    )
    assert not (tmp_path / "run").exists()
    monkeypatch.chdir(tmp_path)
    assert ezm.cli.main(command) == 2
    assert not list(tmp_path.iterdir())


def test_a_systems_without_figures_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: None)
    check_that_it_fits(Memory(0, 0, 2**60, 0), 1, 1)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert memory._control_group(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._control_group(tmp_path) is None
    assert memory._control_group(tmp_path / "none") is None


def test_the_announcement() -> None:
    said = str(Memory(process=500 * 2**20, programs=2**30, replay=3 * 2**29, agent=2**20))
    assert said == (
        "memory: about 3.0 GiB (process 500 MiB, programs 1.0 GiB, replay 1.5 GiB, agent 1 MiB)"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 MiB"), (345_678, "0.33 MiB"), (87 * 2**20, "87 MiB"), (1000 * 2**20, "1000 MiB")],
)
def test_sizes_known_values(count: int, text: str) -> None:
    assert memory.size(count) == text
