"""Comparison of our HumanoidBench with recordings of the original, with the size of each difference.

``python -m benchmarks.parity DIR`` reads every recording (``*.npz``) below DIR and puts the recorded states into our
models. It compares sizes and layout of observations and actions, kinematics, and rewards with each of their terms. It
also compares terminations, contacts, resets, and one control step of physics without and with contact. It searches for
the robots' meshes below DIR too (or below ``--meshes``). Without them the robots consist of primitives, whose contacts
differ.

A recording has arrays ``step_*`` of real control steps, ``eval_*`` of states that were set by hand, and ``rollout_*``.
See ``Recording``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypedDict

import mujoco
import numpy as np
import tyro
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.errors import UserError
from ezm.tasks.humanoid_bench.environment import Environment
from ezm.tasks.humanoid_bench.models import PHYSICS_STEPS
from ezm.tasks.humanoid_bench.rewards import REWARDS, Outcome, Record


class Row(TypedDict):
    """Largest errors over all samples of a task. None where nothing was recorded."""

    task: str
    samples: int
    layout_error: float
    """Error of observations and controls, beyond float32's resolution where the recording is in float32."""
    kinematics_error: float
    reward_error: float
    term_error: float
    termination_mismatches: int
    contact_flag_mismatches: int
    reset_error: float
    free_step_error: float | None
    """Largest error of a position after one control step without contact."""
    free_steps: int
    contact_step_error_meshes: float | None
    """Median over the steps in contact of the largest error of a position."""
    contact_step_error_primitives: float | None
    contact_step_90_meshes: float | None
    """90th percentile over the steps in contact of the largest error of a position."""
    contact_step_90_primitives: float | None
    contact_steps: int


@dataclass(frozen=True)
class Options:
    """Compare our HumanoidBench with recordings of the original."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Folder with recordings, and perhaps the robots' meshes."""
    meshes: Path | None = None
    """Folder with the robots' meshes. The default is the directory."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


@dataclass(frozen=True)
class States:
    """N recorded states, and the quantities that the original derived from them."""

    qpos: np.ndarray
    """(N, nq), at the moment of the derived quantities."""
    qvel: np.ndarray
    fresh_qpos: np.ndarray
    """(N, nq), after the last physics step."""
    fresh_qvel: np.ndarray
    control: np.ndarray
    """(N, A)."""
    recorded: dict[str, np.ndarray]
    """Recorded arrays by name, without the prefix."""


class Recording:
    """One file with recordings of one task.

    Raises:
        UserError: the file cannot be read, or is not a recording.
    """

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path) as file:
                self.arrays = {name: file[name] for name in file.files}
            self.meta = json.loads(str(self.arrays.pop("meta_json")))
            self.name = self.meta["env_id"].removesuffix("-v0")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path}: not a recording ({error}); name a folder of recordings"
            ) from error

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns the arrays whose names begin with the prefix, by name without the prefix."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }

    @cached_property
    def steps(self) -> States:
        """Real control steps. Their derived quantities belong to the start of the last physics step."""
        own = self.part("step_")
        return States(
            own["qpos_kin"], own["qvel_kin"], own["qpos_after"], own["qvel_after"], own["ctrl"], own
        )

    @cached_property
    def evals(self) -> States:
        """States that were set by hand."""
        own = self.part("eval_")
        return States(own["qpos"], own["qvel"], own["qpos"], own["qvel"], own["ctrl"], own)


def recordings(directory: Path) -> list[Recording]:
    """Returns all recordings below a directory, sorted by name.

    Raises:
        UserError: there is none.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; name a folder of recordings")
    paths = sorted(directory.rglob("*.npz"))
    if not paths:
        raise UserError(f"{directory}: no recordings (*.npz) below it; name a folder of recordings")
    return [Recording(path) for path in paths]


POSITIONS = {
    "head_pos": "head",
    "imu_pos": "imu",
    "left_foot_pos": "left_foot",
    "right_foot_pos": "right_foot",
    "left_hand_pos": "left_hand",
    "pelvis_xpos": "pelvis_position",
    "pelvis_xquat": "pelvis_quaternion",
    "com_velocity": "com_velocity",
    "torso_upright": "torso_up",
    "actuator_force": "actuator_force",
    "chair_xpos": "chair_position",
}
"""Field of our record for each recorded name."""
FLAGS = {
    "barrier_contact": "obstacle_contact",
    "pole_contact": "obstacle_contact",
    "wall_contact": "obstacle_contact",
    "sphere_contact_with_robot": "sphere_touched",
    "floor_contact_without_sphere": "floor_touched",
}


def derive(environment: Environment, states: States) -> Record:
    """Returns the quantities that our model derives from recorded states. Fresh quantities are from after the step."""
    record = environment.record(len(states.qpos))
    recorded = states.recorded
    for row in range(len(states.qpos)):
        if "goal" in recorded:
            environment.goal = recorded["goal"][row]
        if "maze_stage_before" in recorded:
            environment.stage = int(recorded["maze_stage_before"][row])
        _put(environment, states.qpos[row], states.qvel[row], states.control[row])
        mujoco.mj_forward(environment.model, environment.data)
        environment.read(record, row)
    return dataclasses.replace(
        record,
        root_position=states.fresh_qpos[:, :3],
        robot_velocity=states.fresh_qvel[:, : environment.layout.robot_velocities],
    )


