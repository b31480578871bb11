"""The report: one page from a run folder, whatever state the run is in."""

import base64
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes

from ezm.acting.evaluate import Episodes
from ezm.acting.results import Evaluation, save_evaluation, task_result
from ezm.errors import UserError
from ezm.report import panels, reference
from ezm.report.figures import binned, learning_curves
from ezm.report.record import Axis, Record
from ezm.report.reference import Published, Reference
from ezm.report.report import report_page, results, shown, write_report
from ezm.report.variants import Variant
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import MetricsLogger
from ezm.tasks import load_suite

CONFIG = {"suite": "pair", "seed": 3, "model": {"latent_size": 64, "value_range": (0.0, 8.5)}}
REFERENCE = {"left": {"random": 40.0, "sac": 250.0}, "right": {"random": 5.0}}
FILM = Path(__file__).parent / "recordings" / "film.mp4"


def evaluated(value: float, seed: int) -> Evaluation:
    """Four episodes of h1-stand, all with the same return."""
    spec = load_suite("h1-stand").tasks[0]
    episodes = Episodes(np.full(4, value), np.full(4, 1000), np.zeros(4, bool))
    return Evaluation(
        date="2026-01-01T00:00:00+00:00",
        step=1000,
        planner="search",
        protocol="benchmark",
        episodes=4,
        seed=seed,
        version="9.9.9",
        machine={},
        tasks={spec.name: task_result(spec, episodes)},
        aggregate=None,
    )


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
            priority = {"value_error": 2.0, "priority/left": 3.0, "priority/right": 1.0}
            log.log("train", step, seconds, updates=2 * step, **loss, **priority)
            log.log("diagnostic", step, seconds, task="left", **{"spearman/q": step / 1000})
        for step, returns in ((500, [400.0, 420.0]), (1000, [1.0]), (1000, [800.0, 820.0, 840.0])):
            log.log(
                "eval",
                step,
                step / 10,
                task="left",
                mode="search",
                returns=returns,
                mean=np.mean(returns),
            )
        log.log("eval", 1000, 100.0, task="right", mode="search", returns=[390.0], mean=390.0)
        log.log("eval", 1000, 100.0, task="left", mode="policy", returns=[700, 702], mean=701)
    save_evaluation(run.path, evaluated(700.0, seed=1))
    save_evaluation(run.path, evaluated(900.0, seed=0))
    (run.path / "films").mkdir()
    for name in ("alone", "left", "right"):
        shutil.copy(FILM, run.path / "films" / f"{name}.mp4")
    return run


def run_curves(
    record: Record, axis: Axis, known: Reference, others: Published | None = None
) -> list[Axes]:
    """The learning curves of one run."""
    variant = Variant("", (record,))
    return learning_curves([variant], record.tasks, axis, known, others, alone=True)


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return report_page(shown([Record.read(run.path)], REFERENCE))


def test_results_take_the_last_evaluation(run: RunFolder, page: str) -> None:
    columns = results(shown([Record.read(run.path)], REFERENCE))
    assert list(columns) == [
        "random policy",
        "EZ-M, search",
        "EZ-M, policy mean",
        "SAC, same steps",
    ]
    (random, _), (left, right), policy, sac = columns.values()
    assert (random.mean, sac[0].mean) == (40.0, 250.0)
    assert left.mean == 820 and left.n == 3
    assert left.half_width == pytest.approx(4.303 * 20 / 3**0.5, rel=1e-3)
    assert policy[0].mean == 701
    assert right.mean == 390 and np.isnan(right.half_width)
    assert np.isnan(policy[1].mean) and np.isnan(sac[1].mean)
    assert "over 3 evaluation episodes at 1,000 environment steps per task" in page


def cells(page: str, task: str) -> list[str]:
    row = re.search(rf"<tr[^>]*><td>{task}</td>(.*?)</tr>", page)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row.group(1))


def test_page_shows_results_beside_the_reference(page: str) -> None:
    assert cells(page, "left") == ["40", "820 ± 50", "701 ± 13", "250"]
    assert cells(page, "right") == ["5", "390", "–", "–"]
    assert cells(page, "mean over tasks") == ["22.5", "605", "–", "–"]


