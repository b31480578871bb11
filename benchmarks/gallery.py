"""The gallery of HumanoidBench's tasks: a picture of each, its reward in a line, its success bar.

``python -m benchmarks.gallery`` draws the 23 tasks, each half a second after its reset with the home pose held. It
writes ``docs/gallery.md`` and the pictures next to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from benchmarks.command import command
from ezm.tasks.humanoid_bench import SUITES, Environment
from ezm.tasks.humanoid_bench.catalog import ENTRIES
from ezm.tasks.humanoid_bench.models import hold_action
from ezm.tasks.humanoid_bench.views import camera
from ezm.tasks.rendering import Renderer

WIDTH, HEIGHT = 400, 300
STEPS = 25


_HEAD = """# HumanoidBench: the 23 tasks

`python -m benchmarks.gallery` draws this page. Each row sums up the reward of a step. An x multiplies factors that lie
in [0, 1]. `src/ezm/tasks/humanoid_bench/rewards.py` has the formulas. The bar is HumanoidBench's success bar: an episode of 1,000
steps counts as solved from this return on. [HumanoidBench](humanoid-bench.md) shows how to train, evaluate and use the
tasks from Gymnasium.
"""


@dataclass(frozen=True)
class Options:
    """Draw the gallery."""

    out: Path = Path("docs")
    """Folder of the page. The pictures go into its folder ``gallery``."""


def picture(name: str) -> np.ndarray:
    """Returns the picture of a task, (HEIGHT, WIDTH, 3) uint8."""
    environment = Environment(name, seed=3)
    environment.reset()
    held = environment.layout.controls(hold_action(environment.model))
    for _ in range(STEPS):
        environment.advance(held)
    renderer = Renderer(environment.model, WIDTH, HEIGHT)
    try:
        return environment.picture(renderer, camera(environment.layout.task))
    finally:
        renderer.close()


def page() -> str:
    """Returns the Markdown of the gallery."""
    lines = [_HEAD]
    titles = {"h1": "h1: 19 servos, 51 observations", "h1hand": "h1hand: 61 servos, 151 to 177"}
    for robot, names in SUITES.items():
        lines.append(
            f"\n## {titles[robot]}\n\n| | task | reward of a step | bar |\n|---|---|---|---|"
        )
        for name in names:
            entry = ENTRIES[name.partition("-")[2]]
            image = f'<img src="gallery/{name}.jpg" width="240" alt="{name}">'
            lines.append(f"| {image} | `{name}` | {entry.reward} | {entry.success_bar:,.0f} |")
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Writes the page and the pictures."""
    folder = options.out / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    for names in SUITES.values():
        for name in names:
            imsave(folder / f"{name}.jpg", picture(name), pil_kwargs={"quality": 82})
    (options.out / "gallery.md").write_text(page())


if __name__ == "__main__":
    command(main, Options, __doc__)