def kinematics_error(record: Record, states: States) -> float:
    """Returns the largest difference of a position, rotation, velocity or force."""
    errors = [0.0]
    for name, field in POSITIONS.items():
        if name in states.recorded and (name != "chair_xpos" or record.chair_position is not None):
            errors.append(_error(getattr(record, field), states.recorded[name]))
    return max(errors)


def forward_kinematics_error(environment: Environment, recording: Recording) -> float:
    """Returns the largest difference of a body's pose in the states whose poses were recorded."""
    if "fk_xpos" not in recording.arrays:
        return 0.0
    errors = [0.0]
    states = recording.evals
    for row in range(len(recording.arrays["fk_xpos"])):
        _put(environment, states.qpos[row], states.qvel[row], states.control[row])
        mujoco.mj_kinematics(environment.model, environment.data)
        # Original bodies without a joint may be missing here: our fixed objects are one body, the world.
        for index, body in enumerate(recording.meta["body_names"]):
            ours = mujoco.mj_name2id(environment.model, mujoco.mjtObj.mjOBJ_BODY, body)
            if ours < 0:
                continue
            errors.append(
                _error(environment.data.xpos[ours], recording.arrays["fk_xpos"][row, index])
            )
            turn, expected = environment.data.xquat[ours], recording.arrays["fk_xquat"][row, index]
            errors.append(min(_error(turn, expected), _error(turn, -expected)))
    return max(errors)


def flag_mismatches(record: Record, states: States) -> int:
    """Returns the number of samples in which a contact that rewards use differs."""
    differs = np.zeros(len(states.qpos), bool)
    for name, field in FLAGS.items():
        if name in states.recorded:
            differs |= getattr(record, field) != states.recorded[name]
    return int(differs.sum())


def judge(task: str, record: Record, states: States) -> tuple[Outcome, Outcome]:
    """Returns our reward with our contacts, and our reward with the recorded contacts."""
    recorded = {
        field: states.recorded[name] for name, field in FLAGS.items() if name in states.recorded
    }
    return REWARDS[task](record), REWARDS[task](dataclasses.replace(record, **recorded))


def term_error(outcome: Outcome, states: States) -> float:
    """Returns the largest difference of a reward term, infinite if a recorded term is missing."""
    errors = [0.0]
    for name, values in states.recorded.items():
        if name.startswith("info_"):
            term = name.removeprefix("info_")
            ours = outcome.reward if term == "per_timestep_reward" else outcome.terms.get(term)
            errors.append(float("inf") if ours is None else _error(ours, values))
    if outcome.stage is not None and "maze_stage_after" in states.recorded:
        errors.append(_error(outcome.stage, states.recorded["maze_stage_after"]))
    return max(errors)


def layout_error(environment: Environment, recording: Recording) -> float:
    """Returns the largest error of observations and controls, infinite if a size or an actuator's name differs.

    Observations were recorded in float32, and actions are float32 too. Errors of its rounding do not count.
    """
    where, meta, own = environment.layout, recording.meta, recording.steps.recorded
    if (where.observation_size, where.action_size) != (own["obs"].shape[1], own["action"].shape[1]):
        return float("inf")
    if list(meta["actuator_names"]) != [
        where.model.actuator(index).name for index in range(where.action_size)
    ]:
        return float("inf")
    error = _error(where.controls(own["action"]), own["ctrl"])
    for states in (recording.steps, recording.evals):
        for row, expected in enumerate(states.recorded["obs"]):
            if "goal" in states.recorded:
                environment.goal = states.recorded["goal"][row]
            _put(environment, states.qpos[row], states.qvel[row], states.control[row])
            mujoco.mj_kinematics(environment.model, environment.data)
            environment.qpos[:], environment.qvel[:] = (
                states.fresh_qpos[row],
                states.fresh_qvel[row],
            )
            ours = np.zeros(where.observation_size)
            environment.write_observation(ours)
            difference = np.abs(ours.astype(np.float32) - expected)
            error = max(error, float((difference - np.spacing(np.abs(expected))).max()))
    return max(error, 0.0)


def reset_error(recording: Recording, meshes: Path | None) -> float:
    """Returns the largest error of the poses that our resets draw from the recorded seeds.

    Where the original also draws from a generator without a seed, only the noise is compared.
    """
    errors = [0.0]
    rollouts = recording.part("rollout_")
    for row in np.flatnonzero(~rollouts["handset"]):
        environment = Environment(recording.name, int(rollouts["seed"][row]), meshes=meshes)
        environment.reset()
        compared = np.ones(environment.model.nq, bool)
        if environment.layout.task == "sit_hard":
            compared[[0, 1, 3, 4, 5, 6]] = False
        errors.append(_error(environment.qpos[compared], rollouts["reset_qpos"][row][compared]))
        errors.append(_error(environment.qvel, rollouts["reset_qvel"][row]))
    return max(errors)


