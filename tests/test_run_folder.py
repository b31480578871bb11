"""Run folders: layout, configuration and locking."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ezm.config import from_dict
from ezm.errors import UserError
from ezm.runs import checkpoints
from ezm.runs.folder import FORMAT, RunFolder, new_run_path, write_atomically

CONFIG = {"suite": "cartpole", "model": {"latent_size": 64}, "value_range": None}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "one", CONFIG)


def test_created_run_opens_with_its_config(run: RunFolder) -> None:
    assert RunFolder.open(run.path).config == CONFIG
    assert run.metrics_path == run.path / "metrics.jsonl"
    assert run.report_path.parent == run.tensorboard_path.parent == run.path
    assert run.checkpoints_path.is_dir()


def test_the_agent_in_the_repository_opens() -> None:
    agent = RunFolder.open(Path(__file__).parents[1] / "agents" / "h1-stand")
    assert from_dict(agent.config).suite == "h1-stand"


def test_default_names_are_file_names_and_never_clash(tmp_path: Path) -> None:
    first = new_run_path(tmp_path, "dmc:walker-walk,cheetah-run", "cpu", 3)
    second = new_run_path(tmp_path, "dmc:walker-walk,cheetah-run", "cpu", 3)
    assert first.name.startswith("dmc-walker-walk-cheetah-run-cpu-s3-20")
    assert first != second and first.parent == second.parent == tmp_path
    assert first.is_dir() and second.is_dir()
    assert new_run_path(tmp_path, "../..", "cpu", 0).parent == tmp_path


def test_a_default_name_in_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="cannot write to .*runs"):
        new_run_path(tmp_path / "runs", "cartpole", "cpu", 0)


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


def test_open_tells_how_to_convert_an_older_format(tmp_path: Path) -> None:
    path = tmp_path / "my run"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"format": FORMAT - 1, "config": CONFIG}))
    with pytest.raises(UserError) as caught:
        RunFolder.open(path)
    assert str(caught.value) == (
        f"{path} was written by an older ezm: convert it with `ezm convert '{path}'`"
    )


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(UserError, match="cannot write to"):
        write_atomically(tmp_path / "nowhere" / "a", "text")


def test_a_lock_names_its_holder_and_ends_with_it(run: RunFolder) -> None:
    script = (
        "import sys, time; from pathlib import Path; from ezm.runs.folder import RunFolder\n"
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


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_place_without_locks_is_said_and_used(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with run.lock():
        assert (run.path / "lock").read_text() == f"{os.getpid()}\n"
    assert caplog.messages == [
        f"{run.path} cannot be locked ({os.strerror(code)}): let no other process train there"
    ]


@pytest.mark.parametrize("name", ["gr\udcc3\udcb6\udcc3\udc9fe", "lone\ud800"])
def test_a_name_that_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path, name: str
) -> None:
    """What an ASCII locale makes of letters, and bytes that are no letters in any."""
    for opened in (lambda path: RunFolder.create(path, CONFIG), RunFolder.open):
        with pytest.raises(UserError, match=r"letters that this locale cannot write: set LC_ALL"):
            opened(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_current_folder_that_is_gone(tmp_path: Path, gone: None) -> None:
    """Whole paths go on working."""
    path = tmp_path / "run"
    RunFolder.create(path, CONFIG)
    assert RunFolder.open(path).config == CONFIG
    for opened in (lambda path: RunFolder.create(path, CONFIG), RunFolder.open):
        with pytest.raises(UserError, match="other begins in the current folder, which is gone"):
            opened(Path("other"))


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    yield
    os.chdir(tmp_path)


def test_what_may_not_be_read_is_named(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (run.checkpoints_path / "000000060").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "read_manifest", refused)
        with pytest.raises(UserError, match="000000060 cannot be read .Permission denied.: check"):
            run.latest_checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refused)
        with pytest.raises(
            UserError, match="checkpoints cannot be read .Permission denied.: check"
        ):
            run.checkpoint_steps()
    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(UserError, match="config.json cannot be read .Permission denied.: check"):
        RunFolder.open(run.path)
