"""Pictures of a task, with any simulator, and films of an agent at it, as mp4 files that browsers play."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps

from ezm.acting.inspector import PlanInspector
from ezm.errors import UserError
from ezm.runs.folder import unwritable
from ezm.statistics.intervals import format_return
from ezm.tasks import Task
from ezm.tasks.rendering import Renderer, Scene, Trace
from ezm.tasks.simulator import Undrawable
from ezm.watching.panel import HEIGHT, panel
from ezm.watching.play import Play

WIDTH, PICTURE_HEIGHT = 480, 300
"""Size of a film's picture, in pixels. The panel is below the picture."""
_MOST_FRAMES = 20  # per second
_PAUSE = 0.6
"""Seconds that an episode's last state is shown."""


class Pictures:
    """Draws a task's present state, in pixels. Use it in the thread that made it.

    Args:
        task: made with ``pictures=True``, with an episode begun.

    Raises:
        Undrawable: the task has no pictures.
        UserError: no library can draw. The message says what to install.
    """

    def __init__(self, task: Task, width: int, height: int) -> None:
        self._task, self._size = task, (width, height)
        view = task.simulator.view()
        self._renderer: Renderer | None = None
        if isinstance(view, Scene):
            self._renderer = Renderer(view.model, width, height, quick=True)

    def draw(self, traces: Sequence[Trace] = ()) -> np.ndarray:
        """Returns a picture, (height, width, 3) uint8. Only MuJoCo's scenes show the traces.

        Another picture is scaled to fit, and centred on the colour of its corner.
        """
        view = self._task.simulator.view()
        if isinstance(view, Scene):
            assert self._renderer is not None
            return self._renderer.render(view.data, view.camera, view.goal, traces)
        corner, image = tuple(view[0, 0].tolist()), Image.fromarray(view)
        return np.asarray(ImageOps.pad(image, self._size, Image.Resampling.BILINEAR, corner))

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()


@dataclass(frozen=True)
class Film:
    """A finished film."""

    path: Path
    frames: int
    frames_per_second: float
    returns: tuple[float, ...]
    """Returns of the episodes that were played to their end."""
    took: float
    """Seconds that making the film took."""

    def __str__(self) -> str:
        size, length = self.path.stat().st_size / 2**10, self.frames / self.frames_per_second
        returns = ", ".join(map(format_return, self.returns))
        made = f"{self.path}: {length:.0f} s, {size:.0f} KiB, made in {self.took:.0f} s"
        return f"{made}, return {returns}" if returns else made


def film_path(folder: Path, task: str) -> Path:
    """Returns the path of a task's film in a folder. Names are quoted as in a URL, so no two tasks share a path."""
    return folder / f"{quote(task, safe='')}.mp4"


def film(
    inspector: PlanInspector,
    task: int,
    path: Path,
    *,
    seed: int = 0,
    seconds: float = 10.0,
    episodes: int | None = None,
) -> Film:
    """Films an agent at a task. The film plays in real time.

    Args:
        inspector: the agent.
        task: index in the agent's suite.
        path: of the film. Its folder is made. A complete film replaces an older one.
        seed: of the environment, at least 0.
        seconds: of simulated time. When an episode ends earlier, the next one begins.
        episodes: number of whole episodes to film instead.

    Raises:
        Undrawable: the task has no pictures.
        UserError: no library can draw, or the film cannot be written.
    """
    start = time.perf_counter()
    taken, frames = 0, 0
    returns: list[float] = []
    with drawn(inspector, task, seed, WIDTH, PICTURE_HEIGHT) as (play, pictures):
        every = max(1, math.ceil(1 / (_MOST_FRAMES * play.step_seconds) - 1e-9))
        rate = 1 / (every * play.step_seconds)
        steps = math.inf if episodes else max(1, round(seconds / play.step_seconds))
        with _encoder(path, rate) as write:
            while True:
                episode = play.episode
                if episode.end or len(episode.rewards) % every == 0:
                    frame = draw(play, pictures)
                    for _ in range(math.ceil(_PAUSE * rate) if episode.end else 1):
                        write(frame)
                        frames += 1
                if episode.end:
                    returns.append(episode.total)
                if len(returns) == episodes or taken >= steps:
                    break
                if episode.end:
                    play.begin()
                else:
                    play.step()
                    taken += 1
    return Film(path, frames, rate, tuple(returns), time.perf_counter() - start)


def film_all(
    inspector: PlanInspector, tasks: Sequence[int], folder: Path, **options: Any
) -> Iterator[Film | Undrawable]:
    """Films each task into a folder, one after another. For a task without pictures it yields the reason instead.

    The ``options``, and further errors, are as for :func:`film`.
    """
    for task in tasks:
        path = film_path(folder, inspector.agent.suite.task_names[task])
        try:
            yield film(inspector, task, path, **options)
        except Undrawable as error:
            yield error


@contextlib.contextmanager
def drawn(
    inspector: PlanInspector, task: int, seed: int, width: int, height: int
) -> Iterator[tuple[Play, Pictures]]:
    """Opens a play and its pictures, of this size without the panel, and closes both at the end."""
    with (
        contextlib.closing(Play(inspector, task, seed)) as play,
        contextlib.closing(Pictures(play.task, width, height)) as pictures,
    ):
        yield play, pictures


def draw(play: Play, pictures: Pictures) -> np.ndarray:
    """Returns the present picture and panel of a play, (H, W, 3) uint8."""
    picture = pictures.draw(play.episode.traces)
    return np.concatenate([picture, panel(play.episode, picture.shape[1])])


@contextlib.contextmanager
def _encoder(path: Path, rate: float) -> Iterator[Any]:
    """Writes frames to a temporary file, which takes the film's name only when it is complete."""
    from imageio_ffmpeg import write_frames

    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")  # no name of a film
    size = WIDTH, PICTURE_HEIGHT + HEIGHT
    # Browsers play this profile and these colours. The index comes first in the file, so that they can begin
    # at once.
    parameters = ["-crf", "27", "-preset", "fast", "-movflags", "+faststart", "-f", "mp4"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder = write_frames(
            f"file:{temporary}",  # ffmpeg takes a folder such as exp:1 for a protocol
            size,
            fps=rate,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="quiet",
            output_params=parameters,
        )
        with warnings.catch_warnings():
            # JAX warns of every fork, but this child becomes another program at once.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            try:
                encoder.send(None)
            except RuntimeError as error:
                raise UserError(f"no ffmpeg to write films with: {error}") from error
        with contextlib.closing(encoder):
            yield lambda frame: encoder.send(np.ascontiguousarray(frame))
        os.replace(temporary, path)
    except OSError as error:
        if error.strerror:
            raise unwritable(path, error) from error
        raise UserError(f"cannot write to {path} (ffmpeg gave up): is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
