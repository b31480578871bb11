"""Panels of figures as plain data, and how to draw them, in one look for all figures of a run.

Panels are drawn in :data:`INK` and :data:`GRID` on a light ground. The report replaces these two colours by the
colours of the page's theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#24292f", "#d0d7de"
EPISODE, SEARCH, POLICY, SAC = "#8c959f", "#3b82f6", "#f59e0b", "#e5484d"
BAR = "#10b981"
TASK_COLOURS = (SEARCH, POLICY, "#10b981", SAC, "#8b5cf6", "#0891b2", "#db2777", "#84cc16")
_MARKED = 40
"""The most points of a line that are marked."""
_STYLES: tuple[Literal["-"], Literal["--"], Literal[":"], Literal["-."]] = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    """Appearance of a line, in a panel and in its legend."""

    colour: str
    style: Literal["-", "--", ":", "-.", ""] = "-"
    """Style of the line, "" for points without a line."""
    width: float = 1.8
    marker: bool = False


@dataclass(frozen=True)
class Line:
    """A curve, perhaps with a band around it."""

    label: str
    x: np.ndarray
    y: np.ndarray
    look: Look
    band: tuple[np.ndarray, np.ndarray] | None = None
    """The band's lower and upper end."""
    shallow: bool = False
    """Whether the band may leave the panel. A wide interval of few episodes must not flatten the curves."""


@dataclass(frozen=True)
class Level:
    """A horizontal line."""

    label: str
    y: float
    look: Look


@dataclass(frozen=True)
class Text:
    """Words to the right of a point of the panel."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes and its contents."""

    title: str
    lines: Sequence[Line]
    x_label: str
    levels: Sequence[Level] = ()
    log: bool = False
    """Whether x is logarithmic. Points at 0 and below are left out."""
    from_zero: bool = True
    """Whether x begins at 0, or below if the lines do."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    """Range of y. None: the range of the lines, from 0 if nothing lies below."""
    numbers: Literal["both", "x", "none"] = "both"
    """The axes that have numbers."""
    texts: Sequence[Text] = ()


def look(index: int, *, width: float = 1.8, marker: bool = False) -> Look:
    """Returns the look of line number ``index`` of several. Colours vary first, then dashes."""
    turn, place = divmod(index, len(TASK_COLOURS))
    return Look(TASK_COLOURS[place], _STYLES[turn % len(_STYLES)], width, marker)


def legend(panels: Iterable[Panel]) -> dict[str, Look]:
    """Returns the names of the panels' lines with their looks, in order of their first occurrence."""
    found: dict[str, Look] = {}
    for panel in panels:
        parts: list[Line | Level] = [*panel.lines, *panel.levels]
        for part in parts:
            if part.label:
                found.setdefault(part.label, part.look)
    return found


def draw(panel: Panel, axes: Axes) -> None:
    """Draws a panel without its legend."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axes.set_title(panel.title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.set_xlabel(panel.x_label, fontsize=8.5, color=INK)
    lines = [_positive(line) for line in panel.lines] if panel.log else panel.lines
    for line in lines:
        _draw_line(axes, line)
        if line.band is not None and not line.shallow:
            _draw_band(axes, line)
    for level in panel.levels:
        axes.axhline(
            level.y,
            color=level.look.colour,
            linestyle=level.look.style,
            linewidth=level.look.width,
        )
    _scale_x(axes, panel)
    low, high = axes.dataLim.intervaly
    bottom = 0.0 if low >= 0 else axes.get_ylim()[0]
    axes.set_ylim(panel.y_range or (bottom, high + 0.06 * ((high - bottom) or 1.0)))
    axes.yaxis.set_major_locator(MaxNLocator(5) if panel.numbers == "both" else NullLocator())
    for text in panel.texts:
        axes.annotate(
            text.text,
            (text.x, text.y),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    for line in lines:
        if line.band is not None and line.shallow:
            _draw_band(axes, line)


def _positive(line: Line) -> Line:
    """Returns the part of a line that a logarithmic axis can show."""
    there = line.x > 0
    band = None if line.band is None else (line.band[0][there], line.band[1][there])
    return replace(line, x=line.x[there], y=line.y[there], band=band)


def _scale_x(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import (
        EngFormatter,
        LogLocator,
        MaxNLocator,
        NullLocator,
        StrMethodFormatter,
    )

    low, high = axes.dataLim.intervalx
    if panel.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    elif panel.numbers == "none":
        axes.xaxis.set_major_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if panel.from_zero:
            axes.set_xlim(left=min(0.0, low))
        else:
            axes.margins(x=0.15)
    if panel.x_range is not None:
        axes.set_xlim(panel.x_range)
    short = EngFormatter(sep="") if high >= 1000 else StrMethodFormatter("{x:g}")
    axes.xaxis.set_major_formatter(short)


def _draw_line(axes: Axes, line: Line) -> None:
    axes.plot(
        line.x,
        line.y,
        line.look.style,
        color=line.look.colour,
        linewidth=line.look.width,
        marker="o" if line.look.marker and len(line.x) <= _MARKED else None,
        markersize=2.2 * line.look.width,
    )


def _draw_band(axes: Axes, line: Line) -> None:
    assert line.band is not None
    axes.fill_between(line.x, *line.band, color=line.look.colour, alpha=0.18, linewidth=0)


def figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Returns a figure of ``size`` inches with one pair of axes, which leaves only the room that its texts need."""
    from matplotlib.figure import Figure

    made = Figure(figsize=size, facecolor="white")
    axes = made.subplots()
    width, height = size
    # In inches and laid out by hand: matplotlib's own layout takes as long as the drawing.
    made.subplots_adjust(
        left=0.5 / width, right=1 - 0.22 / width, bottom=0.48 / height, top=1 - 0.3 / height
    )
    return made, axes


def svg(panel: Panel, salt: str, size: tuple[float, float] = (4.2, 2.5)) -> str:
    """Draws a panel as inline SVG in the page's colours and the page's font.

    Args:
        panel: the panel to draw.
        salt: unique for each picture of a page, so that no two share an identifier.
        size: in inches.
    """
    import matplotlib

    made, axes = figure(size)
    draw(panel, axes)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        made.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the XML prologue
    # Identifiers that nothing refers to would be the same in every figure.
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in used else "", text)
    return text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
