"""The panel below the picture: candidates and their Q, predicted and received rewards, the value."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ezm.statistics.intervals import format_return
from ezm.watching.play import CHOSEN, Colour, Episode, colour, ranks

HEIGHT = 150
"""Height of a panel, in pixels."""
_SCALE = 2  # the panel is drawn this many times larger, for smooth lines
_HISTORY = 3.0
"""Simulated seconds that the curves go back."""
_PAGE, _INK, _DIM, _GRID = "#10151c", "#e8edf3", "#9aa7b5", "#2c3643"
_CAME, _PREDICTED = "#7cc4ff", "#ffb454"
_MARGIN, _GAP, _TOP, _TITLE = 12, 16, 30, 18

Point = tuple[float, float]


def panel(episode: Episode, width: int) -> np.ndarray:
    """Draws what has happened in the episode and what the search found, (HEIGHT, width, 3) uint8."""
    image = Image.new("RGB", (width * _SCALE, HEIGHT * _SCALE), _PAGE)
    canvas = _Canvas(ImageDraw.Draw(image))
    again = f"  episode {episode.number}" if episode.number > 1 else ""
    right, ink = width - _MARGIN, _PREDICTED if episode.end else _DIM
    canvas.text((_MARGIN, 8), episode.task + again, size=13)
    canvas.text((right, 8), f"return {format_return(episode.total)}", size=13, anchor="ra")
    canvas.text((right - 118, 9), episode.end or f"{episode.seconds:.1f} s", ink, anchor="ra")
    each = (width - 2 * _MARGIN - 2 * _GAP) / 3
    for number, draw in enumerate((_candidates, _rewards, _values)):
        left = _MARGIN + number * (each + _GAP)
        draw(canvas, episode, (left, _TOP, left + each, HEIGHT - _MARGIN))
    return np.asarray(image.reduce(_SCALE))


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class _Canvas:
    """Draws in the panel's own pixels, at any scale."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def text(
        self, at: Point, text: str, ink: str = _INK, size: int = 12, anchor: str = "la"
    ) -> None:
        place = at[0] * _SCALE, at[1] * _SCALE
        self._draw.text(place, text, ink, _font(size * _SCALE), anchor)

    def line(self, points: Sequence[Point], ink: str, width: float = 1.6) -> None:
        if len(points) > 1:
            scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
            self._draw.line(scaled, ink, round(width * _SCALE), "curve")

    def dot(self, at: Point, radius: float, ink: str) -> None:
        x, y, r = at[0] * _SCALE, at[1] * _SCALE, radius * _SCALE
        self._draw.ellipse((x - r, y - r, x + r, y + r), ink)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _candidates(canvas: _Canvas, episode: Episode, box: Box) -> None:
    """Draws the sorted Q of the candidates. A dot's size is its share of visits, and the chosen action is green."""
    left, top, right, bottom = box
    thought = episode.thought
    canvas.text((left, top), f"Q of {len(thought.q)} actions", _DIM, 11)
    order = np.argsort(thought.q)
    chosen = (thought.actions == thought.action).all(-1)
    shades, share = ranks(thought.q), thought.visits / max(1, thought.visits.max())
    low, high = bottom - 5, top + _TITLE + 18
    for place, k in enumerate(order):
        x = left + (place + 0.5) / len(order) * (right - left)
        y = low + shades[k] * (high - low)
        ink = _hex(CHOSEN if chosen[k] else colour(shades[k]))
        canvas.line([(x, bottom), (x, y)], ink, 1.2)
        canvas.dot((x, y), 1.5 + 3.0 * share[k], ink)
    canvas.text((right, top), format_return(thought.q.max()), _INK, 11, "ra")
    spread = format_return(float(np.ptp(thought.q)))
    canvas.text((left, top + _TITLE - 1), f"range {spread}", _DIM, 9)


def _rewards(canvas: _Canvas, episode: Episode, box: Box) -> None:
    """Draws the rewards received, and those predicted from each dot on."""
    left, top, right, _ = box
    canvas.text((left, top), "reward", _DIM, 11)
    canvas.text((left + 46, top), "came", _CAME, 11)
    canvas.text((right, top), "predicted", _PREDICTED, 11, "ra")
    now = len(episode.rewards)
    first = now - _history(episode)
    ahead = max((len(each) for each in episode.predictions.values()), default=0)
    seen = {start: each for start, each in episode.predictions.items() if start + ahead > first}
    recent = episode.rewards[max(0, first) :]
    plot = _Plot(canvas, box, (first, now, now + ahead), [*seen.values(), recent])
    plot.curve(max(0, first) + 1, recent, _CAME, 2.0)
    for start, each in seen.items():
        plot.curve(start + 1, each, _PREDICTED, 1.3, dotted=True)


def _values(canvas: _Canvas, episode: Episode, box: Box) -> None:
    """Draws the search's value of every state: the discounted return that it expects from there."""
    left, top, right, _ = box
    canvas.text((left, top), "value", _DIM, 11)
    canvas.text((right, top), format_return(episode.values[-1]), _INK, 11, "ra")
    now, history = len(episode.rewards), _history(episode)
    recent = episode.values[-history - 1 :]
    plot = _Plot(canvas, box, (now - history, now, now + 1), [recent])
    plot.curve(now - len(recent) + 1, recent, _INK, 1.8)


def _history(episode: Episode) -> int:
    """Returns the agent steps that the curves go back."""
    return max(10, round(_HISTORY / episode.step_seconds))


class _Plot:
    """Curves over agent steps, below a title, with the line of 0 and the line of the present step."""

    def __init__(
        self,
        canvas: _Canvas,
        box: Box,
        steps: tuple[int, int, int],
        values: Sequence[Sequence[float] | np.ndarray],
    ) -> None:
        """``steps`` are the first, the present and the last, ``values`` all that the curves may show."""
        left, top, right, bottom = box
        top += _TITLE
        self._canvas, (self.first, now, self.last) = canvas, steps
        every = np.concatenate([[0.0], *values])
        low, high = every.min(), every.max()
        high = high if high - low >= 1e-6 else low + 1.0
        self._across = (self.first, self.last), (left, right)
        self._up = (low, high), (bottom - 2, top + 4)
        (present, zero), *_ = self._at([now], [0])
        canvas.line([(left, zero), (right, zero)], _GRID, 1)
        canvas.line([(present, top), (present, bottom)], _GRID, 1)
        canvas.text((left, top - 1), format_return(high), _DIM, 9)

    def _at(self, steps: Any, values: Any) -> list[Point]:
        return list(zip(np.interp(steps, *self._across), np.interp(values, *self._up)))

    def curve(
        self,
        start: int,
        values: Sequence[float] | np.ndarray,
        ink: str,
        width: float,
        dotted: bool = False,
    ) -> None:
        """Draws values from step ``start`` on, as far as they are in view."""
        steps = start + np.arange(len(values))
        seen = (self.first <= steps) & (steps <= self.last)
        points = self._at(steps[seen], np.asarray(values, float)[seen])
        self._canvas.line(points, ink, width)
        if len(points) == 1 or (dotted and points and start >= self.first):
            self._canvas.dot(points[0], 2.2, ink)


def _hex(shade: Colour) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade)
