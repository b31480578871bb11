"""The report: one page from a run folder, whatever state the run is in."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ezm.errors import UserError
from ezm.evaluation import figures
from ezm.evaluation.report import learning_curve_figure, result_table, write_report
from ezm.training.metrics import MetricsLogger, read_metrics
from ezm.training.run_folder import RunFolder

CONFIG = {"suite": "pair", "seed": 3, "model": {"latent_size": 64, "value_range": (0.0, 8.5)}}
REFERENCE = {"left": {"random": 40.0, "sac": 250.0}, "right": {"random": 5.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two tasks, "left" better than "right", evaluated twice at its last step."""
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "pair <1>", CONFIG)
    with MetricsLogger(run, tensorboard=False) as log:
        log.log(
            "start",
            0,
            0.0,
            version="9.9.9",
            machine={"device": "toaster", "cores": 2},
            suite="pair",
            tasks=["left", "right"],
            parameters=1234567,
        )
        for step in range(100, 1001, 100):
            seconds = step / 10
            for task, top in (("left", 800), ("right", 400)):
                value = {"return": top * step / 1000}
                log.log("episode", step, seconds, task=task, length=100, terminated=False, **value)
            loss = {"loss/total": 1000 / step, "loss/value": float("nan"), "gradient/norm": 1.0}
            log.log("train", step, seconds, updates=2 * step, **loss)
            log.log("diagnostic", step, seconds, task="left", **{"spearman/q": step / 1000})
        for step, returns in ((500, [400.0, 420.0]), (1000, [1.0]), (1000, [800.0, 820.0, 840.0])):
            log.log(
                "eval",
                step,
                100.0,
                task="left",
                mode="search",
                returns=returns,
                mean=np.mean(returns),
            )
        log.log("eval", 1000, 100.0, task="right", mode="search", returns=[390.0], mean=390.0)
        log.log("eval", 1000, 100.0, task="left", mode="policy", returns=[700, 702], mean=701)
    return run


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    path = write_report(run.path, REFERENCE)
    assert path == run.report_path
    return path.read_text()


def test_result_table_takes_the_last_evaluation(run: RunFolder) -> None:
    left, right = result_table(read_metrics(run.metrics_path), REFERENCE)
    assert (left["task"], left["step"], left["random"], left["sac"]) == ("left", 1000, 40.0, 250.0)
    assert left["search"].mean == 820 and left["search"].n == 3
    assert left["search"].half_width == pytest.approx(4.303 * 20 / 3**0.5, rel=1e-3)
    assert left["policy"].mean == 701
    assert right["search"].mean == 390 and np.isnan(right["search"].half_width)
    assert right["policy"] is None and right["sac"] is None


def cells(page: str, task: str) -> list[str]:
    row = re.search(rf"<tr[^>]*><td>{task}</td>(.*?)</tr>", page)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row.group(1))


def test_page_shows_results_beside_the_reference(page: str) -> None:
    assert cells(page, "left") == ["40", "820 ± 50", "701 ± 13", "250"]
    assert cells(page, "right") == ["5", "390", "–", "–"]
    assert cells(page, "mean over tasks") == ["22.5", "605", "–", "–"]


def test_page_needs_nothing_else(page: str) -> None:
    links = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert all(target.startswith("#") for pair in links for target in pair if target)
    assert "<script" not in page


def test_page_has_every_part(page: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Results",
        "Learning curves",
        "Does the model rank actions?",
        "Losses",
        "Training",
        "Throughput",
        "Configuration",
    ]
    for text in ("1,234,567", "ezm 9.9.9", "device toaster", "model.latent_size", "2,000"):
        assert text in page
    assert "pair &lt;1&gt;" in page and "<1>" not in page, "names are escaped"


def test_figures_are_valid_and_take_the_theme(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(pictures) == 5
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "var(--ink)" in picture and figures.INK not in picture
    ids = [i for picture in pictures for i in re.findall(r'<clipPath id="(\w+)"', picture)]
    assert len(ids) == len(set(ids)), "one picture's clip paths must not reach another"


def test_learning_curve_shows_evaluations_and_reference(run: RunFolder, tmp_path: Path) -> None:
    figure = learning_curve_figure(read_metrics(run.metrics_path), REFERENCE)
    assert figure is not None
    left, right = figure.axes
    assert [left.get_title("left"), right.get_title("left")] == ["left", "right"]
    lines = {str(line.get_label()): line for line in left.lines}
    np.testing.assert_allclose(lines["evaluation, search"].get_xydata(), [[500, 410], [1000, 820]])
    np.testing.assert_allclose(lines["SAC, same steps"].get_ydata(), 250)
    np.testing.assert_allclose(lines["random policy"].get_ydata(), 40)
    assert left.get_ylim()[0] == 0
    assert "SAC, same steps" not in {str(line.get_label()) for line in right.lines}
    figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_a_run_that_has_hardly_begun_has_a_report(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert "pair" in write_report(run.path).read_text()
    with MetricsLogger(run, tensorboard=False) as log:
        log.log("start", 0, 0.0, suite="pair", tasks=["left"])
        log.log("train", 0, 1.0, updates=0, **{"loss/total": 1.0})
    assert "No evaluation has been finished yet" in write_report(run.path).read_text()


def test_what_is_not_a_run_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        write_report(tmp_path)


def test_bins_average_and_keep_the_overall_mean() -> None:
    x, y = figures.binned(np.array([1.0, 1.0, 2.0]), np.array([3.0, 5.0, 7.0]), bins=10)
    assert x.tolist() == [1, 2] and y.tolist() == [4, 7]
    x, y = figures.binned(np.arange(1000.0), np.arange(1000.0), bins=10)
    np.testing.assert_allclose(x, 49.5 + 100 * np.arange(10), atol=1)
    assert y.mean() == pytest.approx(499.5, abs=1)
