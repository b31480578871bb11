"""Evaluation: the two protocols, what is found again with the same seed, and the command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ezm.cli
from ezm import platform
from ezm.acting import evaluate, results
from ezm.acting.evaluate import episodes, random_policy
from ezm.acting.load import load_agent, suite_of
from ezm.acting.results import Evaluation, read_evaluations
from ezm.agent import build
from ezm.agent.agent import TO_ACT
from ezm.agent.named import named
from ezm.config import ModelConfig, PlannerConfig, to_dict
from ezm.config.presets import PRESETS
from ezm.errors import UserError
from ezm.runs.folder import RunFolder, unwritable
from ezm.statistics.scores import normalised, success_bar
from ezm.tasks import ParallelTasks, Suite, load_suite, protocol_of, with_protocol

# -- protocols ---------------------------------------------------------------------------------


def zeros(suite: Suite, steps: int, envs: int) -> np.ndarray:
    return np.zeros((steps, envs, suite.action_size), np.float32)


def uniform(suite: Suite, steps: int, envs: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (steps, envs, suite.action_size)).astype(np.float32)


def played(suite: Suite, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Observation, reward and terminated of every step, (steps, E, ...), from the same seeds in every suite."""
    environments = ParallelTasks(
        suite, list(range(actions.shape[1])), task_ids=[0] * len(actions[0])
    )
    begun = environments.reset()
    steps = [environments.step(each) for each in actions]
    environments.close()
    observations = np.stack([begun, *(step.next_observation for step in steps)])
    return observations, *(
        np.stack([getattr(s, k) for s in steps]) for k in ("reward", "terminated")
    )


@pytest.mark.parametrize("policy", [zeros, uniform])
def test_protocols_are_the_same_up_to_the_fall(policy: Any) -> None:
    suite = load_suite("h1-stand")
    actions = policy(suite, 150, 4)
    ours, theirs = (played(with_protocol(suite, name), actions) for name in ("benchmark", "paper"))
    falls = ours[2].argmax(0)
    assert ours[2].any(0).all() and len(set(falls)) > 1, "every robot falls, at times of their own"
    assert not theirs[2].any(), "the paper's protocol lets it lie"
    for env, fall in enumerate(falls):
        for mine, other in zip(ours[:2], theirs[:2], strict=True):
            np.testing.assert_array_equal(mine[: fall + 1, env], other[: fall + 1, env])
        # What the fall itself led to and paid is the same, too; then one lies and the other begins anew.
        np.testing.assert_array_equal(ours[0][fall + 1, env], theirs[0][fall + 1, env])
        assert not np.array_equal(ours[0][fall + 2, env], theirs[0][fall + 2, env])


def test_episodes_end_with_the_fall_or_go_on_to_the_last_step() -> None:
    suite = load_suite("h1-stand", action_repeat=5)
    act = random_policy(suite, 0)
    fallen = episodes(with_protocol(suite, "benchmark"), 0, act, 3, seed=1)
    act = random_policy(suite, 0)
    whole = episodes(with_protocol(suite, "paper"), 0, act, 3, seed=1)
    assert fallen.terminated.all() and (fallen.lengths < 40).all()
    assert not whole.terminated.any() and whole.lengths.tolist() == [200] * 3
    assert (whole.returns > fallen.returns).all(), (
        "rewards are not negative, and lying pays a little"
    )


def test_tasks_without_a_fall_are_the_same_by_both_protocols() -> None:
    names = "h1hand-reach,dmc:cartpole-swingup,gym:Pendulum-v1"
    suite = load_suite(names, action_repeat=20, episode_steps=10)
    for task in range(suite.num_tasks):
        found = []
        for protocol in ("benchmark", "paper"):
            by_it = with_protocol(suite, protocol)
            found.append(episodes(by_it, task, random_policy(by_it, 0), 2, seed=3))
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not found[0].terminated.any()


