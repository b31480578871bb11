"""metrics.jsonl: what is logged comes back, whatever happened to the process."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger, read_metrics, scalars


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {})


def test_rows_come_back_as_plain_values(run: RunFolder) -> None:
    with MetricsLogger(run, tensorboard=False) as log:
        log.log("start", 0, 0.0, tasks=("a", "b"), machine={"cores": 2})
        log.log("train", 10, 1.5, updates=np.int64(20), **{"loss/total": jnp.float32(0.5)})
        log.log("eval", 10, 2, task="a", returns=np.array([1.0, 3.0]), mean=np.nan)
        assert len(read_metrics(run.metrics_path)) == 3, "a row is in the file at once"
    assert read_metrics(run.metrics_path) == [
        {"kind": "start", "step": 0, "seconds": 0.0, "tasks": ["a", "b"], "machine": {"cores": 2}},
        {"kind": "train", "step": 10, "seconds": 1.5, "updates": 20, "loss/total": 0.5},
        {
            "kind": "eval",
            "step": 10,
            "seconds": 2,
            "task": "a",
            "returns": [1.0, 3.0],
            "mean": None,
        },
    ]


def test_a_run_without_metrics_has_no_rows(run: RunFolder) -> None:
    assert read_metrics(run.metrics_path) == []


@pytest.mark.parametrize(
    ("torn", "rows"),
    [
        (b'{"kind": "train", "st', 2),
        (b'{"kind": "train", "step": 9}', 2),
        (b'{"kind": "train", "step": 9}\n', 2),
        (b'{"kind": "train", "step": 9, "seconds": 1}', 3),
    ],
)
def test_a_torn_last_line_is_skipped_and_mended(run: RunFolder, torn: bytes, rows: int) -> None:
    with MetricsLogger(run, tensorboard=False) as log:
        log.log("train", 1, 0.0)
        log.log("train", 2, 0.0)
    with open(run.metrics_path, "ab") as file:
        file.write(torn)
    assert len(read_metrics(run.metrics_path)) == rows
    with MetricsLogger(run, tensorboard=False) as log:
        log.log("train", 10, 0.0)
    assert len(read_metrics(run.metrics_path)) == rows + 1
    assert read_metrics(run.metrics_path)[-1]["step"] == 10


@pytest.mark.parametrize(
    "damaged",
    [
        "rubbish",
        "[]",
        "5",
        '{"kind": "train", "step": 1}',
        '{"kind": "train", "seconds": 1}',
        '{"step": 1, "seconds": 1}',
        '{"kind": 3, "step": 1, "seconds": 1}',
        '{"kind": "train", "step": "1", "seconds": 1}',
        '{"kind": "train", "step": 1, "seconds": null}',
        '{"kind": "train", "step": 1, "seconds": Infinity}',
    ],
)
def test_a_damaged_line_in_the_middle_is_named(run: RunFolder, damaged: str) -> None:
    whole = '{"kind": "train", "step": 1, "seconds": 0.5}'
    run.metrics_path.write_text(f"{whole}\n{damaged}\n{whole}\n")
    with pytest.raises(
        UserError, match="metrics.jsonl line 2 is damaged .no row of a run.: remove"
    ):
        read_metrics(run.metrics_path)


def test_truncation_moves_later_rows_and_loses_none(run: RunFolder) -> None:
    with MetricsLogger(run, tensorboard=False) as log:
        for step in (1, 2, 3, 4):
            log.log("train", step, float(step))
    with MetricsLogger(run, tensorboard=False) as log:
        for seconds in (30.0, 300.0):
            log.truncate(2, 2)
            assert log.rows == 2
            log.log("train", 3, seconds)
    assert [row["seconds"] for row in read_metrics(run.metrics_path)] == [1.0, 2.0, 300.0]
    dropped = [
        json.loads(line) for line in (run.path / "metrics.dropped.jsonl").read_text().splitlines()
    ]
    assert [row["seconds"] for row in dropped] == [3.0, 4.0, 30.0]


@pytest.mark.parametrize(("kept", "modes"), [(True, {"random", "search"}), (False, {"random"})])
def test_an_evaluation_that_is_not_repeated_stays(
    run: RunFolder, kept: bool, modes: set[str]
) -> None:
    """The evaluation at the end of a training comes after the last checkpoint."""
    with MetricsLogger(run, tensorboard=False) as log:
        log.log("eval", 2, 1.0, mode="random")
        log.log("eval", 2, 2.0, mode="search")
        log.log("diagnostic", 2, 3.0)
        log.log("eval", 4, 4.0, mode="search")
        assert log.truncate(1, 2, keep_evaluations=kept) == modes
    assert [row["seconds"] for row in read_metrics(run.metrics_path)] == (
        [1.0, 2.0] if kept else [1.0]
    )


def test_tags_name_the_task() -> None:
    base = {"step": 1, "seconds": 1.0}
    assert scalars({"kind": "eval", "task": "a", "mode": "policy", "mean": 5, **base}) == {
        "eval_policy/a": 5.0
    }
    assert scalars(
        {"kind": "episode", "task": "a", "return": 2.5, "length": 9, "terminated": True, **base}
    ) == {"episode_return/a": 2.5, "episode_length/a": 9.0}
    # What another task's policy reached is no figure of this task's.
    assert scalars({"kind": "episode", "task": "a", "policy": "b", "return": 2.5, **base}) == {}
    assert scalars({"kind": "diagnostic", "task": "a", "spearman/q": 0.5, **base}) == {
        "diagnostic/a/spearman/q": 0.5
    }
    assert scalars({"kind": "train", "updates": 4, "loss/total": None, "loss/v": 1.0, **base}) == {
        "train/updates": 4.0,
        "loss/v": 1.0,
    }
    assert scalars({"kind": "start", "parameters": 7, **base}) == {}


def test_tensorboard_holds_the_scalars_and_forgets_truncated_ones(run: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLogger(run) as log:
        for step in (1, 2, 3):
            log.log("eval", step, 1.0, task="a", mode="search", mean=10.0 * step)
    with MetricsLogger(run) as log:
        log.truncate(1, 1)
        log.log("eval", 2, 1.0, task="a", mode="search", mean=50.0)
    events = accumulator.EventAccumulator(str(run.tensorboard_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval_search/a")] == [(1, 10.0), (2, 50.0)]


LOG_WITHOUT_SPACE = """
import json, resource, sys
from pathlib import Path
from ezm.errors import UserError
from ezm.runs.metrics import MetricsLogger, read_metrics
from ezm.runs.folder import RunFolder

