"""Run folders: layout, locking, and checkpoints that survive damage."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ezm.errors import UserError
from ezm.training.run_folder import FORMAT, RunFolder, default_run_path, write_atomically

CONFIG = {"suite": "cartpole", "model": {"latent_size": 64}, "value_range": None}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "one", CONFIG)


def test_created_run_opens_with_its_config(run: RunFolder) -> None:
    assert RunFolder.open(run.path).config == CONFIG
    assert run.metrics_path == run.path / "metrics.jsonl"
    assert run.report_path.parent == run.tensorboard_path.parent == run.path
    assert run.checkpoints_path.is_dir()


def test_default_names_are_file_names_and_never_clash(tmp_path: Path) -> None:
    first = default_run_path(tmp_path, "dmc:walker-walk,cheetah-run", "cpu", 3)
    first.mkdir()
    second = default_run_path(tmp_path, "dmc:walker-walk,cheetah-run", "cpu", 3)
    assert first.name.startswith("dmc-walker-walk-cheetah-run-cpu-s3-20")
    assert first != second and first.parent == second.parent == tmp_path
    assert default_run_path(tmp_path, "../..", "cpu", 0).parent == tmp_path


def test_create_refuses_what_is_there(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a run already.*--resume"):
        RunFolder.create(run.path, CONFIG)
    with pytest.raises(UserError, match="is not empty"):
        RunFolder.create(run.path.parent, CONFIG)
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "below"):
        with pytest.raises(UserError, match=f"cannot write to {place} .*choose another folder"):
            RunFolder.create(place, CONFIG)
    assert file.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_create_refuses_a_read_only_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        RunFolder.create(tmp_path / "run", CONFIG)


def test_open_refuses_what_is_not_a_run(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing is not a run folder, it does not exist"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no config.json"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"format": 1, "con', "[]", "{}", '{"format": "x", "config": {}}']
)
def test_open_refuses_a_damaged_config(run: RunFolder, text: str) -> None:
    (run.path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json is damaged"):
        RunFolder.open(run.path)


def test_open_refuses_a_newer_format(run: RunFolder) -> None:
    text = json.dumps({"format": FORMAT + 1, "config": CONFIG})
    (run.path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"run format {FORMAT + 1}.*update ezm"):
        RunFolder.open(run.path)


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(UserError, match="cannot write to"):
        write_atomically(tmp_path / "nowhere" / "a", "text")


def test_a_lock_names_its_holder_and_ends_with_it(run: RunFolder) -> None:
    script = (
        "import sys, time; from pathlib import Path; from ezm.training.run_folder import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).lock():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"), run.lock():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with run.lock():
        assert (run.path / "lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(UserError, match=str(os.getpid())), RunFolder.open(run.path).lock():
            pass
    with run.lock():
        pass


def some_arrays(value: int) -> dict:
    return {
        "parameters": {"dense/0": {"w": np.full((3, 4), value, np.float32), "none": {}}},
        "optimizer": [np.array(value, np.int32), {"mu": np.arange(5.0)}],
        "replay": {"done": np.array([True, False]), "count": np.array(2**40 + value)},
        "key": np.array([1, 2**32 - 1], np.uint32),
    }


def assert_same(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert isinstance(b, list) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_checkpoints_come_back_exactly_and_the_last_two_stay(run: RunFolder) -> None:
    assert run.latest_checkpoint() is None
    for step in (0, 500, 1000, 12_000):
        run.save_checkpoint(step, some_arrays(step), {"updates": 2 * step, "rng": [1, "x"]})
    assert run.checkpoint_steps() == [1000, 12_000]
    found = RunFolder.open(run.path).latest_checkpoint()
    assert found is not None and found.step == 12_000
    assert found.meta == {"updates": 24_000, "rng": [1, "x"]}
    assert_same(found.arrays, some_arrays(12_000))


def test_jax_arrays_restore_as_numpy(run: RunFolder) -> None:
    import jax.numpy as jnp

    run.save_checkpoint(1, {"a": jnp.arange(3), "b": np.float32(2), "c": 3}, {})
    found = run.latest_checkpoint()
    assert found is not None
    expected = {"a": np.arange(3, dtype=np.int32), "b": np.array(2, np.float32), "c": np.array(3)}
    assert_same(found.arrays, expected)


def damage_nothing_written(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def damage_truncated(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def damage_array_lost(path: Path) -> None:
    for file in (path / "arrays").rglob("d/*"):
        file.unlink()


def damage_meta_lost(path: Path) -> None:
    shutil.rmtree(path / "meta")


# Orbax's own reader threads complain when an array's file is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage", [damage_nothing_written, damage_truncated, damage_array_lost, damage_meta_lost]
)
def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(run: RunFolder, damage) -> None:
    run.save_checkpoint(1, some_arrays(1), {"n": 1})
    run.save_checkpoint(2, some_arrays(2), {"n": 2})
    damage(run.checkpoints_path / "000000002")
    with pytest.warns(UserWarning, match="000000002 is broken"):
        found = run.latest_checkpoint()
    assert found is not None and (found.step, found.meta) == (1, {"n": 1})
    assert_same(found.arrays, some_arrays(1))

    damage(run.checkpoints_path / "000000001")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no checkpoint can be read"):
        run.latest_checkpoint()


def test_going_on_from_an_earlier_checkpoint_replaces_the_later_ones(run: RunFolder) -> None:
    for step in (10, 20):
        run.save_checkpoint(step, some_arrays(step), {})
    damage_truncated(run.checkpoints_path / "000000020")
    (run.checkpoints_path / "000000030.orbax-checkpoint-tmp").mkdir()
    run.save_checkpoint(15, some_arrays(15), {})
    assert sorted(p.name for p in run.checkpoints_path.iterdir()) == ["000000010", "000000015"]
    run.save_checkpoint(15, some_arrays(16), {})
    found = run.latest_checkpoint()
    assert found is not None and found.step == 15
    assert_same(found.arrays, some_arrays(16))
