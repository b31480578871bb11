"""Runs beside each other: variants, their names, bands over seeds, and what cannot be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import Collection
from matplotlib.colors import to_rgb

import ezm.cli
from benchmarks.report import invent
from ezm.cli.options import config_of, parse_run
from ezm.cli.train import Train
from ezm.config import TrainConfig, from_dict, to_dict
from ezm.config.presets import defaults
from ezm.report.figures import learning_curves, seed_curve
from ezm.report.record import Record
from ezm.report.report import write_report
from ezm.report.variants import group, train_command
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger

CARTPOLE = ("cartpole-balance", "cartpole-swingup")


def run(
    path: Path,
    seed: int = 0,
    *,
    returns: Mapping[str, float] | None = None,
    tasks: tuple[str, ...] = CARTPOLE,
    suite: str = "cartpole",
    evaluations: tuple[int, ...] = (50, 100),
    **changes: Any,
) -> Path:
    """A run of some evaluations; task -> the return at step 100, half of it at step 50."""
    config = replace(defaults("cpu", suite), suite=suite, seed=seed, **changes)
    folder = RunFolder.create(path, to_dict(config))
    with MetricsLogger(folder, tensorboard=False) as log:
        log.log("start", 0, 0.0, suite=suite, tasks=list(tasks), version="1.2.3")
        for task in tasks:
            log.log("eval", 0, 0.0, task=task, mode="random", returns=[10.0], mean=10.0)
        for step in evaluations:
            log.log("train", step, 2.0 * step, updates=step, value_error=float(seed))
            for task in tasks:
                value = (returns or {}).get(task, 500.0) * step / 100
                log.log("eval", step, 2.0 * step, task=task, mode="search", returns=[value] * 2)
    return path


def cells(page: str, first: str) -> list[str]:
    row = re.search(rf"<tr[^>]*><td>{first}</td>(.*?)</tr>", page)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row.group(1))


def ends(band: Collection, x: float) -> tuple[float, float]:
    """The lower and the upper end of a drawn band."""
    corners = band.get_paths()[0].vertices
    heights = corners[np.isclose(corners[:, 0], x), 1]
    return heights.min(), heights.max()


def error(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on standard error of a report that must fail as a user's mistake."""
    capsys.readouterr()
    assert ezm.cli.main(["report", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


# -- variants ----------------------------------------------------------------------------------


def test_runs_that_differ_in_seed_alone_are_one_variant(tmp_path: Path) -> None:
    cpu = defaults("cpu", "cartpole")
    slow, large = replace(cpu.loss, unroll=2), replace(cpu.model, latent_size=8)
    paths = [run(tmp_path / f"a{seed}", seed) for seed in (1, 0)]
    paths.append(run(tmp_path / "b", 0, loss=slow))
    paths.append(run(tmp_path / "c", 0, loss=slow, model=large))
    variants = group([Record.read(path) for path in paths])
    assert [variant.name for variant in variants] == [
        "latent-size=64, unroll=3",
        "latent-size=64, unroll=2",
        "latent-size=8, unroll=2",
    ]
    assert [record.name for record in variants[0].records] == ["a0", "a1"]


def test_one_variant_is_named_by_its_suite(tmp_path: Path) -> None:
    variants = group([Record.read(run(tmp_path / str(seed), seed)) for seed in range(2)])
    assert [variant.name for variant in variants] == ["cartpole"]


def test_options_of_one_name_in_two_parts_keep_their_part(tmp_path: Path) -> None:
    one = Record.of(tmp_path / "a", {"a": {"size": 1, "x": 0.5}, "b": {"size": 1}}, [])
    two = Record.of(tmp_path / "b", {"a": {"size": 2, "x": 0.5}, "b": {"size": None}}, [])
    assert [each.name for each in group([one, two])] == [
        "a.size=1, b.size=1",
        "a.size=2, b.size=None",
    ]


def test_an_option_that_a_run_does_not_have_is_said(tmp_path: Path) -> None:
    old, new = (
        Record.of(tmp_path / "a", {"a": 1}, []),
        Record.of(tmp_path / "b", {"a": 1, "b": None}, []),
    )
    assert [variant.name for variant in group([old, new])] == ["no b", "b=None"]


def test_names_that_would_be_the_same_are_numbered(tmp_path: Path) -> None:
    records = [
        Record.of(tmp_path / f"{i}", {"a": i // 2, "b": 0, "c": 0, "d": i}, []) for i in (0, 1)
    ]
    records.append(Record.of(tmp_path / "2", {"a": 1, "b": 1, "c": 1, "d": 2}, []))
    assert [variant.name for variant in group(records)] == [
        "a=0, b=0, c=0",
        "a=0, b=0, c=0 #2",
        "a=1, b=1, c=1",
    ]


def test_a_band_over_seeds_covers_what_all_of_them_did() -> None:
    one = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])
    other = np.array([5.0, 15.0]), np.array([2.0, 2.0])
    found = seed_curve([one, other])
    assert found is not None
    x, mean, low, high = found
    assert x.tolist() == [5, 10, 15]
    assert mean.tolist() == [1.25, 1.5, 1.75]
    assert low.tolist() == [0.5, 1.0, 1.5] and high.tolist() == [2, 2, 2]
    assert seed_curve([one, (np.array([30.0]), np.array([1.0]))]) is None
    assert seed_curve([one, (np.empty(0), np.empty(0))]) is None


def test_curves_have_a_band_for_each_variant_of_several_seeds(tmp_path: Path) -> None:
    cpu = defaults("cpu", "cartpole")
    paths = [run(tmp_path / f"a{s}", s, returns={"cartpole-balance": 100.0 * s}) for s in range(3)]
    paths.append(run(tmp_path / "b", loss=replace(cpu.loss, unroll=2)))
    variants = group([Record.read(path) for path in paths])
    balance, _ = learning_curves(variants, CARTPOLE, "seconds", {})
    assert balance.get_xlabel() == "wall clock, minutes"
    several, alone = balance.lines
    (band,) = balance.collections
    assert several.get_label() == "unroll=3" and len(alone.get_xydata()) == 2
    assert tuple(band.get_facecolor()[0])[:3] == to_rgb(several.get_color())
    np.testing.assert_allclose(several.get_xdata(), [100 / 60, 200 / 60])
    np.testing.assert_allclose(several.get_ydata(), [50, 100])
    np.testing.assert_allclose(ends(band, 100 / 60), [0, 100])
    np.testing.assert_allclose(ends(band, 200 / 60), [0, 200])


# -- the page ----------------------------------------------------------------------------------


def test_a_page_compares_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cpu = defaults("cpu", "cartpole")
    for seed, value in enumerate((900.0, 1000.0)):
        run(tmp_path / f"a{seed}", seed, returns={"cartpole-balance": value})
    run(tmp_path / "b", loss=replace(cpu.loss, consistency_weight=0.0))
    assert ezm.cli.main(["report", "a0", "a1", "b", "b"]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    page = Path("comparison.html").read_text()
    # Half the width of Student's interval of two values: 12.7 times half their distance.
    assert cells(page, "cartpole-balance") == ["10", "950 ± 635", "500"]
    assert cells(page, "cartpole-swingup") == ["10", "500 ± 0", "500"]
    assert cells(page, "seeds") == ["", "2", "1"]
    assert cells(page, "loss.consistency-weight") == ["20", "0"]
    # Scores: 0.9, 1.0, 0.5, 0.5; their mean and that of the middle half.
    name = "consistency-weight=20"
    assert cells(page, name)[0] == "2 × 2"
    assert [cell.split()[0] for cell in cells(page, name)[1:]] == ["0.700", "0.725"]
    assert cells(page, "consistency-weight=0") == ["1 × 2", "0.500", "0.500"]
    assert cells(page, "a1")[:3] == [name, "1", "100"]
    assert page.count("ezm train cartpole") == 3
    links = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)""", page)
    assert all(each.startswith(("#", "data:")) for pair in links for each in pair if each)


def test_runs_of_two_suites_are_compared_in_what_they_share(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    other = run(tmp_path / "other", suite="mixed", tasks=("cartpole-swingup", "finger-spin"))
    page = write_report([one, other], tmp_path / "page.html").read_text()
    assert "Compared in what all runs share, cartpole-swingup; " in page
    assert "left out: cartpole-balance, finger-spin." in page
    assert cells(page, "cartpole-swingup") == ["10", "500", "500"]
    assert "<td>finger-spin</td>" not in page


def test_a_run_without_an_evaluation_is_left_out(tmp_path: Path) -> None:
    paths = [run(tmp_path / "done"), run(tmp_path / "new", 1, evaluations=())]
    page = write_report(paths, tmp_path / "page.html").read_text()
    assert "Without an evaluation yet, and left out: new." in page
    assert cells(page, "seeds") == ["", "1"]


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    one, new = run(tmp_path / "one"), run(tmp_path / "new", evaluations=())
    walker = run(tmp_path / "walker", suite="walker", tasks=("walker-walk",))
    assert "Missing from ezm report: RUN" in error(capsys)
    assert "nothing is not a run folder, it does not exist" in error(capsys, one, "nothing")
    assert "is one run, a comparison needs two or more" in error(
        capsys, one, tmp_path / "new" / ".." / "one"
    )
    assert "new has no evaluation yet" in error(
        capsys, new, run(tmp_path / "too", 1, evaluations=())
    )
    assert "one (cartpole) and walker (walker) have no task in common" in error(capsys, one, walker)
    other = run(tmp_path / "other", 1)
    assert "cannot write to missing/page.html" in error(
        capsys, one, other, "--out", "missing/page.html"
    )
    assert "cannot write to missing/page.html" in error(capsys, one, "--out", "missing/page.html")
    with open(other / "metrics.jsonl", "a") as file:
        file.write("{\n{}\n")
    assert "metrics.jsonl line" in error(capsys, one, other)


def test_a_page_of_one_run_goes_where_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = run(tmp_path / "one")
    assert ezm.cli.main(["report", str(one), "--out", str(tmp_path / "page.html")]) == 0
    assert "cartpole-balance" in (tmp_path / "page.html").read_text()
    assert not (one / "report.html").exists()
    assert ezm.cli.main(["report", str(one)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(one / "report.html")


def test_pages_of_long_runs_stay_small(tmp_path: Path) -> None:
    paths = [invent(tmp_path / f"{seed}", seed, rows=10_000) for seed in range(2)]
    assert write_report(paths, tmp_path / "page.html").stat().st_size < 1_000_000
    assert write_report([paths[0]]).stat().st_size < 1_000_000


# -- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["cartpole"],
        ["walker", "--seed", "3", "--steps", "777"],
        ["h1-stand,h1-walk", "--protocol", "paper"],
        ["cartpole", "--model.no-task-embedding", "--loss.consistency-weight", "0"],
        ["cartpole", "--model.value-range", "-5", "12.5", "--loss.path-weight", "0"],
        ["dmc:walker-walk", "--preset", "paper", "--action-repeat", "2"],
    ],
)
def test_the_command_starts_the_same_run(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config: TrainConfig = config_of(parse_run(Train, "train", options))
    command = train_command(json.loads(json.dumps(to_dict(config))))
    words = command.split()
    assert words[:2] == ["ezm", "train"]
    again = config_of(parse_run(Train, "train", words[2:]))
    assert again == config == from_dict(json.loads(json.dumps(to_dict(config))))


def test_the_command_names_what_is_not_the_default() -> None:
    config = replace(defaults("cpu", "cartpole"), suite="cartpole", seed=4)
    config = replace(config, model=replace(config.model, task_embedding=False))
    assert train_command(to_dict(config)) == (
        "ezm train cartpole --preset cpu --seed 4 --model.no-task-embedding"
    )
