"""What the documents say exists and works: links to code, commands, the tutorial; what the site's hooks do."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import tyro
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

import ezm.cli
from ezm import platform
from ezm.config import to_dict
from ezm.config.presets import defaults
from ezm.runs.folder import RunFolder
from ezm.tasks import suites

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINK_TO_CODE = re.compile(r"\]\((?:\.\./)?src/(ezm/[\w/]+)\.py(?:#([\w.]+))?\)")
NAME = re.compile(r"`(ezm(?:\.\w+)+)[`(]")

# The least that trains: seconds, most of them compilation.
TINY = """
    --steps 60 --random-steps 30 --evaluation-episodes 1 --final-episodes 1
    --planner.simulations 4 --planner.root-actions 4 --planner.policy-actions 2
    --model.latent-size 16 --optimizer.batch-size 8 --loss.unroll 2 --loss.n-step 2
    --planner.leaf-rollout 0 --loss.path-weight 0 --updates-per-step 1
"""


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The code blocks of a page that are in one of these languages ("": none said)."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S):
        if language in languages:
            yield text


def typed(line: str) -> list[str]:
    """What follows ``ezm`` in a line of a shell; nothing where it is another command."""
    words = shlex.split(line.replace('eval "$(ezm', "ezm").replace(')"', ""), comments=True)
    words = words[: words.index(">")] if ">" in words else words
    return words[1:] if words[:1] == ["ezm"] else []


def commands(page: Path) -> list[list[str]]:
    """What a page tells the reader to type after ``ezm``."""
    lines = [line for text in blocks(page, "", "sh", "bash") for line in text.splitlines()]
    return [words for words in map(typed, lines) if words]


def examples(command: str) -> list[list[str]]:
    """The examples of a command's help; what stands behind two spaces explains them."""
    text = (inspect.getdoc(ezm.cli.COMMANDS[command]) or "").partition("Examples:")[2]
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines()]
    return [typed(line) for line in lines if "ezm " in line]


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for path, name in LINK_TO_CODE.findall(text):
        pkgutil.resolve_name(".".join(filter(None, (path.replace("/", "."), name))))
    for name in NAME.findall(text):
        pkgutil.resolve_name(name)


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert pkgutil.resolve_name("ezm.agent.world_model.scalars.h").__name__ == "h"
    with pytest.raises(AttributeError):
        pkgutil.resolve_name("ezm.agent.world_model.scalars.g")


def test_how_it_works_names_a_function_for_each_equation() -> None:
    page = ROOT / "docs/how-it-works.md"
    assert len(set(LINK_TO_CODE.findall(page.read_text()))) > 40
    assert len(list(blocks(page, "math"))) > 20


# -- commands ----------------------------------------------------------------------------------


class Understood(Exception):
    """In place of the command's work."""

    def __init__(self, options: Any):
        self.options = options


@pytest.mark.parametrize(
    ("page", "words"),
    [
        *((page.name, words) for page in PAGES for words in commands(page)),
        *((f"{name} --help", words) for name in ezm.cli.COMMANDS for words in examples(name)),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_a_command_that_a_page_shows_is_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str, words: list[str]
) -> None:
    def understood(*arguments: Any, **named: Any) -> None:
        raise Understood(parser(*arguments, **named))

    parser = tyro.cli
    monkeypatch.setattr(tyro, "cli", understood)
    monkeypatch.setattr(platform, "has_gpu", lambda: False)
    run = SimpleNamespace(config=to_dict(replace(defaults("cpu", "walker"), suite="walker")))
    monkeypatch.setattr(RunFolder, "open", lambda path: run)
    with pytest.raises(Understood) as stopped:
        ezm.cli.main(words)
        pytest.fail(f"{page}: {capsys.readouterr().err}")
    options = stopped.value.options
    for name in (getattr(options, "suite", None), *getattr(options, "names", ())):
        assert name in (None, "dmc") or suites.parse(name)


def test_commands_known_values() -> None:
    quickstart = commands(ROOT / "docs/index.md")
    assert ["train", "--resume", "runs/RUN", "--steps", "40000"] in quickstart
    assert ["completion", "bash"] in quickstart and ["completion", "fish"] in quickstart
    assert ["train", "walker"] in commands(ROOT / "README.md")
    assert ["tasks", "dmc"] in examples("tasks") and ["completion", "zsh"] in examples("completion")


@pytest.mark.parametrize(
    "words", ["--help", "--version", "tasks", "tasks h1-walk", "completion fish"]
)
def test_cheap_commands_run(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm.cli.main(words.split()) == 0
    assert capsys.readouterr().out


# -- the tutorial ------------------------------------------------------------------------------


def test_the_tutorial_works(tmp_path: Path) -> None:
    page = ROOT / "docs/tasks.md"
    (tmp_path / "my_tasks.py").write_text(next(blocks(page, "python")))
    tutorial = commands(page)[:4]
    assert [words[0] for words in tutorial] == ["tasks", "train", "eval", "report"]
    environment = {**os.environ, "EZM_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    said = []
    for words in tutorial:
        if words[0] == "train":
            words = [
                *words[: words.index("--steps")],
                *TINY.split(),
                *words[words.index("--out") :],
            ]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "ezm",
                *words,
                *(["--episodes", "1"] if words[0] == "eval" else []),
            ],
            env=environment,
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    shown = next(text for text in blocks(page, "text") if "my_tasks:centre" in text)
    assert [line.split() for line in said[0].splitlines()] == [
        line.split() for line in shown.splitlines()
    ]
    assert said[3].split()[-1].endswith("report.html")
    tasks = json.loads((tmp_path / "runs/points/config.json").read_text())["tasks"]
    assert {task["embodiment"] for task in tasks} == {"my_tasks.PointMass"}


# -- the site ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks() -> Any:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/site/hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("a.md", "[x](b.md#c)", "[x](b.md#c)"),
        ("a.md", "[x](#c)", "[x](#c)"),
        ("a.md", "[x](https://a.b/c.md)", "[x](https://a.b/c.md)"),
        ("a.md", "![x](b.png)", "![x](b.png)"),
        ("a.md", "[x](../CONTRIBUTING.md#set-up)", "[x](contributing.md#set-up)"),
        ("contributing.md", "[x](docs/a.md)", "[x](a.md)"),
        ("tests.md", "[x](../CHANGELOG.md)", "[x](changelog.md)"),
        ("a.md", "[x](../benchmarks/outsiders.py)", "x"),
        (
            "a.md",
            "[`h`](../src/ezm/agent/world_model/scalars.py#h)",
            "[`h`](api/agent-world_model.md#ezm.agent.world_model.scalars.h)",
        ),
        (
            "a.md",
            "[x](../src/ezm/tasks/sources/gymnasium.py)",
            "[x](api/tasks-sources.md#ezm.tasks.sources.gymnasium)",
        ),
        ("a.md", "[x](../src/ezm/control.py)", "[x](api/control.md#ezm.control)"),
    ],
)
def test_links_lead_to_pages_of_the_site(hooks: Any, page: str, link: str, expected: str) -> None:
    source = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hooks.on_page_markdown(f"a {link} b", page=source) == f"a {expected} b"


