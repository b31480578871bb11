"""The report of a run: one HTML page that needs nothing else, made from the run folder alone."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ezm.evaluation import figures
from ezm.evaluation.figures import Reference, Rows, learning_curve_figure
from ezm.evaluation.statistics import Mean, format_return, mean_interval
from ezm.training.metrics import read_metrics
from ezm.training.run_folder import RunFolder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_curve_figure", "result_table", "write_report"]

STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --dim: #656d76; --grid: #d0d7de; --page: #fff;
  --tile: #f6f8fa; --ours: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #8d96a0; --grid: #30363d;
  --page: #0d1117; --tile: #161b22; --ours: #6ea8fe; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 960px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
p { margin: .3rem 0 .8rem; } .dim { color: var(--dim); font-size: .88rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0 0; }
.tiles div { background: var(--tile); border-radius: 8px; padding: .6rem 1rem; min-width: 7rem; }
.tiles b { display: block; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--grid); text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--dim); font-weight: 500; font-size: .88rem; }
td.ours { color: var(--ours); font-weight: 650; } tr.mean td { border-bottom: 0; }
svg { width: 100%; height: auto; } svg text { font-family: system-ui, sans-serif !important; }
summary { cursor: pointer; margin: .4rem 0; } details td { text-align: left; font-size: .88rem;
  padding: .2rem .8rem .2rem 0; overflow-wrap: anywhere; }
"""


def write_report(run_path: Path, reference: Reference | None = None) -> Path:
    """Make ``report.html`` in a run folder, from its config.json and metrics.jsonl.

    Args:
        run_path: the run folder; the run may still be going on.
        reference: task -> {"random": mean return of random actions, "sac": mean return of SAC
            after as many environment steps}, to compare with; either may be missing.

    Returns:
        The page's path.

    Raises:
        UserError: not a run folder, damaged metrics, or the page cannot be written.
    """
    run = RunFolder.open(run_path)
    page = _page(run.path.name, run.config, read_metrics(run.metrics_path), reference or {})
    write_atomically(run.report_path, page)
    return run.report_path


def result_table(metrics: Rows, reference: Reference | None = None) -> list[dict[str, Any]]:
    """The last evaluation of each task beside the reference, in the suite's order.

    Returns:
        One row per task with keys "task"; "step" (environment steps per task at the evaluation,
        None before the first); "search" and "policy" (:class:`Mean` or None); "random", "sac" and
        "bar" (return or None).
    """
    rows = []
    for task in figures.tasks_of(metrics):
        row: dict[str, Any] = {"task": task, "step": None}
        for mode in ("policy", "search"):
            curve = figures.evaluations(metrics, task, mode)
            row[mode] = mean_interval(curve[max(curve)]) if curve else None
            if curve:
                row["step"] = max(curve)
        known = (reference or {}).get(task, {})
        rows.append({**row, **{name: known.get(name) for name in ("random", "sac", "bar")}})
    return rows


