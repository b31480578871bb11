"""One look for all figures: axes to draw on, and their way into the page as inline SVG.

Figures are drawn in :data:`INK` and :data:`GRID` on a light ground. The report replaces these two colours by the
colours of the page's theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

INK, GRID = "#24292f", "#d0d7de"
EPISODE, SEARCH, POLICY, SAC = "#8c959f", "#3b82f6", "#f59e0b", "#e5484d"
BAR = "#10b981"
TASK_COLOURS = (SEARCH, POLICY, "#10b981", SAC, "#8b5cf6", "#0891b2", "#db2777", "#84cc16")
STEPS = "environment steps per task"
_STYLES = ("-", "--", ":", "-.")
_MARKED = 40
"""The most points of a line that are marked."""


def look(index: int) -> dict[str, Any]:
    """Returns matplotlib's options of line number ``index`` of several. Colours vary first, then dashes."""
    turn, place = divmod(index, len(TASK_COLOURS))
    return {"color": TASK_COLOURS[place], "linestyle": _STYLES[turn % len(_STYLES)]}


def panel(title: str, x_label: str = STEPS, *, log: bool = False) -> Axes:
    """Returns the empty axes of a new figure. With ``log``, x is logarithmic."""
    axes = Figure().subplots()
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.set_xlabel(x_label, fontsize=8.5, color=INK)
    if log:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6) if log else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    short = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(lambda x, _: short(x) if abs(x) >= 1000 else f"{x:g}")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return axes


def curve(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    label: str = "",
    *,
    band: tuple[np.ndarray, np.ndarray] | None = None,
    width: float = 1.8,
    marked: bool = False,
    **options: Any,
) -> None:
    """Draws a line through the points x, y (n,), or nothing without points.

    A ``band`` has a lower and an upper end, (n,) each. A ``marked`` line has dots if its points are few. Matplotlib's
    ``options`` are as :func:`look` gives them.
    """
    if not len(x):
        return
    shown = _shown(axes, x)
    marker = "o" if marked and len(x) <= _MARKED else None
    options |= {"linewidth": width, "marker": marker, "markersize": 2.2 * width}
    axes.plot(x[shown], y[shown], label=label, **options)
    if band is not None:
        shade(axes, x, *band, options["color"])


def shade(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """Shades the band between two curves, (n,) each."""
    shown = _shown(axes, x)
    axes.fill_between(x[shown], low[shown], high[shown], color=colour, alpha=0.18, linewidth=0)


def _shown(axes: Axes, x: np.ndarray) -> np.ndarray:
    """Returns which x an axis can show. A logarithmic axis cannot show 0 and below."""
    return x > 0 if axes.get_xscale() == "log" else np.full(len(x), True)


def fit(axes: Axes) -> None:
    """Sets the ends of both axes by what is drawn so far. They begin at 0 if nothing lies below."""
    left, low = axes.dataLim.min
    high = axes.dataLim.y1
    bottom = 0.0 if low >= 0 else axes.get_ylim()[0]
    axes.set_ylim(bottom, high + 0.06 * ((high - bottom) or 1.0))
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=min(0.0, left))


def drawn(panels: Iterable[Axes]) -> list[Axes]:
    """Fits the panels that have lines, and leaves out the others."""
    found = [axes for axes in panels if axes.lines]
    for axes in found:
        fit(axes)
    return found


def legend(panels: Sequence[Axes]) -> dict[str, Line2D]:
    """Returns the names of the panels' lines, each with its first line."""
    found: dict[str, Line2D] = {}
    for line in (line for axes in panels for line in axes.lines):
        if not str(line.get_label()).startswith("_"):  # matplotlib names lines without a label so
            found.setdefault(str(line.get_label()), line)
    return found


def svg(axes: Axes, salt: str, size: tuple[float, float]) -> str:
    """Returns a panel as inline SVG in the page's colours and the page's font, ``size`` in inches.

    The ``salt`` is unique for each picture of a page, so that no two share an identifier.
    """
    figure, (width, height) = axes.figure, size
    assert isinstance(figure, Figure)
    figure.set_size_inches(size)
    # In inches and laid out by hand: matplotlib's own layout takes as long as the drawing.
    figure.subplots_adjust(
        left=0.5 / width, right=1 - 0.22 / width, bottom=0.48 / height, top=1 - 0.3 / height
    )
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the XML prologue
    # Identifiers that nothing refers to would be the same in every figure.
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in used else "", text)
    return text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
