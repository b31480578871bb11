"""Saved environments go on bit for bit in another process; those that cannot begin anew, and are named."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ezm
from ezm.errors import UserError
from ezm.tasks import ParallelTasks, load_suite

FACTORY = '''
import gymnasium, mujoco, numpy as np
from gymnasium import spaces

SLIDER = """<mujoco><option timestep="0.02"/><worldbody><body name="target"><geom size="0.1" contype="0"/></body>
<body><joint name="x" type="slide" axis="1 0 0" damping="0.1"/><geom size="0.1"/></body></worldbody>
<actuator><motor joint="x"/></actuator></mujoco>"""

class Slider(gymnasium.Env):
    """Observes what the physics derived from the state before the step; its target is in the model."""
    observation_space = spaces.Box(-100, 100, (3,))
    action_space = spaces.Box(-1, 1, (1,))
    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(SLIDER)
        self.data = mujoco.MjData(self.model)
        self.phase = self.push
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.model.body("target").pos[0] = self.np_random.normal()
        self.phase = self.push
        return self.observe(), {}
    def observe(self):
        return np.array([self.data.qpos[0], self.data.xpos[2, 0], self.data.xpos[1, 0]])
    def push(self, action):
        self.phase = self.rest
        return action
    def rest(self, action):
        self.phase = self.push
        return 0.0
    def step(self, action):
        self.data.ctrl[:] = self.phase(action)
        mujoco.mj_step(self.model, self.data)
        observation = self.observe()
        return observation, float(abs(observation[0] - observation[2])), False, False, {}

def wrapped():
    shifted = gymnasium.wrappers.RescaleAction(Slider(), np.float32(-2), np.float32(2))
    return gymnasium.wrappers.TransformObservation(shifted, lambda values: 2 * values, None)

class Leaky(Slider):
    """Keeps its state where no snapshot finds it."""
    totals = []
    def step(self, action):
        Leaky.totals.append(1.0)
        return self.observe() + len(Leaky.totals), 0.0, False, False, {}

class Closed(Slider):
    """Can be copied, but not pickled."""
    def __init__(self):
        super().__init__()
        self.functions = [lambda: 1]
'''
GO_ON = """
import sys, numpy as np
from ezm.tasks import ParallelTasks, load_suite
from test_tasks_state import future
saved, out, names, steps = sys.argv[1:]
with np.load(saved) as file:
    state = dict(file)
