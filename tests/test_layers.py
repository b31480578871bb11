"""Rung 0: no module imports one above it in the flow of data, and files stay readable."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ezm"
# Lowest first. Training writes reports and evaluates, so evaluation stands below it; the two share figures and metrics.
LAYERS = [
    {"errors"},
    {"config"},
    {"tasks"},
    {"world_model"},
    {"planning"},
    {"replay"},
    {"learning"},
    {"evaluation", "training"},
    {"options", "platform", "terminal"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def layer(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("ezm."):
                assert LEVEL[layer(name)] <= LEVEL[own], f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.name))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_constraints_name_no_registry() -> None:
    text = (SOURCE.parents[1] / "constraints.txt").read_text()
    assert "://" not in text and "index" not in text
