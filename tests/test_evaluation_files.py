"""What evaluations come to, the files that keep them, and what is shown of them."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ezm.acting.evaluate import Episodes
from ezm.acting.results import Evaluation, aggregate, read_evaluations, save_evaluation, task_result
from ezm.cli.progress import EvaluationProgress
from ezm.cli.terminal import print_evaluation
from ezm.errors import UserError
from ezm.runs import folder as run_folder
from ezm.runs.folder import write_atomically
from ezm.tasks import load_suite

# -- results and their files -------------------------------------------------------------------


def made(**changes: Any) -> Evaluation:
    suite = load_suite("h1-stand,dmc:cartpole-swingup,gym:Pendulum-v1")
    returns = np.array([[700.0, 800, 900, 1000], [0, 100, 200, 1000], [-3, -2, -1, 0]])
    lengths = np.array([[700, 1000, 1000, 1000], [125] * 4, [200] * 4])
    tasks = {
        spec.name: task_result(spec, Episodes(values, steps, steps < 125))
        for spec, values, steps in zip(suite.tasks, returns, lengths, strict=True)
    }
    settings: dict[str, Any] = dict(
        date="2026-01-01T00:00:00+00:00",
        step=90,
        planner="search",
        protocol="benchmark",
        episodes=4,
        seed=0,
        version="0.1.0",
        machine={"cores": 2},
        tasks=tasks,
        aggregate=aggregate(list(tasks.values())),
    )
    return Evaluation(**{**settings, **changes})


def test_what_the_episodes_come_to() -> None:
    found = made()
    stand, cartpole, pendulum = found.tasks.values()
    assert (stand.mean, stand.iqm, stand.success_bar, stand.solved) == (850, 850, 800, 0.75)
    assert stand.normalised == pytest.approx((850 - 15.9) / (800 - 15.9))
    assert (stand.length, stand.protocol, stand.iqm_low is not None) == (925, "benchmark", True)
    assert (cartpole.mean, cartpole.iqm, cartpole.normalised) == (325, 150, 0.325)
    assert (cartpole.success_bar, cartpole.solved, cartpole.protocol) == (None, None, None)
    assert (pendulum.normalised, pendulum.success_bar) == (None, None)
    scores = np.stack(list(found.scores().values()), axis=1)
    assert scores.shape == (4, 2) and found.aggregate is not None
    assert found.aggregate["mean"].value == pytest.approx(scores.mean())
    assert found.aggregate["iqm"].value == pytest.approx(np.sort(scores.ravel())[2:6].mean())
    assert aggregate([pendulum]) is None
    one = task_result(load_suite("gym:Pendulum-v1").tasks[0], Episodes(*np.ones((3, 1))))
    assert (one.iqm, one.iqm_low, one.half_width) == (1, None, None)


def test_every_evaluation_is_kept_unless_it_is_made_again(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path) == []
    kept = [made(), made(planner="policy"), made(protocol="paper"), made(machine={"cores": 4})]
    for each in kept:
        save_evaluation(tmp_path, each)
    assert read_evaluations(tmp_path) == kept
    again = made(date="2026-02-02T00:00:00+00:00")
    save_evaluation(tmp_path, again)
    assert read_evaluations(tmp_path) == [*kept[1:], again]
    fewer = replace(again, tasks={"h1-stand": again.tasks["h1-stand"]})
    save_evaluation(tmp_path, fewer)
    assert read_evaluations(tmp_path) == [*kept[1:], again, fewer]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.csv", "eval.json"]


def test_the_csv_has_a_line_for_each_episode(tmp_path: Path) -> None:
    save_evaluation(tmp_path, made())
    save_evaluation(tmp_path, made(planner="policy"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "eval.csv").read_text())))
    assert len(rows) == 2 * 3 * 4
    assert dict(rows[3]) == {
        "date": "2026-01-01T00:00:00+00:00",
        "step": "90",
        "planner": "search",
        "protocol": "benchmark",
        "seed": "0",
        "version": "0.1.0",
        "task": "h1-stand",
        "episode": "3",
        "return": "1000.0",
        "length": "1000",
        "terminated": "0",
        "normalised": str(made().scores()["h1-stand"][3]),
        "solved": "1",
    }
    assert [(r["protocol"], r["normalised"], r["solved"]) for r in rows[7:9]] == [
        ("", "1.0", ""),
        ("", "", ""),
    ]


def test_evaluations_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: save_evaluation(tmp_path, made(seed=seed)), range(8)))
    assert sorted(each.seed for each in read_evaluations(tmp_path)) == list(range(8))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged"),
        ('{"step": 3, "tasks": {}}', "is damaged or of another version"),
        ('{"format": 1, "evaluations": [{}]}', "is damaged"),
        ('{"format": 9}', "was written by a newer ezm: update ezm"),
    ],
)
def test_what_was_not_written_here_is_neither_read_nor_replaced(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "eval.json").write_text(content)
    with pytest.raises(UserError, match=said):
        save_evaluation(tmp_path, made())
    assert (tmp_path / "eval.json").read_text() == content


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "new")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "old")]


# -- what is shown -----------------------------------------------------------------------------


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {f"h1hand-{'x' * n}": each for n, each in zip((14, 5, 3), made().tasks.values())}
    print_evaluation(made(tasks=tasks))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, (line.rstrip() for line in lines))) <= 80
    cells = [line.split("  ") for line in lines]
    heading = [cell.strip() for cell in cells[0] if cell.strip()]
    assert heading == ["task", "mean", "IQM", "95 %", "bar", "solved", "score", "steps"]
    stand = [cell.strip() for cell in cells[1] if cell.strip()]
    assert stand[1:3] == ["850", "850"] and stand[4:] == ["800", "75%", "1.064", "925"]
    assert any(line.startswith("score over 2 tasks") for line in lines)
    assert any(line.startswith("optimality gap") for line in lines)
    print_evaluation(made(tasks={"Pendulum-v1": made().tasks["Pendulum-v1"]}, aggregate=None))
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "task",
        "mean",
        "IQM",
        "95",
        "%",
        "steps",
    ]


def test_progress_is_plain_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=100, color_system=None)
        with EvaluationProgress(4, console) as progress:
            progress.begin("h1-stand", 1000)
            progress.update(500, 1)
            if terminal:
                progress._bars.refresh()
                assert progress._bars.tasks[0].percentage == 50
            progress.end("850 ± 2")
        assert ("\x1b" in text.getvalue()) == terminal
        assert terminal or text.getvalue() == "h1-stand: 4 episodes, return 850 ± 2\n"
        assert "850 ± 2" in text.getvalue()


def test_progress_knows_groups_of_episodes() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with EvaluationProgress(40, console) as progress:
        progress.begin("cartpole-swingup", 100)
        shares = []
        for step, ended in ((50, 0), (100, 20), (1, 20), (50, 20), (100, 40)):
            progress.update(step, ended)
            shares.append(progress._bars.tasks[0].percentage)
    assert shares == [25, 50, 50.5, 75, 100]