actions = state.pop("actions")
parallel = ParallelTasks(load_suite(names, episode_steps=int(steps)), seed=99)
assert parallel.load(state) == []
np.savez(out, **future(parallel, actions))
"""
SOURCES = (
    "hb:h1-walk,h1hand-reach,dmc:cartpole-swingup,reacher-easy,gym:Pendulum-v1,own_states:wrapped"
)


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_states.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_states", None)


def actions(parallel: ParallelTasks, steps: int) -> np.ndarray:
    shape = (steps, len(parallel.tasks), parallel.suite.action_size)
    return np.random.default_rng(steps).uniform(-1, 1, shape)


def future(parallel: ParallelTasks, taken: np.ndarray) -> dict[str, np.ndarray]:
    """All that comes out of all steps, and the observations before them."""
    outcome = {"before": parallel.observation.copy()}
    batches = [parallel.step(each) for each in taken]
    return outcome | {
        name: np.stack([getattr(batch, name) for batch in batches]) for name in vars(batches[0])
    }


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def test_a_saved_state_goes_on_in_another_process(tmp_path: Path) -> None:
    suite = load_suite(SOURCES, episode_steps=40)
    parallel, unsaved = (ParallelTasks(suite, seed=5) for _ in range(2))
    past, coming = actions(parallel, 30), actions(parallel, 60)
    for each in (parallel, unsaved):
        each.reset()
        future(each, past)
    np.savez(tmp_path / "state.npz", actions=coming, **parallel.state())
    expected = future(unsaved, coming)
    assert np.isfinite(expected["episode_return"]).any(0).all()  # every episode ended once
    assert same(future(parallel, coming), expected)

    paths = [str(Path(ezm.__file__).parents[1]), str(Path(__file__).parent)]
    subprocess.run(
        [sys.executable, "-c", GO_ON, "state.npz", "out.npz", SOURCES, "40"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    with np.load(tmp_path / "out.npz") as out:
        assert same(dict(out), expected)


def test_a_state_from_before_the_first_episode_can_be_loaded() -> None:
    suite = load_suite("gym:Pendulum-v1")
    parallel, other = ParallelTasks(suite, seed=1), ParallelTasks(suite, seed=2)
    assert other.load(parallel.state()) == []
    assert np.array_equal(parallel.reset(), other.reset())


@pytest.mark.parametrize("name", ["Leaky", "Closed"])
def test_what_cannot_be_saved_begins_anew_alone(name: str) -> None:
    suite = load_suite(f"gym:Pendulum-v1,own_states:{name}", episode_steps=6)
    parallel, other = ParallelTasks(suite, seed=1), ParallelTasks(suite, seed=2)
    assert parallel.tasks[1].can_restore == (name == "Closed")
    parallel.reset()
    future(parallel, actions(parallel, 4))
    state = parallel.state()
    first = suite.make(1, int(np.random.SeedSequence(2).generate_state(2)[1])).reset()
    assert other.load(state) == [1]
    assert np.array_equal(other.observation, [parallel.observation[0], first])
    coming = actions(parallel, 6)
    ours, theirs = future(parallel, coming), future(other, coming)
    assert np.array_equal(ours["next_observation"][:, 0], theirs["next_observation"][:, 0])
    assert theirs["episode_length"].T.tolist() == [[0, 6, 0, 0, 0, 0], [0, 0, 0, 0, 0, 6]]


def test_another_function_in_the_code_is_not_taken_for_the_saved_one() -> None:
    suite = load_suite("own_states:wrapped")
    parallel, other = ParallelTasks(suite, seed=1), ParallelTasks(suite, seed=1)
    parallel.reset()
    other.tasks[0].simulator.environment.func = lambda values: values  # type: ignore[attr-defined]
    assert other.load(parallel.state()) == [0]


def test_states_of_other_environments_are_refused() -> None:
    suite = load_suite("gym:Pendulum-v1,MountainCarContinuous-v0")
    state = ParallelTasks(suite, seed=0).state()
    for other in (
        ParallelTasks(suite, seed=0, copies=2),
        ParallelTasks(suite, seed=0, task_ids=[1, 0]),
    ):
        with pytest.raises(UserError, match=r"2 environments \(Pendulum-v1, Mount.*resume with"):
            other.load(state)


@pytest.mark.parametrize("key", ["tasks", "checksums", "observation", "lengths", "environment_1"])
@pytest.mark.parametrize("how", ["missing", "shortened", "changed"])
def test_damaged_states_are_refused_and_change_nothing(key: str, how: str) -> None:
    suite = load_suite("gym:Pendulum-v1,MountainCarContinuous-v0")
    parallel = ParallelTasks(suite, seed=0)
    parallel.reset()
    state = parallel.state()
    if how == "missing":
        del state[key]
    elif how == "shortened":
        state[key] = state[key][:1]
    else:
        state[key] = state[key].astype("S40") if key != "environment_1" else state[key][::-1]
    other = ParallelTasks(suite, seed=3)
    before = other.reset().copy()
    with pytest.raises(UserError, match="saved environments: ") as error:
        other.load(state)
    assert "\n" not in str(error.value)
    assert np.array_equal(other.observation, before)
    untouched = ParallelTasks(suite, seed=3)
    untouched.reset()
    coming = actions(other, 3)
    assert same(future(other, coming), future(untouched, coming))
