"""The picture of a comparison: one panel per task, one line per method."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.results import Curves
from ezm.report.panels import GRID, INK, TASK_COLOURS

STYLES = {
    "ezm": ("EZ-M, one agent", TASK_COLOURS[0], "-"),
    "ezm-alone": ("EZ-M, an agent per task", TASK_COLOURS[0], "--"),
    "sac-multi-tuned": ("SAC tuned, one agent", TASK_COLOURS[3], "-"),
    "sac-single-tuned": ("SAC tuned, an agent per task", TASK_COLOURS[3], "--"),
    "sac-multi": ("SAC, one agent", TASK_COLOURS[1], "-"),
    "sac-single": ("SAC, an agent per task", TASK_COLOURS[1], "--"),
}
"""Label, colour and line style of each method, in the legend's order."""


def draw(curves: Curves, path: Path) -> None:
    """Writes a PNG with the mean over seeds of every method, and the range over seeds of the agents for all tasks."""
    with matplotlib.rc_context({"font.size": 9, "text.color": INK, "axes.edgecolor": GRID}):
        figure = Figure(figsize=(2.6 * len(curves.tasks), 2.9), layout="constrained")
        panels = figure.subplots(1, len(curves.tasks), squeeze=False)[0]
        for task, axes in zip(curves.tasks, panels, strict=True):
            for method, (label, colour, style) in STYLES.items():
                steps, seeds = curves.grid(method, task)
                if not len(seeds):
                    continue
                axes.plot(steps, seeds.mean(0), style, color=colour, linewidth=1.6, label=label)
                if style == "-":
                    axes.fill_between(
                        steps, seeds.min(0), seeds.max(0), color=colour, alpha=0.15, linewidth=0
                    )
            axes.set_title(task, fontsize=9)
            axes.set_xlabel("environment steps per task", fontsize=8)
            axes.set_ylim(bottom=0)
            axes.grid(color=GRID, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=INK, labelsize=8)
        panels[0].set_ylabel("return")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, dpi=150)
