"""The parts of HTML pages, in one style, light or dark. Nothing is fetched from elsewhere.

No part needs a script: a switch is a pair of radio buttons. Without the style, both contents show.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ezm.errors import UserError
from ezm.evaluation.panels import INK, Look, Panel, legend, svg

STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --dim: #57606a; --grid: #d0d7de; --page: #fff;
  --tile: #f6f8fa; --ours: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --grid: #30363d;
  --page: #0d1117; --tile: #161b22; --ours: #6ea8fe; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 960px; margin: 2.5rem auto; padding: 0 1.2rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
p { margin: .3rem 0 .8rem; } .dim { color: var(--dim); font-size: .88rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0 0; }
.tiles div { background: var(--tile); border-radius: 8px; padding: .6rem 1rem; min-width: 7rem; }
.tiles b { display: block; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--grid); text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td + td { white-space: nowrap; }
thead th { color: var(--dim); font-weight: 500; font-size: .88rem; }
td.ours { color: var(--ours); font-weight: 650; } tr.mean td { border-bottom: 0; }
.facts { table-layout: fixed; } .facts td { overflow-wrap: anywhere; white-space: normal; }
.panels { display: grid; gap: .9rem 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.panels.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.panels.one { max-width: 32rem; grid-template-columns: 1fr; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { font-family: system-ui, sans-serif !important; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .2rem 0 .6rem; padding: 0;
  list-style: none; font-size: .88rem; }
.legend li { display: flex; align-items: center; gap: .4rem; }
.legend svg { width: 1.7rem; flex: none; height: .7rem; }
.switch > input { accent-color: var(--ours); margin: 0 .3rem 0 0; }
.switch > label { margin-right: 1rem; font-size: .88rem; cursor: pointer; }
.switch > div { margin-top: .5rem; }
.switch > input:first-of-type:checked ~ div:last-of-type,
.switch > input:last-of-type:checked ~ div:first-of-type { display: none; }
.films { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.films figure { margin: 0; } .films video { width: 100%; border-radius: 8px; display: block; }
figcaption { font-size: .88rem; margin-top: .2rem; }
pre { background: var(--tile); border-radius: 8px; padding: .7rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; user-select: all; margin: .3rem 0 .8rem; font-size: .85rem; }
@media (max-width: 500px) { body { margin: 1.2rem auto; padding: 0 .9rem; }
  th, td { padding: .35rem .45rem; font-size: .88rem; } .tiles div { padding: .5rem .8rem; } }
summary { cursor: pointer; margin: .3rem 0; }
""".strip()


