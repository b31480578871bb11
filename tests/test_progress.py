"""The progress display: rates, time left, and both kinds of output."""

import io

import pytest
from rich.console import Console

from ezm.training import progress
from ezm.training.progress import TrainingProgress


def plain_console() -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, width=300), output


def test_rates_and_time_left_follow_the_recent_past() -> None:
    shown = TrainingProgress(["a", "b"], 1000, plain_console()[0])
    assert shown.rates() == (0.0, 0.0) and shown.seconds_left() is None
    shown.update(0, 0, 0.0)
    shown.update(100, 50, 10.0)
    assert shown.rates() == (20.0, 5.0), "environment steps count for both tasks"
    assert shown.seconds_left() == pytest.approx(90.0)
    for second in range(11, 61):
        shown.update(100 + (second - 10), 50, float(second))
    assert shown.rates()[0] == pytest.approx(2.0), "the fast beginning is forgotten"
    assert shown.seconds_left() == pytest.approx(850.0)


def test_a_resumed_run_counts_from_where_it_went_on() -> None:
    shown = TrainingProgress(["a"], 1000, plain_console()[0])
    shown.update(500, 900, 300.0)
    assert shown.seconds_left() is None
    shown.update(510, 920, 301.0)
    assert shown.rates() == (10.0, 20.0) and shown.seconds_left() == pytest.approx(49.0)


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console, output = plain_console()
    with TrainingProgress(["a", "b"], 1000, console) as shown:
        for second in range(1, 26):
            now[0] = float(second)
            shown.update(second * 10, second * 20, float(second))
            shown.episode("a", 12.3)
        shown.evaluation("a", 800.0)
        shown.message("saved [not markup]")
    lines = output.getvalue().splitlines()
    assert [line.split(" per task")[0] for line in lines if line.startswith("step")] == [
        "step 100/1,000",
        "step 200/1,000",
        "step 250/1,000",
    ]
    assert "20 env steps/s · 20 updates/s · 0:10 elapsed · 1:30 left · a 12.3" in lines[0]
    assert lines[-2] == "saved [not markup]"
    assert lines[-1].endswith("· a 800")


def test_on_a_terminal_there_is_a_table() -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True)
    with TrainingProgress(["swingup", "balance"], 1000, console) as shown:
        shown.update(500, 1000, 3700.0)
        shown.episode("swingup", 5.0)
        shown.evaluation("swingup", 900.0)
        shown.evaluation("swingup", 700.0)
        shown.message("a checkpoint")
    text = output.getvalue()
    assert "a checkpoint" in text and "best eval" in text
    row = next(line for line in reversed(text.splitlines()) if "swingup" in line)
    assert row.split()[-4:] == ["5", "700", "900", "1"]
    assert "1:01:40 elapsed" in text
