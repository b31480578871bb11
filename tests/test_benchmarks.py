"""The benchmarks: their runs, recorded files and comparisons; what the planner's times are of."""

import json
import math
import re
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import ablations, difference, learning, planner, sharding, startup
from benchmarks.learning import Budget, Options, Run, compare, plan, recorded_path, run_random
from benchmarks.picture import draw
from benchmarks.results import (
    CurveKey,
    Curves,
    Row,
    append,
    read,
    recorded_steps,
    short_names,
    tables,
)
from ezm.cli.options import parse
from ezm.config import TrainConfig
from ezm.config.presets import PRESETS, defaults
from ezm.errors import UserError
from ezm.tasks import load_suite


def row(method: str, seed: int, steps: int, value: float, task: str = "left") -> Row:
    return {
        "suite": "pair",
        "method": method,
        "seed": seed,
        "task": task,
        "steps_per_task": steps,
        "seconds": steps / 100,
        "return": value,
    }


def test_recorded_rows_come_back_without_headers(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.jsonl"
    rows = [row("ezm", 0, 100, 1.0), row("ezm", 0, 200, 2.0)]
    append(path, [{"header": {"machine": "toaster"}}, rows[0]])
    append(path, rows[1:])
    assert read(path) == rows
    assert recorded_steps(rows) == {CurveKey("ezm", 0, "left"): 200}


def test_a_run_recorded_again_replaces_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    other = row("sac-multi", 0, 200, 5.0)
    append(path, [row("ezm", 0, 100, 1.0), row("ezm", 0, 200, 2.0), other])
    append(path, [row("ezm", 0, 100, 7.0)])
    assert read(path) == [row("ezm", 0, 100, 7.0), other]


def test_no_file_is_no_rows_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    assert read(path) == []
    append(path, [row("ezm", 0, 100, 1.0)])
    with path.open("a") as file:
        file.write("{half a l")
    with pytest.raises(UserError, match="line 2"):
        read(path)


def test_curves_start_at_random_and_end_where_the_shortest_does() -> None:
    curves = Curves(
        [
            row("random", 0, 0, 10.0),
            row("random", 1, 0, 30.0),
            row("ezm", 0, 100, 40.0),
            row("ezm", 0, 200, 60.0),
            row("sac-multi", 0, 100, 20.0),
            row("sac-multi", 0, 200, 20.0),
            row("sac-multi", 0, 300, 90.0),
        ]
    )
    assert curves.methods == ("ezm", "sac-multi")
    assert curves.random == {"left": 20.0}
    assert (curves.low, curves.high) == (0, 200)
    assert curves.final("ezm", "left") == pytest.approx([60.0])
    # 20 to 40 over the first half, 40 to 60 over the second.
    assert curves.area("ezm", "left") == pytest.approx([40.0])
    assert curves.area("sac-multi", "left") == pytest.approx([20.0])


def test_without_random_the_area_starts_at_the_first_common_evaluation() -> None:
    rows = [row("ezm", seed, steps, steps + seed) for seed in (0, 1) for steps in (100, 200, 300)]
    curves = Curves([*rows, row("sac-multi", 0, 200, 1.0), row("sac-multi", 0, 300, 1.0)], 250)
    assert (curves.low, curves.high) == (200, 250)
    assert curves.area("ezm", "left") == pytest.approx([225.0, 226.0])
    assert curves.final("ezm", "left") == pytest.approx([250.0, 251.0])


def test_tables_show_spread_over_seeds_and_ratios_of_means() -> None:
    rows = [row("random", 0, 0, 0.0, task) for task in ("left", "right")]
    for task, scale in (("left", 1.0), ("right", 3.0)):
        rows += [row("ezm", seed, 100, scale * (100 + 20 * seed), task) for seed in (0, 1)]
        rows += [row("sac-multi", seed, 100, scale * 55, task) for seed in (0, 1)]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(tables(Curves(rows))[0])
    lines = [re.split(r"\s{2,}", line.strip()) for line in capture.get().splitlines()]
    cells = {line[0]: line[1:] for line in lines}
    assert cells["random"] == ["0", "0", "0"]
    assert cells["ezm"] == ["110 ± 14.1", "330 ± 42.4", "220 ± 28.3"]
    assert cells["sac-multi"] == ["55 ± 0", "165 ± 0", "110 ± 0"]
    assert cells["ezm / sac-multi"] == ["2.00", "2.00", "2.00"]


def test_tasks_of_one_body_lose_its_name() -> None:
    assert short_names(["cartpole-balance", "cartpole-swingup_sparse"]) == [
        "balance",
        "swingup_sparse",
    ]
    assert short_names(["walker-run", "hopper-hop"]) == ["walker-run", "hopper-hop"]
    assert short_names(["left", "right"]) == ["left", "right"]


def test_a_picture_shows_every_seed_on_one_grid(tmp_path: Path) -> None:
    rows = [row("ezm", 0, 100, 1.0), row("ezm", 0, 200, 3.0), row("ezm", 0, 300, 9.0)]
    rows += [row("ezm", 1, 100, 5.0), row("ezm", 1, 300, 7.0), row("sac-multi", 0, 300, 2.0)]
    curves = Curves(rows, 300)
    steps, returns = curves.grid("ezm", "left")
    np.testing.assert_array_equal(steps, [100, 200, 300])
    np.testing.assert_array_equal(returns, [[1.0, 3.0, 9.0], [5.0, 6.0, 7.0]])
    assert curves.grid("sac-single", "left")[1].size == 0
    draw(curves, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_methods_alone_train_an_agent_for_each_task() -> None:
    suite = load_suite("dmc:cartpole-swingup,cartpole-balance")
    runs = plan(suite, Options("", methods=("ezm", "ezm-alone"), seeds=2))
    assert [(run.method, run.seed, run.spec) for run in runs] == [
        ("ezm", 0, "dmc:cartpole-swingup,cartpole-balance"),
        ("ezm", 1, "dmc:cartpole-swingup,cartpole-balance"),
        ("ezm-alone", 0, "dmc:cartpole-swingup"),
        ("ezm-alone", 0, "dmc:cartpole-balance"),
        ("ezm-alone", 1, "dmc:cartpole-swingup"),
        ("ezm-alone", 1, "dmc:cartpole-balance"),
    ]


def test_an_agent_alone_has_its_suites_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(learning, "run_ezm", lambda *arguments: given.append(arguments[3]))
    for name in ("walker", "cartpole"):
        suite = load_suite(name)
        for method in ("ezm", "ezm-alone"):
            learning.execute(plan(suite, Options(name, (method,)))[0], Budget(10, 10), 1)
    assert given[::2] == [(), ()]  # the suite itself has its defaults
    for name, changes in zip(("walker", "cartpole"), given[1::2]):
        of_suite = defaults("cpu", name)
        size = replace(PRESETS["cpu"], steps=of_suite.steps, evaluate_every=of_suite.evaluate_every)
        assert parse(TrainConfig, "train", changes, size) == of_suite


def test_recorded_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "RECORDED", tmp_path)
    executed: list[tuple[str, int]] = []

    def execute(run: Run, budget: Budget, episodes: int, keep: Path | None) -> list[Row]:
        executed.append((run.method, run.seed))
        tasks = run.suite.task_names
        return [row(run.method, run.seed, step, 1.0, task) for step in (50, 100) for task in tasks]

    monkeypatch.setattr(learning, "execute", execute)
    quiet = Console(quiet=True)

    def options(seeds: int, again: bool = False) -> Options:
        methods = ("ezm", "ezm-alone")
        return Options("cartpole", methods, seeds, 100, 50, record=True, again=again)

    rows = compare(options(1), quiet)
    assert executed == [("ezm", 0)] + [("ezm-alone", 0)] * 4
    assert len(rows) == 16
    assert len(compare(options(2), quiet)) == 32
    assert executed[5:] == [("ezm", 1)] + [("ezm-alone", 1)] * 4
    compare(options(2), quiet)
    assert len(executed) == 10
    compare(options(1, again=True), quiet)
    assert len(executed) == 15
    lines = (tmp_path / "learning-cartpole.jsonl").read_text().splitlines()
    headers = [json.loads(line)["header"] for line in lines if "header" in line]
    assert [each["steps"] for each in headers] == [100, 100, 100]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "cartpol"}, "did you mean cartpole"),
        ({"steps": 100, "every": 30}, "--every 30"),
        ({"steps": 10, "every": 30}, "--every 30"),
        ({"seeds": 0}, "at least 1"),
        ({"episodes": 0}, "at least 1"),
    ],
)
def test_bad_options_are_named(change: dict, message: str) -> None:
    options = {"suite": "dmc:cartpole-balance", **change}
    with pytest.raises(UserError, match=message):
        compare(Options(**options), Console(quiet=True))


