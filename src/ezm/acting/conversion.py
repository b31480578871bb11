"""Conversion of runs that an older ezm wrote, so that they can be evaluated, filmed and reported.

Runs of format 1 have checkpoints of Orbax, in which the learner's arrays are numbered. The model's arrays come first, in
today's order. Only they and the statistics are converted.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from ezm.acting.load import as_trained, suite_of, take_over
from ezm.agent import Agent, for_acting
from ezm.agent.named import named
from ezm.config import from_dict
from ezm.errors import UserError
from ezm.runs.checkpoints import Checkpoint, Checkpoints, Damaged, Folder, read_manifest, verify
from ezm.runs.folder import FORMAT, RunFolder

RENAMED = {
    "borrowed_episodes": "cross_task_episodes",
    "loss.imagined_after_updates": "loss.mve.after_updates",
    "loss.imagined_share": "loss.mve.weight",
    "loss.imagined_steps": "loss.mve.horizon",
    "planner.refinements": "planner.mppi.rounds",
    "planner.refinement_samples": "planner.mppi.samples",
    "planner.refinement_temperature": "planner.mppi.temperature",
    "planner.refinement_least_std": "planner.mppi.least_std",
    **{
        f"{group}.{part}_{name}": f"{group}.{part}.{name}"
        for group, part, names in (
            ("planner", "mppi", ("rounds", "samples", "temperature", "least_std")),
            ("loss", "mve", ("weight", "horizon", "after_updates")),
            ("loss", "mixed", ("after_updates", "older_than")),
            ("loss", "q", ("weight", "target", "n_step")),
            ("loss", "actor", ("weight", "scale", "shapes_latent")),
        )
        for name in names
    },
    "loss.target_spread": "loss.actor.target_spread",
    "planner.refined_actions": "planner.refine.actions",
    "planner.refine_step": "planner.refine.step",
}
"""Options with another name today."""

ANY = object()
DROPPED = {
    "loss.search_every": ANY,
    "loss.searched_states": ANY,
    "model.critic_norm": "layer",
    "planner.backend": ANY,
    "planner.evaluation_actions": None,
}
"""Options that are gone, each with the value that today's code has, or :data:`ANY` where acting does not read it."""


def convert(path: Path) -> int | None:
    """Converts a run folder in place. Returns the step of its checkpoint, None where it has none.

    Format 1 has other checkpoints than today. They are kept aside until the new one is complete. A conversion that
    was killed can be repeated. A run of today's format stays as it is.

    Raises:
        UserError: the path is no run, Orbax is missing, or the run cannot be read or be written to.
    """
    run, version = RunFolder.open_any(path)
    aside = run.path / "checkpoints.old"
    with run.lock():
        if version < FORMAT:
            run.config = renamed(run.config)
            if version < 2:
                _convert_checkpoint(run, aside)
            run.replace_config(run.config)
        shutil.rmtree(aside, ignore_errors=True)
    return max(run.checkpoint_steps(), default=None)


def _convert_checkpoint(run: RunFolder, aside: Path) -> None:
    """Writes the newest agent of the old checkpoints as a checkpoint of today, and moves the old ones ``aside``."""
    old = Checkpoints(aside if aside.is_dir() else run.checkpoints_path)
    agent = None
    if folders := old.folders():
        agent = _agent(run, folders[-1])
    if not aside.is_dir() and old.path.is_dir():
        old.path.rename(aside)
    run.checkpoints_path.mkdir(exist_ok=True)
    if agent is not None:
        step = folders[-1].step
        run.save_checkpoint(step, {"agent": agent.arrays()}, {"step": step})


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration with today's options.

    Raises:
        UserError: an option that is gone has a value that today's code does not have.
    """
    config = copy.deepcopy(config)
    loss = config.get("loss", {})
    # Two switches of a term are one today: its weight.
    if loss.get("consistency") == "off":
        loss.update(consistency="mse", consistency_weight=0.0)
    if not loss.pop("path_consistency", True):
        loss["path_weight"] = 0.0
    for name in (*RENAMED, *DROPPED):
        group, _, option = name.rpartition(".")
        options = config.get(group, {}) if group else config
        if option not in options:
            continue
        value = options.pop(option)
        if name in RENAMED:
            *groups, option = RENAMED[name].split(".")
            into = config
            for group in groups:
                into = into.setdefault(group, {})
            into[option] = value
        elif DROPPED[name] is not ANY and DROPPED[name] != value:
            raise UserError(
                f"the configuration has {name} {value!r}, which is gone: use the ezm that wrote the run"
            )
    return config


def _agent(run: RunFolder, folder: Folder) -> Agent:
    """Returns the agent of an old checkpoint, to act with."""
    config = from_dict(run.config)
    agent = for_acting(config, as_trained(suite_of(config), run))
    names = named(agent.state)
    numbers = [f"{number:03d}" for number in range(len(names))]
    wanted = {
        "learner": dict.fromkeys(numbers, 0),
        "statistics": dict.fromkeys(agent.statistics.state(), 0),
    }
    saved = _read(folder.path, {"agent": wanted})["agent"]
    learner = {name: saved["learner"][number] for name, number in zip(names, numbers, strict=True)}
    arrays = {"learner": learner, "statistics": saved["statistics"]}
    take_over(agent, Checkpoint(folder.step, {"agent": arrays}, {}))
    return agent


def _read(path: Path, wanted: dict[str, Any]) -> Any:
    """Returns some arrays of a checkpoint of Orbax.

    Raises:
        UserError: Orbax is not installed, or cannot read the checkpoint.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise UserError(
            "reading an older ezm's checkpoint needs Orbax: pip install 'ezm-rl[convert]'"
        ) from error
    try:
        if (path / "manifest.json").exists():  # the first runs have none
            _, files = read_manifest(path)
            verify(path, files, files)
        handler = ocp.CompositeCheckpointHandler(arrays=ocp.PyTreeCheckpointHandler())
        part = ocp.args.PyTreeRestore(item=wanted, partial_restore=True)
        with ocp.Checkpointer(handler) as checkpointer:
            return checkpointer.restore(path, args=ocp.args.Composite(arrays=part))["arrays"]
    except (Damaged, OSError, ValueError, KeyError) as error:
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        raise UserError(
            f"checkpoint {path} cannot be read ({reason}): remove its folder to convert the one before"
        ) from error
