"""The parts of the report as data, and how they become one HTML page that fetches nothing and has no script."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ezm.report.panels import INK, Panel, legend, svg

TEMPLATE = Path(__file__).with_name("report.html")
_INCHES = {"": (4.2, 2.5), "small": (3.2, 2.0), "one": (4.2, 3.0)}


class Part(NamedTuple):
    """A part of a section. It shows one of these fields, and nothing if that field is empty."""

    tiles: Mapping[str, str] | None = None
    """Name -> figure in large type. Empty figures are left out."""
    rows: Sequence[Sequence[Any]] = ()
    """A table below its ``head``, or of names and values without a head. The column number ``ours`` stands out."""
    head: Sequence[str] = ()
    ours: int | None = None
    panels: Sequence[Panel] = ()
    """Panels next to each other below their legend: two, three of ``size`` "small", or a single large "one"."""
    size: str = ""
    choices: Mapping[str, Sequence[Panel]] | None = None
    """Label -> panels, two groups behind radio buttons. The first group shows at the beginning."""
    films: Mapping[str, str] | None = None
    """Title -> mp4 file in base64, embedded in the page."""
    code: str = ""
    """Lines to copy."""
    folded: Sequence[Part | str] = ()
    """Parts that show when their ``title`` is clicked."""
    title: str = ""


class Section(NamedTuple):
    """A stretch of the page below a title. The page leaves out a section whose parts show nothing."""

    title: str
    parts: Sequence[Part | str]
    """A string is a remark."""
    note: str = ""
    """A remark above the parts."""


def render(title: str, heading: str, facts: str, sections: Sequence[Section]) -> str:
    """Returns the page as HTML. The title is shown in the browser's tab, and the facts below the heading."""
    # No two pictures of a page may share an identifier.
    numbers = itertools.count(1)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: f"{value:g}" if isinstance(value, float) else value,
    )
    environment.globals.update(
        draw=lambda panel, size: svg(panel, f"panel {next(numbers)}", _INCHES[size]),
        legend=legend,
        ink=INK,
    )
    template = environment.get_template(TEMPLATE.name)
    return template.render(title=title, heading=heading, facts=facts, sections=sections)
