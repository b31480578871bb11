"""Rung 0: no module imports one above it in the flow of data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ezm"
# Lowest first. Training writes reports and evaluates, so evaluation stands below it; the two share figures and metrics.
# The package itself tells Gymnasium of its tasks; modules import nothing of it but its version.
LAYERS = [
    {"errors", "output"},
    {"plain"},
    {"config", "presets", "validation"},
    {"tasks"},
    {"world_model"},
    {"planning"},
    {"replay"},
    {"learning"},
    {"evaluation", "training"},
    {"control", "watching"},
    {"doctor", "options", "platform", "probes", "terminal"},
    {"commands"},
    {"cli"},
    {"__main__"},
    {"__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(source: str) -> Iterator[str]:
    """Names below ``ezm`` that a module imports, inside functions too: ``tasks`` for ``ezm.tasks.spec``."""
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


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for name in imported(path.read_text()):
        # Nothing stands below the package itself, which names its version and imports nothing.
        if name != "__version__":
            assert own in LEVEL and LEVEL[name] <= LEVEL[own], f"{path.name} imports ezm.{name}"