def test_a_protocol_reaches_every_humanoid_bench_task(tmp_path: Path) -> None:
    suite = load_suite("dmc:cartpole-swingup,hb:h1-walk?protocol=paper,h1-run")
    assert [protocol_of(task) for task in suite.tasks] == [None, "paper", "benchmark"]
    for protocol in ("benchmark", "paper"):
        by_it = with_protocol(suite, protocol)
        assert [protocol_of(task) for task in by_it.tasks] == [None, protocol, protocol]
        assert by_it.task_names == suite.task_names
    source = f"hb:h1-walk?meshes={tmp_path}"
    meshes = replace(suite, tasks=(replace(suite.tasks[1], source=source),))
    assert tmp_path.name in with_protocol(meshes, "paper").tasks[0].source
    with pytest.raises(UserError, match="protocol 'papr': unknown"):
        with_protocol(suite, "papr")


# -- episodes ----------------------------------------------------------------------------------


def observing(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
    """A policy whose action depends on its own row alone."""
    return np.tanh(observation[:, :2])


def test_an_episode_depends_on_seed_task_and_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("gym:Pendulum-v1,dmc:cartpole-swingup,dmc:reacher-easy", action_repeat=50)
    found = episodes(suite, 1, observing, 5, seed=7)
    assert len(set(found.returns)) == 5, "no episode is another one again"
    alone = load_suite("dmc:cartpole-swingup", action_repeat=50)
    np.testing.assert_array_equal(episodes(alone, 0, observing, 5, seed=7).returns, found.returns)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(evaluate, "SIDE_BY_SIDE", 2)
    grouped = episodes(suite, 1, observing, 5, 7, lambda step, ended: told.append((step, ended)))
    np.testing.assert_array_equal(grouped.returns, found.returns)
    assert [pair for pair in told if pair[0] == 20] == [(20, 2), (20, 4), (20, 5)]
    assert not np.isin(episodes(suite, 1, observing, 5, seed=8).returns, found.returns).any()


ENDLESS = """
import gymnasium
import numpy as np


class Endless(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1), {}

    def step(self, action):
        return np.zeros(1), 0.5, False, False, {}
"""


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """A task without an end, and one with a time limit above the evaluation's."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(evaluate, "LONGEST_EPISODE", 150)
    return load_suite("endless:Endless,gym:Pendulum-v1")


def test_an_episode_without_end_is_cut(endless: Suite, caplog: pytest.LogCaptureFixture) -> None:
    act = random_policy(endless, 0)
    found = episodes(endless, 0, act, 21, seed=0)
    assert found.lengths.tolist() == [150] * 21 and found.returns.tolist() == [75.0] * 21
    assert not found.terminated.any()
    said = (
        "task endless:Endless: an episode has not ended within 150 steps, so its evaluation stops there; "
        "declare a time limit (max_episode_steps)"
    )
    assert caplog.messages == [said], "once, though there are two groups of episodes"
    assert episodes(endless, 1, act, 1, seed=0).lengths == [200], "its own limit counts"
    caplog.clear()
    evaluator = evaluate.Evaluator(endless, copies=1, seed=0)
    assert evaluator.run(act, 2)[0] == evaluator.run(act, 2)[0] == [75.0, 75.0]
    evaluator.close()
    assert caplog.messages == [said], "once in a run"


def test_bars_and_scales() -> None:
    assert success_bar("hb:h1-stand?protocol=paper") == 800
    assert success_bar("dmc:cartpole-swingup") is None and success_bar("pkg.tasks:make") is None
    scores = normalised("hb:h1-stand", [15.9, 800, 407.95])
    np.testing.assert_allclose(scores, [0, 1, 0.5], atol=1e-12)
    np.testing.assert_allclose(normalised("hb:h1hand-reach", [-538.0, 12000]), [0, 1], atol=1e-12)
    np.testing.assert_allclose(normalised("dmc:walker-walk", [[0], [250]]), [[0], [0.25]])
    assert normalised("gym:Pendulum-v1", [1.0]) is None


# -- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of an untrained agent."""
    config = replace(
        PRESETS["cpu"],
        suite="dmc:cartpole-swingup,hb:h1-stand,gym:Pendulum-v1",
        action_repeat=50,
        model=ModelConfig(latent_size=16, task_embedding_size=4, bins=11, projector_size=16),
        planner=PlannerConfig(simulations=4, root_actions=4, policy_actions=2),
    )
    run = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", to_dict(config))
    agent = build(config, suite_of(config))
    agent.statistics.add(1, np.linspace(-1, 1, agent.suite.observation_size))
    run.save_checkpoint(30, {"agent": agent.arrays(), "replay": {"rows": np.arange(9)}}, {})
    return run.path


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, copied to another place; commands in this process leave its variables and JAX alone."""
    monkeypatch.setattr(platform, "prepare_jax", lambda device: None)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "copied"))


def evaluated(run: Path, *options: str) -> Evaluation:
    assert ezm.cli.main(["eval", str(run), "--episodes", "2", *options]) == 0
    return read_evaluations(run)[-1]


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert ezm.cli.main(["eval", *arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_seed_gives_the_same_numbers_twice_and_for_any_selection(run: Path) -> None:
    first = evaluated(run)
    again = evaluated(run)
    assert replace(again, date=first.date) == first
    assert read_evaluations(run) == [again], "it was the same evaluation"
    assert (first.step, first.planner, first.protocol, first.seed) == (30, "search", "benchmark", 0)
    assert list(first.tasks) == ["cartpole-swingup", "h1-stand", "Pendulum-v1"]
    alone = evaluated(run, "--task", "Pendulum-v1", "h1-stand")
    assert list(alone.tasks) == ["h1-stand", "Pendulum-v1"]
    assert all(first.tasks[name] == each for name, each in alone.tasks.items())
    other = evaluated(run, "--task", "h1-stand,cartpole-swingup", "--seed", "1")
    assert all(first.tasks[name].returns != each.returns for name, each in other.tasks.items())
    assert len(read_evaluations(run)) == 3


def test_planners_and_protocols_differ(run: Path) -> None:
    policy = evaluated(run, "--planner", "policy", "--task", "h1-stand")
    paper = evaluated(run, "--planner", "policy", "--task", "h1-stand", "--protocol", "paper")
    assert (policy.planner, paper.protocol) == ("policy", "paper")
    assert (policy.tasks["h1-stand"].protocol, paper.tasks["h1-stand"].protocol) == (
        "benchmark",
        "paper",
    )
    assert all(policy.tasks["h1-stand"].terminated)
    assert paper.tasks["h1-stand"].lengths == (20, 20)
    searched = evaluated(run, "--task", "h1-stand")
    assert searched.tasks["h1-stand"].returns != policy.tasks["h1-stand"].returns


def test_an_agent_to_act_with_is_the_trained_one_without_replay_and_optimizer(
    trained: Path,
) -> None:
    folder = RunFolder.open(trained)
    agent, step = load_agent(folder)
    whole = folder.latest_checkpoint()
    assert whole is not None and step == 30
    arrays = whole.arrays["agent"]["learner"]
    leaves = jax.tree.leaves(agent.state)
    assert len(leaves) == len(jax.tree.leaves(agent.state.model)) < len(arrays) / 2
    for name, leaf in named(agent.state).items():
        assert name.startswith("model.")
        np.testing.assert_array_equal(leaf, arrays[name])
    np.testing.assert_array_equal(
        agent.statistics.mean, whole.arrays["agent"]["statistics"]["mean"]
    )
    part = folder.latest_checkpoint([f"agent/{name}" for name in TO_ACT])
    assert part is not None and part.arrays.keys() == {"agent"}
    assert part.arrays["agent"]["learner"].keys() == named(agent.state).keys()


def test_a_checkpoint_of_other_networks_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((run / "config.json").read_text())
    document["config"]["model"]["latent_size"] = 24
    (run / "config.json").write_text(json.dumps(document))
    said = error(capsys, "copied")
    assert "checkpoint 30 has other networks than config.json" in said
    assert re.search(
        r": model\.observation_in\.weight has the shape \(\d+, 16\) in the checkpoint and has the shape \(\d+, 24\) now; bring",
        said,
    )


def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error(capsys, "copied", "--task", "cartpole-swingp")
    assert said == (
        "error: --task cartpole-swingp: the run has no such task (did you mean cartpole-swingup?); "
        "it has cartpole-swingup, h1-stand, Pendulum-v1"
    )
    assert "'best' for argument '--planner'" in error(capsys, "copied", "--planner", "best")
    assert "--seed -1: must not be negative" in error(capsys, "copied", "--seed", "-1")
    (run / "eval.json").write_text("{")
    assert "move it away" in error(capsys, "copied"), "told before the evaluation, not after it"
    RunFolder.create(Path("own"), to_dict(replace(PRESETS["cpu"], suite="nowhere_at_all:make")))
    said = error(capsys, "own")
    assert "task nowhere_at_all:make: there is no module 'nowhere_at_all'" in said


def test_results_that_cannot_be_saved_are_shown_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise unwritable(path, OSError(30, "Read-only file system"))

    monkeypatch.setattr(results, "write_atomically", refuse)
    options = ["copied", "--episodes", "1", "--planner", "policy", "--task", "Pendulum-v1"]
    assert ezm.cli.main(["eval", *options]) == 2
    shown = capsys.readouterr()
    assert "Pendulum-v1" in shown.out
    assert shown.err.splitlines()[-1].startswith(
        "error: the results above are not saved: cannot write to"
    )
    assert not (run / "eval.json").exists()


def test_an_interrupt_keeps_nothing_and_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.iterdir())

    def interrupted(self: ParallelTasks, actions: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ParallelTasks, "step", interrupted)
    assert ezm.cli.main(["eval", "copied", "--planner", "policy"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; nothing of this evaluation is kept"
    assert sorted(run.iterdir()) == before


WITHOUT_TRAINING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        missing = "optax", "tensorboard", "tensorboardX", "wandb", "matplotlib", "pandas", "rliable"
        if name.partition(".")[0] in missing:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Missing())
import ezm.cli
sys.exit(ezm.cli.main(sys.argv[1:]))
"""


def alone(run: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """`ezm eval` in a process of its own, without what only training and pictures need."""
    options = ["--episodes", "1", "--planner", "policy", "--task", "cartpole-swingup"]
    environment = {**os.environ, "EZM_CACHE": str(run.parent / "cache")}
    command = [sys.executable, "-c", WITHOUT_TRAINING, "eval", str(run), *options]
    return subprocess.run(
        [*before, *command], env=environment, text=True, capture_output=True, check=False
    )


def test_it_needs_nothing_that_only_training_needs(run: Path) -> None:
    done = alone(run)
    assert done.returncode == 0, done.stderr
    assert "cartpole-swingup" in done.stdout
    # Standard output is the tables; how far it is goes elsewhere.
    assert done.stderr.startswith("cartpole-swingup: 1 episodes") and done.stderr.count("\n") == 1
    assert (run / "eval.json").exists()


def test_a_folder_that_is_read_only_is_evaluated(run: Path) -> None:
    mount = f'mount --bind "{run}" "{run}" && mount -o remount,bind,ro "{run}" && exec "$@"'
    before = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    try:
        subprocess.run([*before, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody mount a folder read-only")
    done = alone(run, *before)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cartpole-swingup" in done.stdout
    assert "the results above are not saved" in done.stderr.splitlines()[-1]
