"""Runs of an older ezm: what was written with Orbax, by position, acts as before once it is converted."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import ezm.cli
from ezm import platform
from ezm.acting import conversion
from ezm.acting.load import load_agent, suite_of
from ezm.agent import Agent, build
from ezm.config import QConfig, to_dict
from ezm.config.presets import defaults
from ezm.errors import UserError
from ezm.runs.checkpoints import Checkpoints
from ezm.runs.folder import FORMAT, RunFolder

# Orbax's threads complain when an array's file is gone, and when their loop is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CPU = defaults("cpu", "cartpole")
CONFIG = replace(
    CPU,
    suite="dmc:cartpole-swingup",
    model=replace(CPU.model, latent_size=8, task_embedding_size=4, q_heads=2),
    loss=replace(CPU.loss, q=QConfig(weight=0.5)),
    planner=replace(CPU.planner, simulations=2, root_actions=2, policy_actions=1, leaf_rollout=0),
    final_episodes=1,
)


def save_with_orbax(path: Path, agent: Agent, replay: int) -> None:
    """A checkpoint as ezm wrote it until 2026-11-29."""
    state = agent.state
    leaves = jax.tree.leaves(replace(state, key=jax.random.key_data(state.key)))
    arrays = {
        "agent": {
            "learner": {f"{i:03d}": np.asarray(x) for i, x in enumerate(leaves)},
            "statistics": agent.statistics.state(),
        },
        "replay": {"observation": [np.ones((replay, 3))], "rows": np.arange(3)},
    }
    handler = ocp.CompositeCheckpointHandler(
        arrays=ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, use_compression=False),
        meta=ocp.JsonCheckpointHandler(),
    )
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(
            path,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave({"step": 1})
            ),
        )


def flat(options: dict[str, Any], group: str, names: dict[str, str]) -> None:
    """Moves a group's options up, under the given names or the group's name and theirs."""
    for name, value in options.pop(group).items():
        options[names.get(name, f"{group}_{name}")] = value


def older(config: dict[str, Any]) -> dict[str, Any]:
    """The options by their older names, and some that are gone."""
    mppi, mve = config["planner"].pop("mppi"), config["loss"].pop("mve")
    config["planner"]["refinements"] = mppi.pop("rounds")
    config["planner"] |= {f"refinement_{name}": value for name, value in mppi.items()}
    for new, old in (("weight", "share"), ("horizon", "steps"), ("after_updates",) * 2):
        config["loss"][f"imagined_{old}"] = mve[new]
    flat(config["planner"], "refine", {"actions": "refined_actions", "step": "refine_step"})
    flat(config["loss"], "mixed", {})
    flat(config["loss"], "q", {})
    flat(config["loss"], "actor", {"target_spread": "target_spread"})
    config["loss"]["path_consistency"] = True
    config["borrowed_episodes"] = config.pop("cross_task_episodes")
    config["planner"] |= {"evaluation_actions": None, "backend": "ezm"}
    config["model"]["critic_norm"] = config["model"].pop("head_norm")
    config["loss"] |= {"search_every": 2, "searched_states": 1}
    del config["optimizer"]["schedule_steps"]
    return config


@pytest.fixture(scope="module")
def agent() -> Agent:
    agent = build(CONFIG, suite_of(CONFIG))
    agent.statistics.add(0, np.linspace(-1, 1, agent.suite.observation_size))
    return agent


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, agent: Agent) -> Path:
    """A run of an older ezm with two checkpoints, the newer one saved twice."""
    path = tmp_path_factory.mktemp("old") / "run"
    (path / "checkpoints").mkdir(parents=True)
    document = {"format": 1, "config": older(to_dict(CONFIG))}
    (path / "config.json").write_text(json.dumps(document))
    other = build(replace(CONFIG, seed=5), agent.suite)
    save_with_orbax(path / "checkpoints" / "000000040", other, replay=10)
    save_with_orbax(path / "checkpoints" / "000000060.1", agent, replay=10)
    return path


@pytest.fixture
def run(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platform, "prepare_jax", lambda device: None)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(written, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert ezm.cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def assert_acts_as(run: Path, agent: Agent) -> None:
    found, step = load_agent(RunFolder.open(run))
    assert step == 60
    ours, theirs = (jax.tree.leaves(each.state.model) for each in (found, agent))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    for name, value in agent.statistics.state().items():
        np.testing.assert_array_equal(found.statistics.state()[name], value)
    assert found.learner.config == replace(
        CONFIG, optimizer=replace(CONFIG.optimizer, schedule_steps=None)
    )


def test_a_converted_run_has_the_newest_agent_and_todays_options(
    run: Path, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ezm.cli.main(["convert", "run"]) == 0
    assert "today's format, with the agent at step 60" in capsys.readouterr().out
    assert_acts_as(run, agent)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["000000060"]
    files = {path.name for path in (run / "checkpoints" / "000000060").iterdir()}
    assert files == {"agent.npz", "meta.json", "manifest.json"}
    assert {path.name for path in run.iterdir()} == {"config.json", "checkpoints", "lock"}
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"}
    assert ezm.cli.main(["convert", "run"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_every_command_asks_for_the_conversion(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["eval", "run"],
        ["watch", "run"],
        ["report", "run"],
        ["train", "--resume", "run"],
        ["profile", "--resume", "run"],
    ):
        line = said(capsys, *command)
        assert line.endswith("was written by an older ezm: convert it with `ezm convert run`")


def test_a_converted_run_is_not_trained_further(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conversion.convert(run)
    config = (run / "config.json").read_text()
    line = said(capsys, "train", "--resume", "run", "--steps", "5000")
    assert "run cannot be trained further: its checkpoint holds what acting needs" in line
    assert (run / "config.json").read_text() == config


def test_a_conversion_that_was_killed_is_repeated(
    run: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for place, name in ((Checkpoints, "save"), (RunFolder, "replace_config")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(place, name, kill)
            conversion.convert(run)
        assert len(list((run / "checkpoints.old").iterdir())) == 2
        assert json.loads((run / "config.json").read_text())["format"] < FORMAT
    conversion.convert(run)
    (run / "checkpoints.old").mkdir()  # a kill before its removal
    conversion.convert(run)
    assert_acts_as(run, agent)
    assert not (run / "checkpoints.old").exists()


def test_a_run_without_a_checkpoint_keeps_its_options(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert conversion.convert(run) is None
    opened = RunFolder.open(run)
    assert opened.config["planner"]["mppi"]["rounds"] == CONFIG.planner.mppi.rounds
    assert opened.latest_checkpoint() is None


def test_without_orbax_the_fix_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(UserError, match=r"needs Orbax: pip install 'ezm-rl\[convert\]'$"):
        conversion.convert(run)
    assert not (run / "checkpoints.old").exists(), "nothing has changed"


def test_a_broken_checkpoint_is_named(run: Path) -> None:
    newest = run / "checkpoints" / "000000060.1"
    for file in (newest / "arrays").rglob("d/*"):
        file.unlink()
    with pytest.raises(UserError, match=r"000000060\.1 cannot be read .*: remove its folder"):
        conversion.convert(run)
    assert not (run / "checkpoints.old").exists(), "nothing has changed"


def test_other_networks_are_named(run: Path) -> None:
    document = json.loads((run / "config.json").read_text())
    document["config"]["model"]["latent_size"] = 24
    (run / "config.json").write_text(json.dumps(document))
    with pytest.raises(
        UserError, match="checkpoint 60 has other networks .*: model.observation_in"
    ):
        conversion.convert(run)


def test_an_option_that_is_gone_is_refused_only_where_acting_differs() -> None:
    config = {"model": {"critic_norm": "layer"}, "loss": {"search_every": 7}}
    assert conversion.renamed(config) == {"model": {}, "loss": {}}
    assert config["model"], "the given configuration stays"
    with pytest.raises(UserError, match="model.critic_norm 'unit', which is gone"):
        conversion.renamed({"model": {"critic_norm": "unit"}})
    assert conversion.renamed({"borrowed_episodes": 0.3}) == {"cross_task_episodes": 0.3}


def test_options_alone_are_converted_without_orbax(
    tmp_path: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Format 2 has today's checkpoints. Its two switches of a term become the term's weight."""
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    run = RunFolder.create(tmp_path / "run", to_dict(CONFIG))
    run.save_checkpoint(60, {"agent": agent.arrays()}, {"step": 60})
    config = older(to_dict(CONFIG))
    config["loss"] |= {"path_consistency": False, "consistency": "off"}
    (run.path / "config.json").write_text(json.dumps({"format": 2, "config": config}))
    assert conversion.convert(run.path) == 60
    found, _ = load_agent(RunFolder.open(run.path))
    loss = found.learner.config.loss
    assert (loss.path_weight, loss.consistency_weight) == (0.0, 0.0)
    assert (loss.q, found.learner.config.planner) == (CONFIG.loss.q, CONFIG.planner)