def test_a_failed_training_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    run = Run("ezm", 0, load_suite("dmc:cartpole-balance"), "no-such-suite", 1.0)
    with pytest.raises(UserError, match="failed"):
        list(learning.run_ezm(run, Budget(10, 10), 1))


@pytest.mark.parametrize("reached", [None, 0, 5, 10])
def test_a_kept_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: int | None
) -> None:
    task = "cartpole-balance"
    run = Run("ezm", 3, load_suite(f"dmc:{task}"), "some:suite", 1.0)
    folder = tmp_path / "ezm-some_suite-3"
    commands = []

    def evaluated(step: int) -> None:
        folder.mkdir(exist_ok=True)
        row = {"kind": "eval", "mode": "search", "task": task, "seconds": 1.0}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({**row, "step": step, "mean": 2.0 * step}) + "\n")

    def train(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command[3:])
        evaluated(10)
        return subprocess.CompletedProcess(command, 0)

    if reached is not None:
        evaluated(reached)
    monkeypatch.setattr(subprocess, "run", train)
    rows = list(learning.run_ezm(run, Budget(10, 5), 1, keep=tmp_path))
    assert [(row["steps_per_task"], row["return"]) for row in rows][-1] == (10, 20.0)
    if reached is None:
        assert commands[0][:2] == ["train", "some:suite"]
        assert commands[0][-2:] == ["--out", str(folder)]
    elif reached < 10:
        assert commands == [["train", "--resume", str(folder)]]
    else:
        assert not commands


