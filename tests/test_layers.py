"""Rung 0: no package imports one above it in the flow of data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ezm"
# Lowest first. A package imports from lower floors and from itself, never from its own floor's other packages.
FLOORS = [
    {"errors"},
    {"config", "platform", "tasks"},
    {"agent", "statistics"},
    {"experience"},
    {"runs"},
    {"acting"},
    {"control", "report", "training", "watching"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
# The package itself tells Gymnasium of its tasks. Modules import nothing of it but its version.
LEVEL["__init__"] = LEVEL["agent"]


def imported(source: str) -> Iterator[str]:
    """Names below ``ezm`` that a module imports, inside functions too: ``tasks`` for ``ezm.tasks.task``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("ezm."))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import ezm", []),
        ("import ezm.cli", ["cli"]),
        ("from ezm import cli", ["cli"]),
        ("def f():\n    from ezm.cli import main, run", ["cli", "cli"]),
        ("import numpy, ezm_other.cli", []),
    ],
)
def test_imported_known_values(line: str, names: list[str]) -> None:
    assert list(imported(line)) == names


FILES = sorted(SOURCE.rglob("*.py"))


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def modules(path: Path) -> set[str]:
    """Top-level modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_package_has_a_floor() -> None:
    assert {package(path) for path in FILES} == LEVEL.keys()
    assert len(LEVEL) - 1 <= 16 and len(FLOORS) <= 9


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = package(path)
    for name in imported(path.read_text()):
        # Nothing stands below the package itself, which names its version and imports nothing.
        if name not in {"__version__", own}:
            assert LEVEL[name] < LEVEL[own], f"{path.name} imports ezm.{name}"


def test_the_agent_is_pure() -> None:
    impure = {"os", "io", "pathlib", "threading", "concurrent", "subprocess", "shutil", "tempfile"}
    for path in (SOURCE / "agent").rglob("*.py"):
        assert not modules(path) & impure, path


def test_drawing_is_the_reports_and_the_films_alone() -> None:
    users = {package(path) for path in FILES if "matplotlib" in modules(path)}
    assert users <= {"report", "watching"}


def test_the_command_line_alone_prints() -> None:
    for path in FILES:
        if package(path) != "cli":
            calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
            assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls), (
                path
            )
