"""HumanoidBench: parity with recordings of the original, and what a batch of environments promises."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from benchmarks import parity
from ezm import platform
from ezm.cli import main
from ezm.config.presets import defaults
from ezm.config.validation import check
from ezm.errors import UserError
from ezm.statistics.scores import normalised
from ezm.tasks import ParallelTasks, load_suite
from ezm.tasks.humanoid_bench import NAMES, SUITES, Batch, Environment, success_bar
from ezm.tasks.humanoid_bench.catalog import ENTRIES, parse
from ezm.tasks.humanoid_bench.gym import HumanoidEnv
from ezm.tasks.humanoid_bench.models import hold_action, model, robot

RECORDINGS = Path(__file__).parent / "recordings"
MIXED = ("h1-stand", "h1hand-reach", "h1-maze", "h1hand-balance_hard", "h1-stand")


def actions(batch: Batch, seed: int, steps: int = 30) -> np.ndarray:
    shape = (steps, len(batch.environments), batch.action_size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def path(batch: Batch, steps: np.ndarray) -> list[np.ndarray]:
    """Observations, rewards and ends of a batch from its reset on; ended episodes begin anew."""
    seen = [batch.reset().copy()]
    for action in steps:
        batch.step(action)
        seen += [batch.observation.copy(), batch.reward.copy(), batch.terminated.copy()]
        if batch.terminated.any():
            batch.reset(np.flatnonzero(batch.terminated))
    return seen


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


# -- parity ------------------------------------------------------------------------------------


def test_every_task_is_recorded() -> None:
    assert {recording.name for recording in parity.recordings(RECORDINGS)} == set(NAMES)
    assert (len(SUITES["h1"]), len(SUITES["h1hand"])) == (9, 14)


@pytest.mark.parametrize("name", NAMES)
def test_parity(name: str) -> None:
    """Without the meshes, so that contacts may differ: contact flags are compared where meshes are at hand."""
    recording = parity.Recording(RECORDINGS / f"{name}-v0.npz")
    row = parity.measure(recording, None)
    assert row["samples"] >= 10
    assert row["layout_error"] == 0
    assert row["kinematics_error"] < 1e-9
    assert row["reward_error"] < 1e-12
    assert row["term_error"] < 1e-12
    assert row["reset_error"] < 1e-12
    assert row["termination_mismatches"] == 0
    assert row["contact_flag_mismatches"] <= 1
    assert row["free_step_error"] is None or row["free_step_error"] < (
        1e-9 if name.startswith("h1-") else 1e-5
    )
    assert row["contact_step_error_primitives"] is not None
    assert row["contact_step_error_primitives"] < 0.03
    entry = ENTRIES[parse(name)[1]]
    assert (entry.success_bar, entry.camera) == (
        recording.meta["success_bar"],
        recording.meta["camera"],
    )
    compiled = model(*parse(name))
    np.testing.assert_allclose(compiled.key_qpos[0], recording.meta["keyframe_qpos"], atol=1e-12)
    np.testing.assert_allclose(hold_action(compiled), recording.meta["hold_action"], atol=1e-6)


def test_parity_of_an_altered_recording(tmp_path: Path) -> None:
    """The comparison sees a wrong reward, term, termination, observation and contact."""
    recording = parity.Recording(RECORDINGS / "h1-pole-v0.npz")
    before = parity.measure(recording, None)
    arrays = recording.arrays
    arrays["eval_reward"][0] += 0.5
    arrays["step_info_move"][0] -= 0.25
    arrays["eval_terminated"][:2] ^= True
    arrays["step_obs"][1, 3] += 1
    arrays["step_head_pos"][2, 2] += 0.125
    row = parity.measure(recording, None)
    assert row["reward_error"] == pytest.approx(0.5)
    assert row["term_error"] == pytest.approx(0.25)
    assert row["termination_mismatches"] == 2
    assert row["layout_error"] == pytest.approx(1, abs=1e-6)
    assert row["kinematics_error"] == pytest.approx(0.125)
    arrays["eval_pole_contact"][3] ^= True
    changed = parity.measure(recording, None)["contact_flag_mismatches"]
    assert abs(changed - before["contact_flag_mismatches"]) == 1


def test_observations_of_the_free_step_are_two_milliseconds_ahead() -> None:
    """Rewards read the head where the last physics step began; the observation is what it led to."""
    environment = Environment("h1-stand", 0)
    environment.reset()
    environment.data.qpos[2] += 1  # in free fall
    environment.advance(environment.layout.controls(hold_action(environment.model)))
    old = environment.readings["head"].copy()
    mujoco.mj_kinematics(environment.model, environment.data)
    fresh = environment.readings["head"]
    assert old[2] - fresh[2] == pytest.approx(0.02 * 9.81 * 0.002, rel=0.1)


# -- batches -----------------------------------------------------------------------------------


def test_sizes_of_a_mixed_batch() -> None:
    batch = Batch.of(MIXED)
    assert batch.observation.shape == (5, 177)
    assert batch.action_size == 61
    assert batch.groups == [[0, 4], [1], [2], [3]]
    batch.reset()
    assert (batch.observation[0, 51:] == 0).all() and (batch.observation[1, 157:] == 0).all()


def test_outcome_depends_on_seed_and_actions_alone() -> None:
    steps = actions(Batch.of(MIXED), 0)
    first = path(Batch.of(MIXED, seed=3), steps)
    assert_same(first, path(Batch.of(MIXED, seed=3, threads=3), steps))
    alone = path(Batch([Batch.of(MIXED, seed=3).environments[2]]), steps[:, 2:3, :19])
    for together, single in zip(first, alone, strict=True):
        np.testing.assert_array_equal(
            together[2][:51] if together.ndim > 1 else together[2], single[0]
        )
    other = path(Batch.of(MIXED, seed=4), steps)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("name", ["h1hand-sit_hard", "h1hand-reach"])
def test_seeds_fix_poses_and_goals_too(name: str) -> None:
    def starts(seed: int) -> np.ndarray:
        batch = Batch([Environment(name, seed)])
        return np.array([batch.reset()[0].copy() for _ in range(3)])

    np.testing.assert_array_equal(starts(5), starts(5))
    first, second, _ = starts(5)
    assert not np.array_equal(first, second)


def test_ranges_of_poses_and_goals() -> None:
    chairs = Batch([Environment("h1hand-sit_hard", seed) for seed in range(200)])
    pose = chairs.reset()
    yaw = 2 * np.arctan2(pose[:, 6], pose[:, 3])
    for values, low, high in ((pose[:, 0], 0.2, 0.4), (pose[:, 1], -0.15, 0.15), (yaw, -1.8, 1.8)):
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert np.abs(pose[:, 4:6]).max() < 1e-12
    goals = Batch([Environment("h1hand-reach", seed) for seed in range(200)]).reset()[:, -3:]
    assert (np.abs(goals[:, :2]) <= 2).all() and (np.abs(goals[:, :2]) > 1.9).any()
    assert (goals[:, 2] >= 0.2).all() and (goals[:, 2] <= 2).all()


def test_protocols() -> None:
    """Random actions make H1 fall within two seconds; that ends an episode or does not."""
    for protocol, falls_end in (("benchmark", True), ("paper", False)):
        batch = Batch.of(["h1-pole"], protocol=protocol)
        batch.reset()
        ended = []
        for action in actions(batch, 0, 100):
            batch.step(action)
            ended.append(bool(batch.terminated[0]))
        assert batch.observation[0, 2] < 0.5
        assert any(ended) is falls_end


def test_only_chosen_environments_move() -> None:
    batch = Batch.of(["h1-walk", "h1-walk", "h1-maze"])
    start = batch.reset().copy()
    batch.step(actions(batch, 0, 1)[0], np.array([True, False, False]))
    assert not np.array_equal(batch.observation[0], start[0])
    np.testing.assert_array_equal(batch.observation[1:], start[1:])
    assert batch.reward[0] > 0 and (batch.reward[1:] == 0).all()
    assert batch.environments[2].stage == 0


def test_maze_gives_its_bonus_once() -> None:
    batch = Batch.of(["h1-maze"])
    for _ in range(2):
        batch.reset()
        action = hold_action(batch.environments[0].model)[None]
        rewards = []
        for _ in range(3):
            batch.step(action)
            rewards.append(batch.reward[0])
        assert rewards[0] > 100 and max(rewards[1:]) < 1


def test_diverged_physics_ends_the_episode_without_reward() -> None:
    batch = Batch.of(["h1-stand", "h1-stand"], protocol="paper")
    batch.reset()
    before = batch.environments[1].snapshot()
    batch.environments[1].data.qvel[6] = 1e12
    batch.step(np.zeros((2, 19), np.float32))
    assert batch.terminated.tolist() == [False, True]
    assert batch.reward[0] > 0 and batch.reward[1] == 0
    for begin in (lambda: batch.reset([1]), lambda: batch.environments[1].restore(before)):
        begin()
        batch.step(np.zeros((2, 19), np.float32))
        assert not batch.terminated.any() and batch.reward[1] > 0


@pytest.mark.parametrize("name", ["h1-stand", "h1hand-balance_hard", "h1-maze", "h1hand-reach"])
def test_snapshot_and_restore(name: str) -> None:
    batch = Batch.of([name])
    batch.reset()
    steps = actions(batch, 1, 20)
    for action in steps[:5]:
        batch.step(action)
    saved = batch.environments[0].snapshot()

    def rest() -> list[np.ndarray]:
        batch.environments[0].restore(saved)
        seen = []
        for action in steps[5:]:
            batch.step(action)
            seen += [batch.observation.copy(), batch.reward.copy()]
        return [*seen, batch.reset().copy()]

    assert_same(rest(), rest())


# -- as a suite --------------------------------------------------------------------------------


def test_suite_and_simulators_agree() -> None:
    """Many environments at once give what each alone gives, repeats and ends included."""
    suite = load_suite("h1-stand,h1-maze,h1hand-reach,dmc:cartpole-balance", action_repeat=2)
    assert (suite.observation_size, suite.action_size) == (157, 61)
    assert [task.observation_size for task in suite.tasks] == [51, 51, 157, 5]
    assert suite.action_mask.sum(1).tolist() == [19, 19, 61, 1]
    parallel = ParallelTasks(suite, seed=5, threads=2)
    seeds = np.random.SeedSequence(5).generate_state(4)
    singles = [suite.make(task, int(seed)) for task, seed in enumerate(seeds)]
    first = parallel.reset()
    np.testing.assert_array_equal(first, [single.reset() for single in singles])
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        action = rng.uniform(-1, 1, (4, 61))
        batch = parallel.step(action)
        for index, single in enumerate(singles):
            step = single.step(action[index])
            np.testing.assert_array_equal(batch.next_observation[index], step.observation)
            assert batch.reward[index] == np.float32(step.reward)
            assert batch.terminated[index] == step.terminated
            if step.terminated or step.truncated:
                ends += 1
                np.testing.assert_array_equal(batch.observation[index], single.reset())
    assert ends > 0
    parallel.close()


def test_protocol_and_episode_length_of_a_suite() -> None:
    suite = load_suite("h1-stand", protocol="paper", episode_steps=150)
    assert suite.task_names == ("h1-stand",)
    parallel = ParallelTasks(suite, seed=0)
    parallel.reset()
    rng = np.random.default_rng(0)
    for number in range(150):
        batch = parallel.step(rng.uniform(-1, 1, (1, 19)))
        assert not batch.terminated.any()
        assert batch.truncated.item() is (number == 149)
    parallel.close()


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h2-walk", "unknown robot 'h2' (did you mean h1?); there are h1, h1hand"),
        ("h1-wolk", "h1 has no task 'wolk' (did you mean walk?)"),
        ("h1-reach", "h1 has no task 'reach'"),
    ],
)
def test_unknown_tasks(name: str, message: str) -> None:
    for attempt in (success_bar, lambda name: Batch.of([name])):
        with pytest.raises(UserError) as error:
            attempt(name)
        assert message in str(error.value)


def test_unknown_protocol_robot_and_threads() -> None:
    with pytest.raises(UserError, match=r"protocol 'papre': unknown \(did you mean paper\?\)"):
        Batch.of(["h1-walk"], protocol="papre")
    with pytest.raises(UserError, match="robot 'g1': unknown; there are h1, h1hand"):
        robot("g1")
    with pytest.raises(UserError, match="threads=0: must be at least 1"):
        Batch.of(["h1-walk"], threads=0)
    with pytest.raises(UserError, match="render_mode 'human': unknown"):
        HumanoidEnv("h1-walk", render_mode="human")


def test_meshes_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        Batch.of(["h1-walk"], meshes=tmp_path / "none")
    (tmp_path / "torso_link.stl").touch()
    with pytest.raises(UserError) as error:
        Batch.of(["h1hand-walk"], meshes=tmp_path)
    assert "pelvis.stl" in str(error.value) and "f_distal_pst.obj" in str(error.value)
    assert "torso_link.stl" not in str(error.value)


def test_wrong_actions() -> None:
    batch = Batch.of(["h1-walk", "h1-walk"])
    batch.reset()
    with pytest.raises(UserError, match=r"actions of shape \(2, 18\): h1-walk expects \(2, 19\)"):
        batch.step(np.zeros((2, 18)))
    bad = np.zeros((2, 19))
    bad[1, 4] = np.nan
    with pytest.raises(UserError, match="task h1-walk: action number 4 is nan"):
        batch.step(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["h1-wolk"], "did you mean h1-walk?"),
        (["h1-walk", "--meshes", "nowhere"], "no such directory"),
        (["hb:h3-walk"], "unknown robot 'h3'"),
        (["h1-walk", "--protocol", "papre"], "papre"),
    ],
)
def test_command_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "prepare_jax", lambda device: None)
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert "Traceback" not in error


def test_parity_of_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        parity.recordings(tmp_path / "none")
    with pytest.raises(UserError, match="no recordings"):
        parity.recordings(tmp_path)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(UserError, match="not a recording"):
        parity.recordings(tmp_path)


# -- normalised returns and presets ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h1-stand", "h1-pole", "h1hand-sit_simple"])
def test_recorded_return_of_random_actions(name: str) -> None:
    """What normalised returns count as 0."""
    batch = Batch.of([name] * 50, seed=1)
    batch.reset()
    rng = np.random.default_rng(1)
    returns, running = np.zeros(50), np.ones(50, bool)
    for _ in range(300):
        batch.step(rng.uniform(-1, 1, (50, batch.action_size)).astype(np.float32), running.copy())
        returns[running] += batch.reward[running]
        running &= ~batch.terminated
    assert not running.any()
    assert normalised(f"hb:{name}", returns.mean()) == pytest.approx(0, abs=0.01)


def test_presets_of_humanoids() -> None:
    """One task or several have bins of their own rewards; the suites with maze and reach the published ones."""
    single = defaults("cpu", "h1-walk")
    assert single == defaults("cpu", "hb:h1hand-sit_hard")
    assert (single.action_repeat, single.model.reward_range) == (4, None)
    whole = defaults("cpu", "h1")
    assert (whole.action_repeat, whole.model.reward_range) == (4, (-299.0, 299.0))
    assert defaults("paper", "h1").action_repeat is None


@pytest.mark.parametrize(
    ("suite", "tasks"), [("h1-stand", 1), ("h1-stand,h1-walk,h1-run", 3), ("h1", 9), ("h1hand", 14)]
)
def test_each_humanoid_task_has_the_same_windows(suite: str, tasks: int) -> None:
    config = defaults("cpu", suite)
    assert load_suite(suite).num_tasks == tasks
    check(config, tasks)
    assert config.windows(tasks) == 64
