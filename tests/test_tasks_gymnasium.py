"""Gymnasium ids and factories: spaces, limits, snapshots and what cannot be used."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import registry

from ezm.errors import UserError
from ezm.tasks import Task, load_suite
from ezm.tasks.simulator import Undrawable
from ezm.tasks.sources.gymnasium import GymnasiumSimulator
from ezm.tasks.state import pack

FACTORY = '''
import gymnasium, numpy as np
from gymnasium import spaces

class Grid(gymnasium.Env):
    """A 2x2 observation, an action between 0 and 10; ends when the sum of actions reaches 20."""
    reward_range = (-1.0, 10.0)
    observation_space = spaces.Box(-100, 100, (2, 2))
    action_space = spaces.Box(0, 10, (1, 1))
    def __init__(self, start=0.0):
        self.start = start
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.total = self.start + self.np_random.uniform()
        return self.observe(), {}
    def observe(self):
        return np.full((2, 2), self.total, np.float32)
    def step(self, action):
        assert action.shape == (1, 1) and action.dtype == np.float32
        self.total += float(action[0, 0])
        return self.observe(), float(action[0, 0]), self.total >= 20, False, {}

def make():
    return Grid()

def seeded(seed):
    return Grid(start=seed % 7)

def limited():
    return gymnasium.wrappers.TimeLimit(Grid(), 3)

class Leaky(Grid):
    """Keeps its state where no snapshot finds it."""
    totals = []
    def step(self, action):
        Leaky.totals.append(1.0)
        return self.observe() + len(Leaky.totals), 0.0, False, False, {}

class Doors(Grid):
    """Cannot be closed."""
    def close(self):
        raise OSError("the door is stuck")

def licensed(calls=[]):
    calls.append(1)
    if len(calls) > 2:
        raise OSError("no licence left")
    return Grid()

class Returning(Grid):
    """Rewards and ends as they are set."""
    outcome = (0.0, False, False)
    def step(self, action):
        return self.observe(), *self.outcome, {}

def broken():
    raise OSError("no device")

def nothing():
    return None

NUMBER = 3
'''


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_tasks.py").write_text(FACTORY)
    (tmp_path / "own_broken.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("own_tasks", "own_broken"):
        sys.modules.pop(name, None)


def made(source: str, **options: int) -> Task:
    return load_suite(source, **options).make(0, seed=4)


# Gymnasium


def test_pendulum_is_rescaled_and_truncates_at_its_registered_limit() -> None:
    suite = load_suite("gym:Pendulum-v1")
    spec = suite.tasks[0]
    assert (spec.name, spec.observation_size, spec.action_size) == ("Pendulum-v1", 3, 1)
    assert (spec.action_repeat, spec.episode_steps, spec.reward_range) == (1, 200, None)
    task, reference = suite.make(0, seed=4), gymnasium.make("Pendulum-v1")
    assert np.array_equal(task.reset(), reference.reset(seed=4)[0])
    for number in range(200):
        step = task.step(np.array([0.5]))
        observation, reward, *_ = reference.step(np.array([1.0], np.float32))
        assert np.array_equal(step.observation, observation)
        assert step.reward == pytest.approx(float(reward))
        assert step.truncated == (number == 199)
    assert not np.array_equal(task.reset(), reference.reset(seed=4)[0])  # another episode


def test_a_registered_limit_can_be_lengthened() -> None:
    task = made("gym:Pendulum-v1", action_repeat=10, episode_steps=25)
    task.reset()
    assert [task.step(np.zeros(1)).truncated for _ in range(25)] == [False] * 24 + [True]


@pytest.mark.parametrize("source", ["gym:Pendulum-v1", "gym:MountainCarContinuous-v0"])
def test_gymnasium_snapshots_have_the_same_future(source: str) -> None:
    task = made(source, episode_steps=8)
    assert task.can_restore
    task.reset()
    task.step(np.ones(1))
    snapshot = task.snapshot()

    def future() -> list:
        outcome: list = []
        for value in np.linspace(-1, 1, 12):
            step = task.step(np.array([value]))
            outcome += [step.observation.tolist(), *step[1:]]
            if step.truncated:
                outcome.append(task.reset().tolist())
        return outcome

    expected = future()
    for _ in range(2):
        task.restore(snapshot)
        assert future() == expected


def test_mujoco_tasks_of_gymnasium_can_be_restored() -> None:
    pytest.importorskip("imageio", reason="gymnasium[mujoco] is not installed")
    task = made("gym:Hopper-v5")
    assert task.can_restore
    task.reset()
    snapshot = task.snapshot()
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3))
    paths = []
    for _ in range(2):
        task.restore(snapshot)
        paths.append([task.step(action).observation.tolist() for action in actions])
    assert paths[0] == paths[1]


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ("gym:Pendulm-v1", ["'Pendulm-v1'", "did you mean Pendulum-v1?"]),
        ("gym:CartPole-v1", ["CartPole-v1", "Discrete(2)", "later version"]),
        ("gym:ALE/Pong-v5", ["'ALE/Pong-v5'", "pip install ale-py"]),
        ("gym:not_there:A-v0", ["'not_there:A-v0'", "No module named 'not_there'"]),
        ("gym:nonsense", ["'nonsense'"]),
    ],
)
def test_unusable_ids_are_explained(source: str, messages: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_suite(source)
    assert all(message in str(error.value) for message in messages)
    assert "\n" not in str(error.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    assert "LunarLanderContinuous-v3" in registry
    with pytest.raises(UserError, match=r'pip install "gymnasium\[box2d\]"$'):
        load_suite("gym:LunarLanderContinuous-v3")


class Spaces(gymnasium.Env):
    def __init__(self, observations: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = observations, actions


BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), BOX, r"pixels \(64, 64, 3\).*later version"),
        (spaces.Dict(a=BOX), BOX, "gymnasium.wrappers.FlattenObservation"),
        (spaces.Discrete(3), BOX, "gymnasium.wrappers.FlattenObservation"),
        (BOX, spaces.MultiDiscrete([2, 3]), "later version"),
        (BOX, spaces.Box(0, 3, (2,), np.int64), "whole numbers.*later version"),
        (BOX, spaces.Box(-np.inf, np.inf, (2,)), "no bounds.*TransformAction"),
        (spaces.Box(-1, 1, (0,)), BOX, r"observations Box\(.*hold no number"),
        (spaces.Box(-1, 1, (3, 0)), BOX, r"observations Box\(.*hold no number"),
        (BOX, spaces.Box(-1, 1, (0,)), r"actions Box\(.*hold no number"),
    ],
)
def test_unusable_spaces_name_what_helps(
    observations: spaces.Space, actions: spaces.Space, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        GymnasiumSimulator("t", lambda: Spaces(observations, actions), 0, lambda _: None)


def test_flat_bytes_are_no_pixels() -> None:
    memory = spaces.Box(0, 255, (128,), np.uint8)
    simulator = GymnasiumSimulator("t", lambda: Spaces(memory, BOX), 0, lambda _: None)
    assert simulator.observation_size == 128


@pytest.mark.parametrize("largest", [1.7e308, 3e38, 1e-300])
def test_bounds_of_any_width_are_reached(largest: float) -> None:
    box = spaces.Box(-largest, largest, (2,), np.float64)
    environment = Spaces(BOX, box)
    taken = []
    environment.step = lambda action: (taken.append(action), 0.0, False, False, {})  # type: ignore
    simulator = GymnasiumSimulator("t", lambda: environment, 0, lambda _: None)
    for action in (-1.0, 0.0, 0.5, 1.0):
        simulator.step(np.full(2, action), 1)
        np.testing.assert_allclose(taken[-1], action * largest)


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ((0, 1), (0.0, 1.0)),
        ((2, 2), (2.0, 2.0)),
        ((0, None), None),
        ((0, "high"), None),
        ((0, np.inf), None),
        ((np.nan, 1), None),
        (None, None),
        (3, None),
    ],
)
def test_a_range_with_an_unknown_bound_is_unknown(declared: Any, found: Any) -> None:
    environment = Spaces(BOX, BOX)
    environment.reward_range = declared
    simulator = GymnasiumSimulator("t", lambda: environment, 0, lambda _: None)
    assert simulator.reward_range == found


def test_a_range_that_begins_above_its_end_is_refused() -> None:
    environment = Spaces(BOX, BOX)
    environment.reward_range = (1, 0)
    with pytest.raises(UserError, match=r"task t: its reward_range \(1, 0\) begins above its end"):
        GymnasiumSimulator("t", lambda: environment, 0, lambda _: None)


@pytest.mark.parametrize("limit", [2e1, np.float32(20), np.int64(20)])
def test_a_limit_may_be_any_kind_of_whole_number(limit: Any) -> None:
    simulator = GymnasiumSimulator("t", lambda: Spaces(BOX, BOX), 0, lambda _: limit)
    assert simulator.episode_limit == 20 and isinstance(simulator.episode_limit, int)


@pytest.mark.parametrize("limit", [2.5, 0, -3, np.nan, np.inf, "20"])
def test_another_limit_is_refused(limit: Any) -> None:
    with pytest.raises(UserError, match="task t: its max_episode_steps .* no whole number above 0"):
        GymnasiumSimulator("t", lambda: Spaces(BOX, BOX), 0, lambda _: limit)


@pytest.mark.parametrize(
    ("dt", "rate", "seconds"),
    [
        (0.02, 10, 0.02),
        (0, 10, 0.1),
        (-1, 10, 0.1),
        (np.nan, 10, 0.1),
        (None, "fast", 1 / 30),
        (None, 0, 1 / 30),
        (None, -5, 1 / 30),
        ("slow", None, 1 / 30),
    ],
)
def test_time_that_cannot_be_is_not_taken(dt: Any, rate: Any, seconds: float) -> None:
    environment = Spaces(BOX, BOX)
    environment.dt, environment.metadata = dt, {"render_fps": rate}
    simulator = GymnasiumSimulator("t", lambda: environment, 0, lambda _: None)
    assert simulator.step_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("picture", "brightest"),
    [
        (np.linspace(0, 1, 12), 255),
        (np.linspace(0, 0.5, 12, dtype=np.float32), 128),
        (np.arange(12, dtype=np.int64) * 20, 220),
        (np.arange(12, dtype=np.uint8), 11),
    ],
)
def test_pictures_of_other_kinds(picture: np.ndarray, brightest: int) -> None:
    shown = drawing(picture.reshape(2, 2, 3)).view()
    assert isinstance(shown, np.ndarray) and shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, brightest)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((2, 2, 3), 200.0), "float64 from 200.0 to 200.0"),
        (np.full((2, 2, 3), -0.5), "float64 from -0.5 to -0.5"),
        (np.full((2, 2, 3), np.nan), "float64 from nan to nan"),
        (np.full((2, 2, 3), 300), "int64 from 300 to 300"),
        (np.zeros((2, 2, 3), bool), "bool from False to False"),
        (np.zeros((0, 2, 3), np.uint8), r"an array \(0, 2, 3\)"),
    ],
)
def test_pictures_that_are_none(picture: np.ndarray, message: str) -> None:
    with pytest.raises(Undrawable, match=f"task t has no pictures: render.. returned {message}"):
        drawing(picture).view()


def drawing(picture: np.ndarray) -> GymnasiumSimulator:
    environment = Spaces(BOX, BOX)
    environment.render_mode = "rgb_array"
    environment.render = lambda: picture  # type: ignore[method-assign]
    return GymnasiumSimulator("t", lambda: environment, 0, lambda _: None)


# Factories


def test_a_factory_in_the_current_directory_is_used() -> None:
    suite = load_suite("own_tasks:make", action_repeat=2)
    spec = suite.tasks[0]
    assert (spec.name, spec.source) == ("own_tasks:make", "own_tasks:make")
    assert (spec.observation_size, spec.action_size, spec.episode_steps) == (4, 1, None)
    assert spec.reward_range == (-2.0, 20.0)
    task = suite.make(0, seed=1)
    task.reset()
    assert task.step(np.array([-1.0])).reward == 0  # the lower bound
    step = task.step(np.array([0.0]))  # the middle, 5, twice
    assert (step.reward, step.terminated) == (10, False)
    step = task.step(np.array([1.0]))  # the upper bound ends the episode within the repeat
    assert (step.reward, step.terminated, step.truncated) == (10, True, False)


def test_a_factory_gets_the_seed_it_asks_for() -> None:
    suite = load_suite("own_tasks:seeded")
    starts = [suite.make(0, seed).reset()[0] for seed in (3, 3, 5)]
    assert starts[0] == starts[1]
    assert 3 <= starts[0] <= 4
    assert 5 <= starts[2] <= 6


def test_a_time_limit_wrapper_is_known_and_can_only_be_shortened() -> None:
    assert load_suite("own_tasks:limited").tasks[0].episode_steps == 3
    for asked, length in ((2, 2), (5, 3)):
        task = made("own_tasks:limited", episode_steps=asked)
        task.reset()
        steps = [task.step(-np.ones(1)) for _ in range(length)]
        assert [step.truncated for step in steps] == [False] * (length - 1) + [True]


def test_an_environment_with_hidden_state_does_not_claim_to_be_restorable() -> None:
    assert made("own_tasks:make").can_restore
    assert not made("own_tasks:Leaky").can_restore


def test_an_environment_that_cannot_be_made_once_more_is_not_restorable() -> None:
    task = made("own_tasks:licensed")
    assert not task.can_restore
    assert pack(task).size == 0


def test_an_environment_that_cannot_be_closed_is_used_all_the_same() -> None:
    task = made("own_tasks:Doors")
    assert task.can_restore
    task.close()


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ((np.array([0.5]), False, False), r"the reward array\(\[0.5\]\) is not a single number"),
        ((None, False, False), "the reward None is not a single number"),
        (("0.5", False, False), "the reward '0.5' is not a single number"),
        ((0.5, np.array([True, False]), False), r"terminated array\(.* is not a single number"),
        ((0.5, False, None), "truncated None is not a single number"),
    ],
)
def test_what_a_step_returns_is_named(outcome: tuple, message: str) -> None:
    task = made("own_tasks:Returning")
    task.reset()
    task.simulator.environment.outcome = outcome  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"task own_tasks:Returning, step 1 .*{message}"):
        task.step(np.zeros(1))


def test_numbers_of_other_kinds_are_taken() -> None:
    task = made("own_tasks:Returning")
    task.reset()
    task.simulator.environment.outcome = np.array(0.5), np.bool_(True), 0  # type: ignore[attr-defined]
    step = task.step(np.zeros(1))
    assert (step.reward, step.terminated, step.truncated) == (0.5, True, False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("own_taskz:make", "no module 'own_taskz'"),
        ("dcm:walker-walk", "a task is hb:robot-task, dmc:domain-task, gym:Id or module:function"),
        ("own_tasks:mak", r"no function 'mak' \(did you mean make\?\)"),
        ("own_tasks:NUMBER", "no function 'NUMBER'"),
        ("own_tasks:broken", "raised OSError: no device"),
        ("own_tasks:nothing", "returned NoneType, it must return a gymnasium.Env"),
        ("own_broken:make", "importing own_broken raised ModuleNotFoundError"),
    ],
)
def test_wrong_factories_are_explained(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_suite(source)


# -- a neutral action --------------------------------------------------------------------


class Neutral(gymnasium.Env):
    """Servos with bounds of their own."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(np.float32([0.0, -4.0]), np.float32([2.0, 0.0]))

    def __init__(self, neutral_action: Any) -> None:
        self.neutral_action = neutral_action


def test_a_neutral_action_is_taken_to_unit_bounds() -> None:
    simulator = GymnasiumSimulator("n", lambda: Neutral([0.5, -4.0]), 0, lambda _: None)
    assert simulator.neutral_action == pytest.approx((-0.5, -1.0))


@pytest.mark.parametrize("declared", [[0.5], [3.0, 0.0], [np.nan, 0.0], "home", None])
def test_a_neutral_action_that_is_none_is_refused(declared: Any) -> None:
    with pytest.raises(UserError, match="task n: its neutral_action .* is no action"):
        GymnasiumSimulator("n", lambda: Neutral(declared), 0, lambda _: None)