def step_errors(environment: Environment, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest error of a position after each recorded control step, and whether it was without contact."""
    own = recording.steps.recorded
    errors, free = np.zeros(len(own["ctrl"])), np.zeros(len(own["ctrl"]), bool)
    model, data = environment.model, environment.data
    rollouts = recording.part("rollout_")
    for row in range(len(errors)):
        mujoco.mj_resetData(model, data)
        _put(environment, own["qpos_before"][row], own["qvel_before"][row], own["ctrl"][row])
        if own["step"][row] == 0:
            data.qacc_warmstart[:] = rollouts["warmstart"][own["rollout"][row]]
        touched = 0
        for _ in range(PHYSICS_STEPS):
            mujoco.mj_step(model, data)
            touched += data.ncon
        errors[row] = _error(data.qpos, own["qpos_after"][row])
        free[row] = touched == 0 and own["ncon"][row] == 0
    return errors, free


def measure(recording: Recording, meshes: Path | None) -> Row:
    """Returns the row of one task."""
    environment = Environment(recording.name, 0, meshes=meshes)
    task = environment.layout.task
    worst = {"kinematics_error": 0.0, "reward_error": 0.0, "term_error": 0.0}
    terminations = flags = 0
    for states in (recording.steps, recording.evals):
        record = derive(environment, states)
        own, with_recorded_contacts = judge(task, record, states)
        flags += flag_mismatches(record, states)
        terminations += int((own.terminated != states.recorded["terminated"]).sum())
        for key, error in (
            ("kinematics_error", kinematics_error(record, states)),
            ("reward_error", _error(with_recorded_contacts.reward, states.recorded["reward"])),
            ("term_error", term_error(with_recorded_contacts, states)),
        ):
            worst[key] = max(worst[key], error)
    fk = forward_kinematics_error(environment, recording)
    errors, free = step_errors(environment, recording)
    primitives, _ = step_errors(Environment(recording.name, 0), recording)
    return Row(
        task=recording.name,
        samples=len(recording.steps.qpos) + len(recording.evals.qpos),
        layout_error=layout_error(environment, recording),
        kinematics_error=max(worst["kinematics_error"], fk),
        reward_error=worst["reward_error"],
        term_error=worst["term_error"],
        termination_mismatches=terminations,
        contact_flag_mismatches=flags,
        reset_error=reset_error(recording, meshes),
        free_step_error=float(errors[free].max()) if free.any() else None,
        free_steps=int(free.sum()),
        contact_step_error_meshes=_percentile(errors[~free], 50) if meshes else None,
        contact_step_error_primitives=_percentile(primitives[~free], 50),
        contact_step_90_meshes=_percentile(errors[~free], 90) if meshes else None,
        contact_step_90_primitives=_percentile(primitives[~free], 90),
        contact_steps=int((~free).sum()),
    )


def _put(environment: Environment, qpos: np.ndarray, qvel: np.ndarray, control: np.ndarray) -> None:
    environment.qpos[:], environment.qvel[:], environment.control[:] = qpos, qvel, control


def _error(ours: object, recorded: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours, float) - recorded).max(initial=0))


def _percentile(values: np.ndarray, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def table(rows: Sequence[Row]) -> Table:
    """Makes a table of the rows, and the worst value of each column."""
    shown = Table(title=f"largest errors, MuJoCo {mujoco.__version__}", title_justify="left")
    for head in (
        *("task", "samples", "layout", "kinematics", "reward", "term", "ended", "flags", "reset"),
        *("free step", "steps", "contact: meshes", "primitives", "steps"),
    ):
        shown.add_column(head, justify="left" if head == "task" else "right")
    for row in rows:
        shown.add_row(
            row["task"],
            str(row["samples"]),
            *(
                f"{row[key]:.0e}"
                for key in ("layout_error", "kinematics_error", "reward_error", "term_error")
            ),
            str(row["termination_mismatches"]),
            str(row["contact_flag_mismatches"]),
            f"{row['reset_error']:.0e}",
            _shown(row["free_step_error"]),
            str(row["free_steps"]),
            f"{_shown(row['contact_step_error_meshes'])} {_shown(row['contact_step_90_meshes'])}",
            f"{_shown(row['contact_step_error_primitives'])} {_shown(row['contact_step_90_primitives'])}",
            str(row["contact_steps"]),
        )
    return shown


def _shown(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}"


def meshes_below(directory: Path) -> Path | None:
    """Returns the directory if the robots' meshes are below it, or None."""
    return directory if any(directory.rglob("torso_link.stl")) else None


def rows(options: Options) -> Iterator[Row]:
    """Yields a row for each recording.

    Raises:
        UserError: there are no recordings, or not all of the meshes.
    """
    meshes = options.meshes or meshes_below(options.directory)
    for recording in recordings(options.directory):
        yield measure(recording, meshes)


def main(options: Options) -> None:
    """Prints the table."""
    show(list(rows(options)), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