run, row = RunFolder.create(Path(sys.argv[1]), {}), json.loads(sys.argv[2])
errors, unlimited = [], resource.RLIM_INFINITY
with MetricsLogger(run) as log:
    log.log("diagnostic", 0, 0.0, **row)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited))
    for step in range(1, 200):
        try:
            log.log("diagnostic", step, 0.0, **row)
        except UserError as error:
            errors.append(str(error))
            if len(errors) == 20:
                break
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    before = len(read_metrics(run.metrics_path))
    whole = run.metrics_path.read_bytes().endswith(bytes([10]))
print(json.dumps([errors, whole, step, before]))
"""


def log_without_space(path: Path, row: dict) -> tuple[list[str], bool, int, int]:
    """Rows until 20 failed: the errors, whether metrics.jsonl ends with a line, rows tried and in it."""
    result = subprocess.run(
        [sys.executable, "-c", LOG_WITHOUT_SPACE, str(path), json.dumps(row)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    errors, whole, step, rows = json.loads(result.stdout)
    return errors, whole, step + 1, rows


def test_a_row_without_space_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    # The limit falls into the middle of a row, of which the system then writes a part.
    errors, whole, tried, rows = log_without_space(tmp_path / "run", {"text": "x" * 777})
    assert all(f"cannot write to {tmp_path}/run/metrics.jsonl" in error for error in errors)
    assert whole and len(errors) == 20 and rows == tried - 20 > 10
    with MetricsLogger(RunFolder.open(tmp_path / "run"), tensorboard=False) as log:
        log.log("train", tried, 0.0)
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == rows + 1


def test_tensorboard_without_space_is_an_error_and_does_not_hang(tmp_path: Path) -> None:
    # TensorBoard has the task's name once for each number, so that its file fills first.
    row = {"task": "t" * 100, **{f"n{i}": 1.0 for i in range(20)}}
    errors, whole, tried, rows = log_without_space(tmp_path / "run", row)
    assert whole and 1 < rows <= tried and len(errors) == 20
    assert f"cannot write to {tmp_path}/run/tensorboard" in errors[0]
