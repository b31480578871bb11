"""Pictures of a task, with any simulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ezm.tasks import Task
from ezm.tasks.rendering import Renderer, Scene, Trace


class Pictures:
    """Draws a task's present state. Use it in the thread that made it.

    Args:
        task: made with ``pictures=True``, with an episode begun.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.

    Raises:
        Undrawable: the task has no pictures.
        UserError: no library can draw. The message says what to install.
    """

    def __init__(self, task: Task, width: int, height: int) -> None:
        self._task, self.size = task, (width, height)
        view = task.simulator.view()
        self._renderer: Renderer | None = None
        if isinstance(view, Scene):
            self._renderer = Renderer(view.model, width, height, quick=True)

    def draw(self, traces: Sequence[Trace] = ()) -> np.ndarray:
        """Returns a picture, (height, width, 3) uint8. Only MuJoCo's scenes show the traces."""
        view = self._task.simulator.view()
        if isinstance(view, Scene):
            assert self._renderer is not None
            return self._renderer.render(view.data, view.camera, view.goal, traces)
        return _fitted(view, *self.size)

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()


def _fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scales a picture to fit into (width, height) and centres it on the colour of its corner."""
    image = Image.fromarray(picture)
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    whole = Image.new("RGB", (width, height), tuple(int(part) for part in picture[0, 0]))
    whole.paste(
        image.resize(size, Image.Resampling.BILINEAR),
        ((width - size[0]) // 2, (height - size[1]) // 2),
    )
    return np.asarray(whole)
