"""Samples of the recordings of the original HumanoidBench, small enough to store with the tests.

``python -m benchmarks.parity_sample DIR OUT`` keeps a few samples of every recording below DIR. It prefers samples in
which something happens: a contact that counts, an end, a stage of the maze. ``benchmarks.parity`` reads their format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.command import command
from benchmarks.parity import FLAGS, Recording, recordings

_LEFT_OUT = ("contact_geom", "contact_dist", "sensordata", "subtree_com", "right_hand_pos")
_META = ("env_id", "mujoco", "upstream", "commit", "success_bar", "camera", "keyframe_qpos")


@dataclass(frozen=True)
class Options:
    """Sample recordings."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Folder with recordings."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the samples."""
    steps: int = 6
    """Samples of control steps, in each recording."""
    evals: int = 5
    """Samples of states that were set by hand, in each recording."""


def chosen(arrays: dict[str, np.ndarray], number: int) -> np.ndarray:
    """Returns the rows to keep: one with each flag set, and others spread over all rows."""
    count = len(arrays["reward"])
    rows: list[int] = []
    flags = [
        arrays["terminated"],
        arrays["ncon"] == 0,
        *(arrays[name] for name in FLAGS if name in arrays),
    ]
    if "maze_stage_before" in arrays:
        flags.append(arrays["maze_stage_after"] != arrays["maze_stage_before"])
    for flag in flags:
        which = np.flatnonzero(flag)
        rows += which[len(which) // 2 :][:1].tolist()
    for row in np.linspace(0, count - 1, number).round().astype(int):
        if len(set(rows)) < number:
            rows.append(int(row))
    return np.unique(rows)


def sample(recording: Recording, steps: int, evals: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a smaller recording."""
    arrays = {
        name: array
        for name, array in recording.arrays.items()
        if not name.endswith(_LEFT_OUT) and not name.startswith("fk_")
    }
    step_rows = chosen(recording.part("step_"), steps)
    eval_rows = chosen(recording.part("eval_"), evals)
    seeded = np.flatnonzero(~arrays["rollout_handset"])[:1]
    rollouts = np.unique([*arrays["step_rollout"][step_rows], *seeded])
    kept = {}
    for name, array in arrays.items():
        rows = {"step": step_rows, "eval": eval_rows, "rollout": rollouts}[name.split("_")[0]]
        kept[name] = array[rows]
    kept["step_rollout"] = np.searchsorted(rollouts, kept["step_rollout"]).astype(np.int32)
    poses = eval_rows[eval_rows < len(recording.arrays["fk_xpos"])]
    if len(poses) == 0 or not np.array_equal(poses, eval_rows[: len(poses)]):
        poses = poses[:0]
    kept["fk_xpos"] = recording.arrays["fk_xpos"][poses]
    kept["fk_xquat"] = recording.arrays["fk_xquat"][poses]
    meta = {name: recording.meta[name] for name in _META}
    meta |= {
        name: list(recording.meta[name]) for name in ("actuator_names", "body_names", "hold_action")
    }
    kept["meta_json"] = np.array(json.dumps(meta))
    return kept


def main(options: Options) -> None:
    """Writes the samples."""
    options.out.mkdir(parents=True, exist_ok=True)
    for recording in recordings(options.directory):
        path = options.out / f"{recording.meta['env_id']}.npz"
        arrays: dict[str, Any] = sample(recording, options.steps, options.evals)
        np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    command(main, Options, __doc__)
