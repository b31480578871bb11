"""The report in a browser: it opens offline, shows everything, and fits a screen and a telephone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ezm.cli.train import Demo
from ezm.report.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium: install it, e.g. apt-get install chromium (or run .ci/browser)",
)
FILM = Path(__file__).parent / "recordings" / "film.mp4"
TINY = """
    cartpole --steps 200 --random-steps 30 --evaluate-every 100 --evaluation-episodes 1 --final-episodes 2
    --planner.simulations 4 --planner.root-actions 4 --planner.policy-actions 2 --model.latent-size 16
    --optimizer.batch-size 8 --loss.unroll 2 --loss.n-step 2 --planner.leaf-rollout 0
    --loss.path-weight 0 --updates-per-step 0.5
"""
# No service of the browser's own may ask the network for anything.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def with_films(run: Path) -> Path:
    (run / "films").mkdir()
    for task in ("cartpole-balance", "cartpole-swingup"):
        shutil.copy(FILM, run / "films" / f"{task}.mp4")
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four tasks that was really trained, if only for a moment."""
    path = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "-m", "ezm", "train", *TINY.split(), "--out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return with_films(path)


@pytest.fixture(scope="module")
def comparison(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with two seeds each, of the same numbers."""
    folder, paths = tmp_path_factory.mktemp("compared"), []
    for name, seed, batch in (("a0", 0, 8), ("a1", 1, 8), ("b0", 0, 16), ("b1", 1, 16)):
        paths.append(shutil.copytree(trained, folder / name))
        document = json.loads((paths[-1] / "config.json").read_text())
        document["config"]["seed"] = seed
        document["config"]["optimizer"]["batch_size"] = batch
        (paths[-1] / "config.json").write_text(json.dumps(document))
    return write_report(paths, folder / "comparison.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Opened:
    """A page, and what it asked for and complained of while it was opened."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str, scripts: bool = True):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(path.absolute().as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


# What lies outside the width of the page, outside its picture, or is smaller than eight pixels.
UGLY = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('.panels svg')) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    for (const text of svg.querySelectorAll('text')) {
      const box = text.getBoundingClientRect();
      const size = parseFloat(getComputedStyle(text).fontSize) * frame.width / svg.viewBox.baseVal.width;
      const inside = box.left >= frame.left - 2 && box.right <= frame.right + 6
        && box.top >= frame.top - 2 && box.bottom <= frame.bottom + 2;
      if (!inside || size < 8) found.push([text.textContent, size, box.right - frame.right]);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page scrolls sideways');
  return found;
}"""


def check(browser: Any, path: Path, *, films: int) -> None:
    """Opened on a screen and on a telephone, light and dark: nothing is missing, fetched, or out of place."""
    for width, scheme in ((1280, "light"), (390, "dark")):
        with Opened(browser, path, width, scheme) as opened:
            page = opened.page
            page.wait_for_function(
                "[...document.querySelectorAll('video')].every(video => video.readyState >= 1)"
            )
            outside = [url for url in opened.requests if not url.startswith("data:")]
            assert outside == [path.absolute().as_uri()] and opened.messages == []
            assert page.evaluate("document.querySelectorAll('video').length") == films
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            shown = page.evaluate(
                "[...document.querySelectorAll('.panels svg')].map(svg => svg.getBoundingClientRect().width)"
            )
            # Four panels, those over the wall clock, are behind the switch.
            assert len(shown) > 15 and shown.count(0) == 4 and min(filter(None, shown)) > 150
            assert page.evaluate(UGLY) == []


def test_the_report_of_a_run(trained: Path, browser: Any) -> None:
    check(browser, write_report([trained]), films=2)


def test_the_comparison_of_runs(comparison: Path, browser: Any) -> None:
    check(browser, comparison, films=0)


def test_the_axis_is_switched_without_scripts(trained: Path, browser: Any) -> None:
    with Opened(browser, write_report([trained]), 1280, "light", scripts=False) as opened:
        steps, clock = opened.page.locator(".switch > div").all()
        assert steps.is_visible() and not clock.is_visible()
        opened.page.get_by_label("wall clock").click()
        assert clock.is_visible() and not steps.is_visible()


@pytest.mark.slow
def test_the_report_of_the_demo(tmp_path: Path, browser: Any) -> None:
    assert not Demo(out=tmp_path / "run")()
    check(browser, tmp_path / "run" / "report.html", films=4)