def test_random_actions_are_one_row_per_task_at_step_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "RANDOM_EPISODES", 2)
    suite = load_suite("dmc:cartpole-balance,cartpole-swingup", episode_steps=5)
    rows = list(run_random(Run("random", 0, suite, suite.name, 1.0)))
    assert [(row["task"], row["steps_per_task"]) for row in rows] == [
        ("cartpole-balance", 0),
        ("cartpole-swingup", 0),
    ]
    # Five steps of eight rewards, each at most 1: upright at first in one, hanging in the other.
    assert 20 < rows[0]["return"] <= 40
    assert 0 <= rows[1]["return"] < 20
    again = list(run_random(Run("random", 0, suite, suite.name, 1.0)))
    assert [row["return"] for row in again] == [row["return"] for row in rows]


class TestAblations:
    @pytest.mark.parametrize("name", ablations.VARIANTS)
    def test_options_are_known_and_change_the_preset(self, name: str) -> None:
        preset = defaults("cpu", "cartpole")
        config = parse(TrainConfig, "train", ablations.VARIANTS[name], preset)
        assert (config != preset) == (name != ablations.BASE)

    def test_only_what_is_missing_is_trained(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained: list[tuple[str, int, tuple[str, ...]]] = []

        def run_ezm(run: Run, budget: Budget, episodes: int, changes: tuple[str, ...]) -> list[Row]:
            trained.append((run.method, run.seed, changes))
            return [row(run.method, run.seed, budget.steps, 1.0, t) for t in run.suite.task_names]

        monkeypatch.setattr(ablations, "RECORDED", tmp_path / "ablations.jsonl")
        monkeypatch.setattr(ablations, "run_ezm", run_ezm)
        names = (ablations.BASE, "101 bins")
        quiet = Console(quiet=True)
        ablations.run(ablations.Options(names, seeds=1, record=True), quiet)
        rows = ablations.run(ablations.Options(names, seeds=2, record=True), quiet)
        options = ((), ("--model.bins", "101"))
        assert trained == [(n, s, o) for s in (0, 1) for n, o in zip(names, options)]
        assert ablations.table(rows).row_count == 2

    def test_an_unknown_variant_is_named(self) -> None:
        with pytest.raises(UserError, match="'magic' is unknown"):
            ablations.run(ablations.Options(("magic",)), Console(quiet=True))


# -- planner ------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "precision"), [(3, "float32"), (1, "bfloat16")])
def test_planner_rows_have_a_time_for_every_program(
    batch: int, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = replace(PRESETS["cpu"].model, latent_size=8, task_embedding_size=4, action_code_size=4)
    monkeypatch.setitem(planner.MODELS, "tiny", tiny)
    options = planner.Options(
        models=("tiny",),
        batches=(batch,),
        searches=("2x2",),
        precision=precision,
        calls=5,
        seconds=0.0,
    )
    (row,) = planner.measure(options)
    assert (row["actions"], row["simulations"], row["batch"]) == (2, 2, batch)
    assert min(value for key, value in row.items() if key.endswith("_ms")) > 0
    assert row["ours_p99_ms"] >= row["ours_ms"]
    shown = Console(width=140)
    with shown.capture() as captured:
        shown.print(planner.table([row]))
    assert "2 x 2" in captured.get()


def test_programs_take_turns() -> None:
    calls: list[str] = []
    programs = {name: partial(calls.append, name) for name in ("a", "b")}
    taken = planner.times(programs, most=7, seconds=100.0)
    assert calls == ["a", "b"] * 8
    assert {name: len(ms) for name, ms in taken.items()} == {"a": 7, "b": 7}
    assert len(planner.times(programs, most=1_000, seconds=0.0)["a"]) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (planner.Options(models=("2M",)), "--models 2M: there are 0.5M, 16M"),
        (planner.Options(searches=("16",)), "--searches 16: write root actions x simulations"),
        (planner.Options(batches=(0,)), "--batches must be at least 1"),
    ],
)
def test_planner_refuses(options: planner.Options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(planner.measure(options))


# -- several devices ---------------------------------------------------------------------------


def test_sharding_times_each_number_of_devices_in_its_own_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, str]] = []

    def process(command: list[str], env: dict[str, str], **_: Any) -> Any:
        seen.append(env)
        line = f'{{"devices": {command[3].split("=")[1]}, "update_ms": 2.0, "targets_ms": 1.0}}'
        return subprocess.CompletedProcess(command, 0, stdout=line)

    monkeypatch.setattr(sharding.subprocess, "run", process)
    rows = sharding.measure(sharding.Options())
    assert [each["devices"] for each in rows] == [1, 2, 8] and sharding.table(rows).row_count == 3
    assert "--xla_force_host_platform_device_count=8" in seen[-1]["XLA_FLAGS"]
    with pytest.raises(UserError, match="each at least 1"):
        sharding.measure(sharding.Options(devices=(0,)))


