"""The progress display: rates, time left, and both kinds of output."""

import contextlib
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.live_render import LiveRender

from ezm.cli import progress
from ezm.cli.progress import Pace, TrainingProgress, sparkline
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger, read_metrics
from ezm.tasks.humanoid_bench import catalog
from ezm.training.memory import Memory


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
    assert shown.seconds_left() == pytest.approx(850 / (150 / 60)), "minutes, not seconds, tell"


def test_an_evaluation_counts_by_its_share_of_the_time_left() -> None:
    """100 s of steps and 50 s of evaluation, over and over: 2 steps in 3 s."""
    shown, seconds = TrainingProgress(["a"], 100_000, plain_console()[0]), 0.0
    for step in range(1, 2001):
        seconds += 51 if step % 100 == 0 else 1
        shown.update(step, step, seconds)
    assert shown.seconds_left() == pytest.approx(98_000 * 1.5, rel=0.1)
    shown.update(2001, 2001, seconds + 1)
    assert shown.rates()[0] < 0.1, "what it was of late"


def test_little_is_kept_of_many_updates() -> None:
    pace = Pace(20.0)
    for update in range(100_000):
        pace.add((update, 3 * update, update / 1000))
    assert pace.rates() == pytest.approx((1000.0, 3000.0))
    assert len(pace._marks) < 110


def test_a_resumed_run_counts_from_where_it_went_on() -> None:
    shown = TrainingProgress(["a"], 1000, plain_console()[0])
    shown.update(500, 900, 300.0)
    assert shown.seconds_left() is None
    shown.update(510, 920, 301.0)
    assert shown.rates() == (10.0, 20.0) and shown.seconds_left() == pytest.approx(49.0)


def test_rates_of_random_actions_do_not_say_how_long_learning_takes() -> None:
    shown = TrainingProgress(["a"], 1000, plain_console()[0])
    for second in range(10):
        shown.update(100 * second, 0, float(second))
    shown.forget_rates()
    assert shown.rates() == (0.0, 0.0) and shown.seconds_left() is None
    shown.update(901, 1, 60.0)
    shown.update(902, 2, 61.0)
    assert shown.rates() == (1.0, 1.0) and shown.seconds_left() == 98.0


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
    assert "20 env steps/s · 20 updates/s · 0:10 elapsed · 1:30 left · returns: a 12.3" in lines[0]
    assert lines[-2] == "saved [not markup]"
    assert lines[-1].endswith("· returns: a 800")


@pytest.mark.parametrize(
    ("values", "width", "curve"),
    [
        ([], 8, ""),
        ([5.0], 8, "▄"),
        ([2.0, 2.0, 2.0], 8, "▄▄▄"),
        (range(8), 8, "▁▂▃▄▅▆▇█"),
        (range(16), 8, "▁▂▃▄▅▆▇█"),
        ([0.0, 100.0], 8, "▁█"),
        ([0, 0, 0, 100, 0, 0], 3, "▁█▁"),
        ([-1.0, math.nan, 1.0], 8, "▁ █"),
        ([math.nan, 3.0, 4.0, 4.0], 2, "▁█"),
        ([1.0, math.inf], 8, "▄ "),
        (range(100), 0, ""),
    ],
)
def test_sparkline_known_values(values: Sequence[float], width: int, curve: str) -> None:
    assert sparkline(values, width) == curve


NAMES = [*catalog.NAMES][:23]
FOLDER = Path("/a/rather/long/path/with/many/parts/that/no/terminal/shows/whole/runs/h1-cpu-s0-1")


def terminal(width: int, height: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )


def drawn(shown: TrainingProgress) -> list[str]:
    """The lines of a frame."""
    console = shown._console
    with console.capture() as capture:
        console.print(LiveRender(shown._render(), vertical_overflow="ellipsis"))
    return [line.rstrip() for line in capture.get().splitlines()]


def page(width: int, height: int, tasks: Sequence[str]) -> list[str]:
    """The lines of the page of a run with some history."""
    shown = TrainingProgress(tasks, 1000, terminal(width, height), FOLDER)
    for number, task in enumerate(tasks):
        for value in range(50):
            shown.episode(task, number + value)
        for mean in (0.0 + number, 1000.0 + number, 600.0 + number):
            shown.evaluation(task, mean)
    shown._memory = Memory(process=2**30, programs=2**30, replay=2**30, agent=2**30)
    shown.update(500, 1000, 3700.0)
    shown.update(520, 1040, 3710.0)
    return drawn(shown)