def page(title: str, heading: str, facts: str, parts: Iterable[str]) -> str:
    """Returns the whole document.

    Args:
        title: of the browser's tab, plain text.
        heading: plain text.
        facts: a line below the heading, plain text.
        parts: HTML. Empty parts are left out.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Without its own icon, a browser asks the server for one.
        '<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{text(heading)}</h1>\n"
        f'<p class="dim">{text(facts)}</p>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def section(title: str, content: str, note: str = "") -> str:
    """Returns a titled part of the page, empty if its content is empty."""
    if not content:
        return ""
    return f"<h2>{text(title)}</h2>\n{dim(note)}{content}"


def dim(note: str) -> str:
    """Returns a remark as a paragraph, empty for an empty remark."""
    return f'<p class="dim">{text(note)}</p>\n' if note else ""


def tiles(values: Mapping[str, str]) -> str:
    """Returns figures in large type with their names. Empty figures are left out."""
    cells = "".join(
        f"<div><b>{text(value)}</b><span class=dim>{text(name)}</span></div>"
        for name, value in values.items()
        if value
    )
    return f'<div class="tiles">{cells}</div>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    ours: int | None = None,
    mean: bool = False,
) -> str:
    """Returns a table of plain text, empty without rows.

    Args:
        head: headings of the columns, empty for none.
        rows: cells.
        ours: the column that stands out.
        mean: whether the last row sums up the others.
    """
    if not rows:
        return ""
    heading = "".join(f"<th>{text(each)}</th>" for each in head)
    body = ""
    for number, row in enumerate(rows):
        kind = " class=mean" if mean and number == len(rows) - 1 else ""
        cells = "".join(
            f"<td{' class=ours' if place == ours else ''}>{text(cell)}</td>"
            for place, cell in enumerate(row)
        )
        body += f"<tr{kind}>{cells}</tr>"
    heading = f"<thead><tr>{heading}</tr></thead>" if head else ""
    return f'<div class="wide"><table>{heading}<tbody>{body}</tbody></table></div>'


def facts(values: Iterable[tuple[str, Any]]) -> str:
    """Returns a table of names and values."""
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in values
    )
    return f'<table class="facts">{rows}</table>' if rows else ""


def folded(title: str, content: str) -> str:
    """Returns content that shows when its title is clicked, empty for empty content."""
    return f"<details><summary>{text(title)}</summary>{content}</details>" if content else ""


class Pictures:
    """Draws the panels of one page, so that no two share an identifier."""

    def __init__(self) -> None:
        self._drawn = 0

    def panels(self, panels: Sequence[Panel], size: str = "", *, key: bool = True) -> str:
        """Returns panels next to each other below their legend, empty without panels.

        Args:
            panels: the panels to draw.
            size: "", "small" (three next to each other) or "one" (a single large one).
            key: whether to add the legend.
        """
        if not panels:
            return ""
        inches = {"": (4.2, 2.5), "small": (3.2, 2.0), "one": (4.2, 3.0)}[size]
        drawn = ""
        for panel in panels:
            self._drawn += 1
            drawn += f"<div>{svg(panel, f'panel {self._drawn}', inches)}</div>\n"
        kind = f"panels {size}".strip()
        return (_legend(legend(panels)) if key else "") + f'<div class="{kind}">{drawn}</div>'


def switch(name: str, choices: Mapping[str, str]) -> str:
    """Returns a choice of two contents by radio buttons. The first content shows at the beginning.

    Args:
        name: of the choice on its page.
        choices: label -> content. Empty contents are left out.
    """
    choices = {label: content for label, content in choices.items() if content}
    if len(choices) < 2:
        return "".join(choices.values())
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}-{number}"{" checked" if not number else ""}>'
        f'<label for="{name}-{number}">{text(label)}</label>'
        for number, label in enumerate(choices)
    )
    contents = "".join(f"<div>{content}</div>" for content in choices.values())
    return f'<div class="switch">{buttons}{contents}</div>'


def films(folder: Path, order: Sequence[str] = ()) -> str:
    """Returns every film in a folder, embedded in the page, empty without films.

    Args:
        folder: of .mp4 files. Their names are tasks as :func:`ezm.watching.films.film_path` quotes them.
        order: names that come first.

    Raises:
        UserError: a film cannot be read.
    """
    shown = ""
    paths = sorted(folder.glob("*.mp4"))
    known = {name: place for place, name in enumerate(order)}
    for path in sorted(paths, key=lambda path: known.get(unquote(path.stem), len(known))):
        try:
            data = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): check its permissions"
            ) from error
        shown += (
            '<figure><video controls autoplay loop muted playsinline preload="auto" '
            f'src="data:video/mp4;base64,{data}"></video>'
            f"<figcaption>{text(unquote(path.stem))}</figcaption></figure>\n"
        )
    return f'<div class="films">{shown}</div>' if shown else ""


def duration(seconds: float) -> str:
    """Returns a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def text(value: Any) -> str:
    """Returns a value as HTML text."""
    if isinstance(value, float) and math.isfinite(value):
        value = f"{value:g}"
    return html.escape(str(value))


def _legend(looks: Mapping[str, Look]) -> str:
    entries = "".join(f"<li>{_swatch(look)}{text(label)}</li>" for label, look in looks.items())
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def _swatch(look: Look) -> str:
    dashes = {"--": "6 3", ":": "2 2.5", "-.": "7 2.5 2 2.5"}.get(look.style, "none")
    colour = "var(--ink)" if look.colour == INK else look.colour
    line = (
        f'<path d="M1 5H27" stroke="{colour}" stroke-width="{1.3 * look.width:g}" stroke-dasharray="{dashes}"/>'
        if look.style
        else ""
    )
    dot = f'<circle cx="14" cy="5" r="3.5" fill="{colour}"/>' if look.marker else ""
    return f'<svg viewBox="0 0 28 10" aria-hidden="true">{line}{dot}</svg>'