@pytest.mark.slow
def test_second_starts_are_the_faster_ones() -> None:
    rows = {row["command"]: row for row in startup.measure(startup.Options())}
    assert list(rows) == ["import ezm", "train", "eval", "planner"]
    assert rows["import ezm"]["second"] < 1.0
    for command in ("train", "eval", "planner"):
        assert rows[command]["second"] < 15.0
        assert rows[command]["second"] < rows[command]["first"], command


def test_a_run_is_kept_with_how_it_acted_and_its_control_steps() -> None:
    from benchmarks.keep import rows

    config = replace(PRESETS["cpu"], suite="t", seed=3, protocol="paper")
    metrics: list[dict[str, Any]] = [
        {"kind": "episode", "task": "t", "policy": "t", "return": 2.0},
        {"kind": "episode", "task": "t", "policy": "u", "return": 90.0},
        {"kind": "episode", "task": "t", "policy": "t", "return": 4.0},
        *(
            {"kind": "eval", "mode": m, "step": 10, "seconds": 5.0, "task": "t", "returns": [v, v]}
            for m, v in (("search", 7.0), ("policy", 6.0))
        ),
    ]
    kept = list(rows(config, {"t": 4}, metrics, "new"))
    assert [(row["acting"], row["return"]) for row in kept] == [
        ("training", 3.0),
        ("search", 7.0),
        ("mean", 6.0),
    ]
    assert {(row["control_steps"], row["seed"], row["protocol"]) for row in kept} == {
        (40, 3, "paper")
    }