@pytest.mark.parametrize("tasks", [NAMES[:1], NAMES[-4:], NAMES, ["名前" * 20, "x" * 70]])
@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (60, 24), (40, 24), (58, 24), (132, 50), (80, 12)]
)
def test_the_page_fits_the_terminal(width: int, height: int, tasks: Sequence[str]) -> None:
    lines = page(width, height, tasks)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height
    said = " ".join(lines)
    for figure in ("520/1,000", "1,040 updates", "env steps/s", "4 updates/s", "1:01:50 elapsed"):
        assert figure in said
    assert "4:00 left" in said and "announced 4.0 GiB" in said and "52%" in said
    assert str(FOLDER) in "".join(lines)
    (heading,) = (line for line in lines if line.startswith("task "))
    assert heading.split()[-2:] == ["last", "best"]
    if len(tasks) < 5:
        figures = {figure for line in lines for figure in line.split()}
        assert figures >= {f"{600 + n}" for n in range(len(tasks))}


def test_a_line_has_both_curves_and_three_figures() -> None:
    lines = page(80, 24, ["swingup", "balance"])[-3:]
    assert lines[0].split() == ["task", "training", "last", "evaluation", "last", "best"]
    assert lines[1].split() == ["swingup", sparkline(range(50), 26), "49", "▁█▅", "600", "1000"]
    assert lines[2].split() == ["balance", sparkline(range(50), 26), "50", "▁█▅", "601", "1001"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "–"),
        (0.00649, "0.00649"),
        (-0.00649, "-0.00649"),
        (1.23456e-7, "1.23e-07"),
        (1234567, "1234567"),
        (-12345678, "-12345678"),
    ],
)
def test_a_return_is_shown_whole(value: float, text: str) -> None:
    shown = TrainingProgress(["a"], 1000, terminal(80, 24))
    for report in (shown.episode, shown.evaluation):
        report("a", value)
    assert [part for part in drawn(shown)[-1].split() if part not in "▄"] == ["a", *[text] * 3]
    assert max(map(cell_len, drawn(shown))) <= 80


def test_the_best_is_kept_whatever_follows() -> None:
    shown = TrainingProgress(["a"], 1000, terminal(80, 24))
    for mean in (math.nan, -5.0, -2.0, -3.0, math.nan):
        shown.evaluation("a", mean)
    assert drawn(shown)[-1].split()[-2:] == ["–", "-2"]


def test_a_page_that_is_too_long_loses_tasks_and_no_figures() -> None:
    lines = page(80, 12, NAMES)
    assert len(lines) == 12 and lines[-1].strip() == "..."
    assert sum("▁█▅" in line for line in page(80, 40, NAMES)) == 23


def test_the_live_page_is_drawn_and_stays() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, height=24, force_terminal=True, force_interactive=True)
    with TrainingProgress(["swingup"], 1000, console, FOLDER) as shown:
        shown.update(500, 1000, 3700.0)
        shown.evaluation("swingup", 900.0)
        shown.message("a checkpoint [not markup]")
    text = output.getvalue()
    assert "a checkpoint [not markup]" in text and "run folder:" not in text
    assert "900" in text[text.rindex("swingup") :] and "50%" in text[text.rindex("━") :]


def test_a_resumed_run_shows_its_whole_history(tmp_path: Path) -> None:
    """The page from metrics.jsonl is the page that was drawn while the run went on."""
    before, after = (TrainingProgress(["a", "b"], 1000, terminal(80, 24)) for _ in range(2))
    with MetricsLogger(RunFolder.create(tmp_path / "run", {}), tensorboard=False) as log:
        log.log("start", 0, 0.0, tasks=["a", "b"])
        for step in range(10, 500, 10):
            for task, policy in (("a", "a"), ("b", "a")):
                log.log("episode", step, step / 10, task=task, policy=policy, **{"return": step})
                if policy == task:
                    before.episode(task, step)
            log.log("train", step, step / 10, updates=2 * step)
        for mode, mean in (("random", 1.0), ("search", 800.0), ("policy", 700.0), ("search", None)):
            log.log("eval", 490, 49.0, updates=980, task="a", mode=mode, returns=[mean], mean=mean)
        before.evaluation("a", 800.0)
        before.update(490, 980, 49.0)
    after.recall(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert drawn(before) == drawn(after)
    said = " ".join(drawn(after))
    assert "step 490/1,000" in said and "980 updates" in said and sparkline(range(49), 28) in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full device")
@pytest.mark.parametrize("live", [False, True])
def test_output_that_cannot_be_written_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    with open(os.open("/dev/full", os.O_WRONLY), "w", closefd=False) as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
        if live:
            monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal that has gone
        with TrainingProgress(["a"], 1000, folder=Path("run")) as shown:
            assert (shown._live is not None) is live
            for step in range(5):
                shown.message("a message")
                shown.update(step, step, 1.0)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_lines_in_a_pipe_are_not_wrapped() -> None:
    output = io.StringIO()
    with TrainingProgress([f"task-{i}" for i in range(30)], 1000, Console(file=output)) as shown:
        shown.update(1, 1, 1.0)
        for i in range(30):
            shown.evaluation(f"task-{i}", 100.0 + i)
    (line,) = output.getvalue().splitlines()
    assert "task-0 100" in line and line.endswith("task-29 129")