def test_equations_are_mathml(hooks: Any, caplog: pytest.LogCaptureFixture) -> None:
    inline = hooks.on_page_content(r'<p><span class="arithmatex">\(a &lt; b_1\)</span></p>')
    assert (
        inline.startswith("<p><math")
        and "<msub>" in inline
        and "&lt;" in inline.replace("&#x0003C;", "&lt;")
    )
    block = hooks.on_page_content('<div class="arithmatex">\\[\n\\frac{a}{b}\n\\]</div>')
    assert block.startswith('<div class="equation"><math') and "<mfrac>" in block
    assert not caplog.records
    hooks.on_page_content(r'<span class="arithmatex">\(\nonsense x\)</span>')
    assert "nonsense" in caplog.text


def test_names_in_code_lead_to_the_reference(hooks: Any) -> None:
    assert hooks.on_page_content(":func:<code>h</code>") == "<code>h</code>"
    linked = hooks.on_page_content("see <code>ezm.config.check</code>")
    assert (
        linked
        == 'see <autoref optional identifier="ezm.config.check"><code>ezm.config.check</code></autoref>'
    )
    option = "<code>--loss.unroll</code> <code>ezm train --steps 3</code>"
    assert hooks.on_page_content(option) == option.replace("<code>--", '<code class="option">--')


def test_nothing_is_fetched_from_elsewhere(hooks: Any, caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    own = '<script src="a.js"></script><a href="https://arxiv.org">x</a><img src="b.png">'
    assert hooks.on_post_page(own, page=page) == own and not caplog.records
    hooks.on_post_page('<link rel="stylesheet" href="https://fonts.example/a.css">', page=page)
    assert "fonts.example" in caplog.text


def test_every_module_has_a_place_in_the_reference(hooks: Any) -> None:
    known = {
        "cli",
        "errors",
        "platform",
        "py",
        "__main__",
    }
    for path in (ROOT / "src/ezm").iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert path.stem in known | {"__init__"} or path.stem in hooks.API, path.name
    named = "\n".join(hooks._reference(name) for name in hooks.API)
    assert "::: ezm.agent.planning.search\n" in named and "::: ezm.tasks.sources.gymnasium" in named


# -- pictures ----------------------------------------------------------------------------------


def test_the_words_of_the_data_flow_stay_in_their_boxes() -> None:
    """By the widths of DejaVu Sans, the widest font that browsers take for system-ui."""
    namespace = {"svg": "http://www.w3.org/2000/svg"}
    picture = ElementTree.parse(ROOT / "docs/data-flow.svg").getroot()
    boxes = [
        (float(box.get("x", 0)), float(box.get("x", 0)) + float(box.get("width", 0)))
        for box in picture.findall("svg:g[@class='boxes']/svg:rect", namespace)
    ]
    words = picture.findall("svg:g[@class='inside']/svg:text", namespace)
    assert len(words) == 2 * len(boxes) > 0
    for word in words:
        font = FontProperties(size=float(word.get("font-size", 14)), weight="bold")
        half = TextPath((0, 0), word.text, prop=font).get_extents().width / 2
        middle = float(word.get("x", 0))
        left, right = next(box for box in boxes if box[0] < middle < box[1])
        assert left + 4 < middle - half and middle + half < right - 4, word.text
