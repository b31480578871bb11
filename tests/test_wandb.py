"""Weights & Biases: the same numbers, the same run after a resume, and no training that stops for it."""

from __future__ import annotations

import json
import struct
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger, read_metrics, scalars
from ezm.runs.wandb import WandbMirror


@pytest.fixture(autouse=True)
def own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROJECT", "NAME", "ENTITY", "MODE", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"suite": "pair"})


class Session:
    """What wandb.init gives."""

    def __init__(self, options: dict[str, Any], step: int) -> None:
        self.id, self.project = options["id"], options["project"]
        self.entity = options["entity"] or "someone"
        self.url = None if options["mode"] == "offline" else "https://wandb.example/run"
        self.step = step
        self.rows: list[tuple[dict[str, float], int]] = []
        self.finished = 0

    def log(self, row: dict[str, float], step: int) -> None:
        self.rows.append((row, step))

    def finish(self) -> None:
        self.finished += 1


class Wandb:
    """A stand-in for the module."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.sessions: list[Session] = []
        self.fails: set[str | None] = set()
        """Modes in which it does."""
        self.step = 0

    def setup(self, settings: dict[str, Any]) -> None:
        assert settings["silent"]

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **options: Any) -> Session:
        self.options.append(options)
        if options["mode"] in self.fails:
            raise RuntimeError("No API key configured.\nUse `wandb login` to log in.")
        self.sessions.append(Session(options, self.step))
        return self.sessions[-1]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    stub = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return stub


def test_missing_wandb_is_one_clear_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed: pip install 'ezm-rl\[wandb\]'"):
        MetricsLogger(run, wandb=True)
    assert not run.metrics_path.exists()


def test_it_gets_the_same_numbers(
    run: RunFolder, module: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    with MetricsLogger(run, tensorboard=False, wandb=True) as log:
        log.log("eval", 4, 1.0, task="a", mode="search", mean=1.0)
        log.log("start", 4, 1.0, tasks=["a"])
    (session,) = module.sessions
    assert session.rows == [({"eval_search/a": 1.0}, 4)] and session.finished == 1
    assert module.options[0]["config"] == {"suite": "pair"}
    assert module.options[0]["settings"]["console"] == "off"
    assert caplog.messages == ["Weights & Biases: https://wandb.example/run"]


def test_variables_name_the_place(
    run: RunFolder, module: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    WandbMirror(run)
    (run.path / "wandb.json").unlink()
    for name in ("PROJECT", "NAME", "ENTITY", "RUN_ID"):
        monkeypatch.setenv(f"WANDB_{name}", name.lower())
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandbMirror(run)
    named = [[each[k] for k in ("project", "name", "entity", "mode")] for each in module.options]
    assert named == [["ezm", "run", None, None], ["project", "name", "entity", "offline"]]
    assert module.options[1]["id"] == "run_id" and len(module.options[0]["id"]) == 8


def test_a_resumed_run_is_the_same_one(
    run: RunFolder, module: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    WandbMirror(run).log({"a": 1.0}, 10)
    monkeypatch.setenv("WANDB_PROJECT", "another")
    module.step = 11  # what was sent before
    resumed = WandbMirror(run)
    for step in (9, 10, 11, 12):  # from a checkpoint at 8
        resumed.log({"a": float(step)}, step)
    first, second = module.options
    assert [second[k] for k in ("id", "project", "entity")] == [first["id"], "ezm", "someone"]
    assert second["resume"] == "allow"
    assert module.sessions[1].rows == [({"a": 11.0}, 11), ({"a": 12.0}, 12)]


def test_who_is_not_logged_in_trains_and_keeps_the_run(
    run: RunFolder, module: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    module.fails = {None}
    mirror = WandbMirror(run)
    mirror.log({"a": 1.0}, 1)
    assert module.options[1]["mode"] == "offline" and module.sessions[0].rows
    first, second = caplog.messages
    assert "takes nothing now (No API key configured. Use `wandb login` to log in.)" in first
    assert second.endswith(f"offline; send it by: wandb sync {run.path}/wandb/offline-run-*")


def test_what_fails_is_said_once_and_stops_nothing(
    run: RunFolder,
    module: Wandb,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("broken pipe")

    module.fails = {None, "offline"}
    mirror = WandbMirror(run)
    mirror.log({"a": 1.0}, 1)
    assert caplog.text.count("failed (No API key") == 1
    module.fails = set()
    monkeypatch.setattr(Session, "log", fail)
    mirror = WandbMirror(run)
    caplog.clear()
    for step in range(3):
        mirror.log({"a": 1.0}, step)
    mirror.close()
    assert caplog.text.count("failed (broken pipe)") == 1
    caplog.clear()
    monkeypatch.setattr(Session, "finish", fail)
    mirror = WandbMirror(run)
    mirror.close()
    mirror.close()
    assert caplog.text.count("failed (broken pipe)") == 1


# -- the real one ------------------------------------------------------------------------------


def records(path: Path) -> list[bytes]:
    """Of an offline run's file: LevelDB's log format, 32 KiB blocks behind a header of 7 bytes."""
    content, place, found, parts = path.read_bytes(), 7, [], b""
    while place < len(content):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(parts)
            parts = b""
    return found


def history(run: RunFolder) -> tuple[set[tuple[str, str]], dict[str, dict[int, float]]]:
    """The (id, project) and the curves of all offline files of a run."""
    from wandb.proto.wandb_internal_pb2 import Record

    identities, curves = set(), defaultdict(dict)
    for path in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                identities.add((record.run.run_id, record.run.project))
            if record.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                for name, value in items.items():
                    if not name.startswith("_"):
                        curves[name][items["_step"]] = value
    return identities, curves


def test_an_offline_run_and_its_resumption(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A real training, a tiny one; all that TensorBoard would have is in wandb's own files."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunFolder.create(tmp_path / "run", {"suite": "pair"})
    for first in (0, 50):
        with MetricsLogger(run, wandb=True) as log:
            for step in range(first, first + 50):
                values = {"return": 2.0 * step, "length": 25, "terminated": False}
                log.log("episode", step, step / 10, task="a", policy="a", **values)
                if step % 10 == 0:
                    log.log(
                        "train", step, step / 10, updates=step, **{"loss/total": 1.0 / (step + 1)}
                    )
    assert caplog.text.count("Weights & Biases: offline; send it by") == 2
    assert capsys.readouterr() == ("", "")
    identities, curves = history(run)
    (identity,) = identities
    assert identity[1] == "ezm"
    expected: dict[str, dict[int, float]] = defaultdict(dict)
    for row in read_metrics(run.metrics_path):
        for name, number in scalars(row).items():
            expected[name][row["step"]] = number
    assert curves == expected and len(curves["episode_return/a"]) == 100