def test_ways_of_acting_are_curves_of_their_own() -> None:
    def row(acting: str | None, value: float) -> Row:
        made: Row = {
            "suite": "s",
            "method": "ezm",
            "seed": 0,
            "task": "t",
            "steps_per_task": 10,
            "seconds": 1.0,
            "return": value,
        }
        return made if acting is None else {**made, "acting": acting}

    recorded = [row("mean", 1.0), row(None, 5.0)]
    assert Curves(recorded).final("ezm", "t") == [5.0]
    assert Curves(recorded, acting="mean").final("ezm", "t") == [1.0]


def test_evaluations_in_a_window_are_averaged_and_drawn(tmp_path: Path) -> None:
    from benchmarks import humanoids

    rows: list[Row] = [
        {
            "suite": "h1-stand",
            "method": "new",
            "seed": seed,
            "task": "h1-stand",
            "steps_per_task": step,
            "seconds": 1.0,
            "return": float(step + seed),
            "control_steps": 4 * step,
            "acting": "search",
        }
        for seed in (0, 1)
        for step in (10, 20, 30)
    ]
    found = list(humanoids.windows(rows, 30, 10))
    assert [(row["seed"], row["mean"], row["rows"]) for row in found] == [
        (0, 25.0, 2),
        (1, 26.0, 2),
    ]
    humanoids.draw(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_the_difference_of_areas_has_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learning, "RECORDED", tmp_path)

    def kept(suite: str, method: str, levels: list[float]) -> None:
        for seed, level in enumerate(levels):
            # The second half of the longer curves counts for nothing.
            for step, height in ((0, 0.0), (10, 2 * level), (20, 900.0)):
                append(recorded_path(suite), [row(method, seed, step, height, "b")])

    kept("a,b", "many", [10.0, 12.0, 14.0])
    kept("b", "one", [4.0, 5.0, 6.0])
    arguments = difference.Options("a,b", "many", "one", alone=True, steps=10)
    (found,) = difference.compare(difference.recorded(arguments), arguments)
    assert found["task"] == "b" and found["steps"] == [0, 10]
    assert found["areas"] == [10.0, 12.0, 14.0] and found["areas against"] == [4.0, 5.0, 6.0]
    assert found["difference"] == pytest.approx(7.0)
    # Welch: a standard error of sqrt(4/3 + 1/3) with 2.941 degrees of freedom, t = 3.2188.
    np.testing.assert_allclose(found["interval"], [7 - 4.1554, 7 + 4.1554], atol=1e-4)
    difference.main(arguments)
    assert "2.84 to 11.2" in capsys.readouterr().out
    with pytest.raises(UserError, match="'one' has no rows for a,b"):
        difference.main(replace(arguments, alone=False))
    with pytest.raises(UserError, match="no task has curves of mean"):
        difference.main(replace(arguments, acting="mean"))
    assert all(map(math.isnan, difference.welch(np.array([1.0]), np.array([2.0, 3.0]))))
