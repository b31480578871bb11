"""A run and its tasks: what they were when it began is kept, and a task that has changed since is named."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ezm.acting.load import as_trained, load_agent, suite_of
from ezm.agent import build
from ezm.config import PlannerConfig, to_dict
from ezm.config.presets import PRESETS
from ezm.errors import UserError
from ezm.runs.folder import RunFolder
from ezm.runs.metrics import read_metrics
from ezm.training import trainer
from ezm.training.display import Display
from ezm.training.session import train
from ezm.training.trainer import Trainer

OWN = """
import gymnasium
import numpy as np

RANGE, LIMIT, OBSERVATIONS, ACTIONS = (0.0, 1.0), 10, 2, 1


class Own(gymnasium.Env):
    def __init__(self):
        self.reward_range = RANGE
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (OBSERVATIONS,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,))


def make():
    return gymnasium.wrappers.TimeLimit(Own(), LIMIT)
"""
CONFIG = replace(
    PRESETS["cpu"],
    suite="own_changing:make",
    model=replace(PRESETS["cpu"].model, latent_size=8),
    planner=PlannerConfig(simulations=2, root_actions=4, policy_actions=2),
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "own_changing.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    import own_changing

    yield own_changing
    del sys.modules["own_changing"]


@pytest.fixture
def run(own: Any, tmp_path: Path) -> RunFolder:
    tasks = [asdict(task) for task in suite_of(CONFIG).tasks]
    return RunFolder.create(tmp_path / "run", to_dict(CONFIG), tasks)


def test_an_agent_keeps_the_range_that_it_was_trained_with(
    own: Any, run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    trained = build(CONFIG, suite_of(CONFIG))
    run.save_checkpoint(0, {"agent": trained.arrays()}, {})
    own.RANGE, own.LIMIT = (0.0, 100.0), 500
    agent, _ = load_agent(RunFolder.open(run.path))
    model, before = agent.state.model, trained.state.model
    assert model.reward_support == before.reward_support
    assert model.value_support == before.value_support
    assert agent.suite.tasks == trained.suite.tasks
    assert caplog.messages == [
        "task own_changing:make: its reward_range is (0.0, 100.0); the run keeps (0.0, 1.0)",
        "task own_changing:make: its episode_steps is 500; the run keeps 10",
    ]


@pytest.mark.parametrize(
    ("name", "size"), [("OBSERVATIONS", "observation_size"), ("ACTIONS", "action_size")]
)
def test_a_task_of_another_size_is_named(own: Any, run: RunFolder, name: str, size: str) -> None:
    before = getattr(own, name)
    setattr(own, name, 3)
    with pytest.raises(UserError) as error:
        as_trained(suite_of(CONFIG), run)
    assert str(error.value).startswith(
        f"task own_changing:make: its {size} is 3, and the run in {run.path} began with {before}: "
    )


def test_what_is_not_known_of_the_tasks_is_taken_as_it_is(own: Any, tmp_path: Path) -> None:
    older = RunFolder.create(tmp_path / "older", to_dict(CONFIG))
    suite = suite_of(CONFIG)
    assert as_trained(suite, older) == suite
    older.replace_config(to_dict(CONFIG))
    broken = RunFolder.create(tmp_path / "broken", to_dict(CONFIG), [{"name": "own_changing:make"}])
    with pytest.raises(UserError, match="the configuration has no source"):
        as_trained(suite, broken)


def test_a_run_keeps_its_embodiments(own: Any, tmp_path: Path) -> None:
    """In older runs, which do not name them, each function of a factory was one. Others had the source to its dash."""
    own.other = own.make
    config = replace(
        CONFIG, suite="own_changing:make,own_changing:other,dmc:walker-run,walker-walk"
    )
    suite = suite_of(config)
    assert suite.embodiments == (0, 0, 2, 2)
    tasks = [asdict(task) for task in suite.tasks]
    new = RunFolder.create(tmp_path / "new", to_dict(config), tasks)
    assert as_trained(suite, new) == suite
    older = [{name: task[name] for name in task if name != "embodiment"} for task in tasks]
    old = RunFolder.create(tmp_path / "old", to_dict(config), older)
    assert as_trained(suite, old).embodiments == (0, 1, 2, 2)
    tasks[1]["embodiment"] = "another"
    third = RunFolder.create(tmp_path / "third", to_dict(config), tasks)
    assert as_trained(suite, third).embodiments == (0, 1, 2, 2)


def test_new_steps_of_a_run_leave_its_tasks(run: RunFolder) -> None:
    tasks = run.tasks
    run.replace_config(to_dict(replace(CONFIG, steps=7)))
    again = RunFolder.open(run.path)
    assert again.config["steps"] == 7 and again.tasks == list(tasks) != []


def test_rewards_that_float32_cannot_tell_apart_are_refused(own: Any, tmp_path: Path) -> None:
    own.RANGE = (0.0, 1e300)
    with pytest.raises(UserError, match=r"its rewards reach 1e\+300, and 1e\+06 is the most"):
        train(CONFIG, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_long_compilation_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Listener(Display):
        def message(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(trainer, "_STILL_ALIVE", 0.01)
    short = replace(CONFIG, suite="dmc:cartpole-balance", random_steps=20, steps=21)
    config = replace(short, evaluation_episodes=1, final_episodes=1)
    assert train(config, tmp_path / "run", display=Listener)
    assert [text for text in said if text.startswith("still")][:2] == [
        "still compiling after 0.01 s",
        "still compiling after 0.02 s",
    ]
    modes = [
        row["mode"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["kind"] == "eval"
    ]
    assert modes == ["random", "search", "policy"]


def test_a_run_that_ends_while_it_compiles_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = Event()

    class Impatient(Display):
        def update(self, step: int, updates: int, seconds: float) -> None:
            signal.raise_signal(signal.SIGINT)

        def message(self, text: str) -> None:
            if text.startswith("waiting for the compiler"):
                released.set()

    monkeypatch.setattr(Trainer, "_compile", lambda _: released.wait(60))
    config = replace(CONFIG, suite="dmc:cartpole-balance", evaluation_episodes=1)
    assert not train(config, tmp_path / "run", display=Impatient)
    assert released.is_set() and RunFolder.open(tmp_path / "run").checkpoint_steps() == [1]