def _page(name: str, config: Mapping[str, Any], metrics: Rows, reference: Reference) -> str:
    starts = [row for row in metrics if row["kind"] == "start"]
    start = starts[-1] if starts else {}
    suite = str(start.get("suite", config.get("suite", "")))
    facts = " · ".join(
        str(part)
        for part in (
            name,
            f"ezm {start['version']}" if "version" in start else "",
            *_machine(start.get("machine")),
        )
        if part
    )
    training = figures.numeric_names(metrics, "train")
    losses = [n for n in training if n.startswith("loss/")]
    others = [n for n in training if not n.startswith("loss/")]
    sections = [
        _section("Results", _results(result_table(metrics, reference))),
        _section(
            "Learning curves",
            _svg(learning_curve_figure(metrics, reference)),
            "Return per episode. The band is the 95 % interval of each evaluation's mean.",
        ),
        _section(
            "Does the model rank actions?",
            _svg(figures.diagnostics_figure(metrics)),
            "Spearman correlation between what the model predicts for actions from one state and "
            "what the simulator then gives: 1 is a perfect order, 0 is chance.",
        ),
        _section("Losses", _svg(figures.training_figure(metrics, losses))),
        _section("Training", _svg(figures.training_figure(metrics, others))),
        _section("Throughput", _svg(figures.throughput_figure(metrics))),
        _section("Configuration", _configuration(config)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(suite)} · {_text(name)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>EfficientZero-Multitask on {_text(suite)}</h1>\n"
        f'<p class="dim">{_text(facts)}</p>\n{_tiles(start, metrics)}\n'
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _section(title: str, content: str, note: str = "") -> str:
    """A titled part of the page, or nothing where there is nothing to show."""
    if not content:
        return ""
    explained = f'<p class="dim">{_text(note)}</p>\n' if note else ""
    return f"<h2>{_text(title)}</h2>\n{explained}{content}"


def _tiles(start: Mapping[str, Any], metrics: Rows) -> str:
    last = metrics[-1] if metrics else {"step": 0, "seconds": 0}
    updates = [row["updates"] for row in metrics if row.get("updates") is not None]
    tiles = {
        "tasks": f"{len(figures.tasks_of(metrics))}",
        "environment steps per task": f"{last['step']:,}",
        "learner updates": f"{updates[-1]:,}" if updates else "",
        "wall clock": _duration(last["seconds"]),
        "parameters": f"{start['parameters']:,}" if start.get("parameters") else "",
    }
    cells = "".join(
        f"<div><b>{v}</b><span class=dim>{k}</span></div>" for k, v in tiles.items() if v
    )
    return f'<div class="tiles">{cells}</div>'


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = {
        "random": "random policy",
        "search": "EZ-M, search",
        "policy": "EZ-M, policy mean",
        "sac": "SAC, same steps",
        "bar": "success bar",
    }
    columns = {
        key: heading
        for key, heading in columns.items()
        if key == "search" or any(row[key] is not None for row in rows)
    }
    head = "".join(f"<th>{heading}</th>" for heading in columns.values())
    body = [_result_row(row["task"], row, columns) for row in rows]
    if len(rows) > 1:
        means = {key: _mean_of([row[key] for row in rows]) for key in columns}
        body.append(_result_row("mean over tasks", means, columns, kind="mean"))
    evaluated = [row["search"].n for row in rows if row["search"] is not None]
    note = (
        f"Mean return and 95 % interval over {max(evaluated)} evaluation episodes at "
        f"{max(row['step'] for row in rows if row['step'] is not None):,} environment steps per task."
        if evaluated
        else "No evaluation has been finished yet."
    )
    return (
        f'<div class="wide"><table><thead><tr><th>task</th>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div><p class="dim">{note}</p>'
    )


def _result_row(task: str, row: Mapping[str, Any], columns: Iterable[str], kind: str = "") -> str:
    cells = "".join(
        f"<td{' class=ours' if key == 'search' else ''}>{_number(row[key])}</td>" for key in columns
    )
    return f"<tr{f' class={kind}' if kind else ''}><td>{_text(task)}</td>{cells}</tr>"


def _mean_of(values: Sequence[Mean | float | None]) -> float | None:
    known = [v.mean if isinstance(v, Mean) else v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _number(value: Mean | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, Mean) else format_return(value)


def _configuration(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in _flat(config)
    )
    return (
        "<details><summary>All options of the run</summary>"
        f'<div class="wide"><table>{rows}</table></div></details>'
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _machine(machine: Any) -> list[str]:
    if isinstance(machine, Mapping):
        return [f"{name} {value}" for name, value in machine.items()]
    return [str(machine)] if machine else []


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _svg(figure: Figure | None) -> str:
    """The figure as inline SVG in the page's colours, its text left to the page's font."""
    if figure is None:
        return ""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prologue
    return svg.replace(figures.INK, "var(--ink)").replace(figures.GRID, "var(--grid)")


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        value = f"{value:g}"
    return html.escape(str(value))
