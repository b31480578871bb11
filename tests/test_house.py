"""Rung 0: what the repository says about itself holds: pins, version, make targets, links, file lengths."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ezm
from ezm.cli.doctor import PYTHONS
from ezm.tasks.sources import DM_CONTROL

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/*.md")])
# Extras that cannot be tested everywhere.
UNTESTED = {"gpu"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    tested = [line for extra in sorted(extras.keys() - UNTESTED) for line in extras[extra]]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *tested]]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_constraints_are_plain_pins() -> None:
    """No registry, no options and no local versions: the file means the same everywhere."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_pin_lies_in_the_range(requirement: Requirement) -> None:
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


def test_every_tested_python_is_named() -> None:
    names = [".".join(map(str, version)) for version in PYTHONS]
    assert PROJECT["requires-python"] == f">={names[0]}"
    language = "Programming Language :: Python :: "
    classifiers = [line for line in PROJECT["classifiers"] if line.startswith(language)]
    assert classifiers == [language + name for name in names]
    matrix = re.search(r"python: (\[.*\])", (ROOT / ".github/workflows/ci.yml").read_text())
    assert matrix is not None and json.loads(matrix[1]) == names
    for document in ("README.md", "CONTRIBUTING.md", "docs/index.md", "Makefile"):
        assert f"Python {names[0]} to {names[-1]}" in (ROOT / document).read_text(), document


def test_the_line_that_installs_dm_control_is_documented() -> None:
    assert DM_CONTROL.install in (ROOT / "docs/index.md").read_text()


def test_changelog_has_the_version() -> None:
    assert f"## [{ezm.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_make_target_is_phony_and_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None and set(phony[1].split()) == make_targets()
    assert set(re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE)) == make_targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_documents_name_what_exists(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert (document.parent / target).exists(), f"broken link: {target}"
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert target in make_targets(), f"no make target: {target}"


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_files_are_short(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, f"{path} is over 500 lines"