def part(page: str, title: str) -> str:
    """What stands below a heading."""
    return page.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def test_page_needs_nothing_else(page: str) -> None:
    links = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)\)|@import""", page)
    targets = [target for pair in links for target in pair if target]
    assert targets and all(target.startswith(("#", "data:")) for target in targets)
    assert "<script" not in page


def test_page_has_every_part(page: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Results",
        "Learning curves",
        "Evaluation",
        "Films",
        "Is learning sound?",
        "Does the model rank actions?",
        "Losses",
        "Training",
        "Throughput",
        "Machine",
        "Run it again",
        "Configuration",
    ]
    for text in ("1,234,567", "ezm 9.9.9", "toaster", "model.latent-size", "2,000"):
        assert text in page
    assert "pair &lt;1&gt;" in page and "<1>" not in page, "names are escaped"


def test_films_are_in_the_page_in_the_order_of_the_tasks(page: str) -> None:
    films = part(page, "Films")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", films) == ["left", "right", "alone"]
    data = base64.b64encode(FILM.read_bytes()).decode()
    assert films.count(f'src="data:video/mp4;base64,{data}"') == 3


def test_evaluations_are_shown_the_last_one_first(page: str) -> None:
    shown = part(page, "Evaluation")
    assert cells(shown, "h1-stand") == [
        "900 ± 0",
        "900 (900 to 900)",
        "800",
        "100%",
        "1.128",
        "1000",
    ]
    last, earlier = shown.split("Earlier evaluations")
    assert "seed 0" in last and "seed 1" in earlier and "700 ± 0" in earlier


def test_an_evaluation_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / "eval.json").write_text("[")
    shown = part(write_report([run.path]).read_text(), "Evaluation")
    assert "eval.json is damaged or of another version of ezm" in shown


def test_priorities_have_a_line_for_each_task(page: str) -> None:
    sound = part(page, "Is learning sound?")
    assert "value error" in sound and "priority of each task" in sound
    assert re.findall(r"</svg>(left|right)</li>", sound) == ["left", "right"]
    assert "priority/left" not in page, "it has no panel of its own"


def test_figures_are_valid_and_take_the_theme(page: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    # Two tasks twice, value error, priority, spearman, loss, gradient, two rates; and the legends' swatches.
    figures = [picture for picture in pictures if "aria-hidden" not in picture]
    assert len(figures) == 11
    for picture in figures:
        ElementTree.fromstring(picture)
        assert "var(--ink)" in picture and panels.INK not in picture
    ids = [i for picture in figures for i in re.findall(r' id="([\w.-]+)"', picture)]
    assert ids and len(ids) == len(set(ids)), "one picture's parts must not reach another"


def test_curves_can_be_switched_without_a_script(page: str) -> None:
    curves = part(page, "Learning curves")
    assert curves.count('type="radio"') == 2 and curves.count(" checked") == 1
    assert curves.count("environment steps per task</text>") == 2
    assert curves.count("wall clock, seconds</text>") == 2


def test_a_page_is_the_same_each_time(page: str, run: RunFolder) -> None:
    assert report_page(shown([Record.read(run.path)], REFERENCE)) == page


def test_learning_curve_shows_evaluations_and_reference(run: RunFolder, tmp_path: Path) -> None:
    drawn = run_curves(Record.read(run.path), "step", REFERENCE)
    left, right = drawn
    assert [left.get_title(loc="left"), right.get_title(loc="left")] == ["left", "right"]
    lines = {line.get_label(): line for line in left.lines}
    search = lines["evaluation, search"]
    np.testing.assert_allclose(search.get_xydata(), [[500, 410], [1000, 820]])
    (band,) = left.collections
    corners = band.get_paths()[0].vertices
    for (x, y), half in zip(search.get_xydata(), [12.706 * 10, 49.68], strict=True):
        heights = corners[corners[:, 0] == x, 1]
        np.testing.assert_allclose([y - heights.min(), heights.max() - y], half, rtol=1e-3)
    assert levels(left) == {"SAC, same steps": 250, "random policy": 40}
    assert list(levels(right)) == ["random policy"]
    (clock, _) = run_curves(Record.read(run.path), "seconds", REFERENCE)
    assert clock.get_xlabel() == "wall clock, seconds"
    times = {line.get_label(): line for line in clock.lines}[search.get_label()].get_xdata()
    np.testing.assert_allclose(times, [50, 100])
    left.figure.savefig(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def levels(axes: Axes) -> dict[object, float]:
    """The horizontal lines of a panel by their labels."""
    names = "success bar", "SAC, same steps", "random policy"
    return {
        line.get_label(): line.get_ydata()[0] for line in axes.lines if line.get_label() in names
    }


def test_a_far_bar_is_left_out(run: RunFolder) -> None:
    known = {"left": {"bar": 1600.0}, "right": {"bar": 850.0}}
    left, right = run_curves(Record.read(run.path), "step", known)
    assert list(levels(left)) == ["success bar"] and not levels(right)


def test_a_run_that_has_hardly_begun_has_a_report(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert "pair" in write_report([run.path]).read_text()
    with MetricsLogger(run, tensorboard=False) as log:
        log.log("start", 0, 0.0, suite="pair", tasks=["left", "middle", "right"])
        log.log("train", 0, 1.0, updates=0, **{"loss/total": 1.0})
    page = write_report([run.path]).read_text()
    assert "No evaluation has been finished yet" in page
    assert "no checkpoint yet" in part(page, "Map of the tasks")


def test_what_is_not_a_run_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        write_report([tmp_path])


@pytest.mark.parametrize(
    "row",
    ['{"step": 3}', '{"kind": "eval", "step": 3, "seconds": 1}', '{"kind": "train", "step": "x"}'],
)
def test_a_damaged_row_is_named(tmp_path: Path, row: str) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    good = '{"kind": "train", "step": 1, "seconds": 1.0}\n'
    run.metrics_path.write_text(good + row + "\n" + good)
    with pytest.raises(UserError, match=r"metrics.jsonl line 2 is damaged .*: remove that line"):
        write_report([run.path])


def test_humanoid_tasks_stand_beside_published_curves() -> None:
    curves, notes = reference.published(["h1-walk", "h1hand-walk", "walker-walk"])
    assert {task: list(found) for task, found in curves.items()} == {
        "h1-walk": ["EZ-M, paper"],
        "h1hand-walk": ["EZ-M, paper", "FastTD3"],
        "walker-walk": [],
    }
    assert "2603.01452" in notes["EZ-M, paper"] and "2505.22642" in notes["FastTD3"]
    paper, peer = curves["h1hand-walk"].values()
    assert paper.seconds is None and peer.seconds is not None
    # What was published: the last point of FastTD3.
    assert (peer.steps[-1], peer.seconds[-1], peer.mean[-1]) == (6_400_000, 3274, 928.3)
    for curve in (paper, peer):
        assert (curve.low <= curve.mean).all() and (curve.mean <= curve.high).all()
        assert (np.diff(curve.steps) > 0).all()


def test_published_curves_are_drawn_where_they_can_be(tmp_path: Path) -> None:
    record = Record.of(
        tmp_path,
        {"protocol": "paper"},
        [{"kind": "start", "step": 0, "seconds": 0, "tasks": ["h1hand-walk"]}]
        + [
            {
                "kind": "eval",
                "step": s,
                "seconds": s,
                "task": "h1hand-walk",
                "mode": "search",
                "returns": [9.0],
            }
            for s in (0, 100)
        ],
    )
    others, notes = reference.published(record.tasks)
    (steps,) = run_curves(record, "step", {}, others)
    (clock,) = run_curves(record, "seconds", {}, others)
    assert list(panels.legend([steps])) == ["EZ-M, paper", "FastTD3", "evaluation, search"]
    assert list(panels.legend([clock])) == ["FastTD3", "evaluation, search"]
    assert steps.get_xscale() == clock.get_xscale() == "log"
    assert all((line.get_xdata() > 0).all() for line in steps.lines), "nothing at 0 on a log axis"
    (plain,) = run_curves(record, "step", {})
    assert plain.get_xscale() == "linear" and notes


def test_bins_average_and_keep_the_overall_mean() -> None:
    x, y = binned(np.array([1.0, 1.0, 2.0]), np.array([3.0, 5.0, 7.0]), bins=10)
    assert x.tolist() == [1, 2] and y.tolist() == [4, 7]
    x, y = binned(np.arange(1000.0), np.arange(1000.0), bins=10)
    np.testing.assert_allclose(x, 49.5 + 100 * np.arange(10), atol=1)
    assert y.mean() == pytest.approx(499.5, abs=1)
