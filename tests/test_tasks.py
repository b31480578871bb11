"""Suites: names, lists, sizes, padding and masks; the padded environment's limits and errors."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm.errors import UserError
from ezm.tasks import SUITES, Suite, Task, TaskSpec, listing, load_suite
from ezm.tasks.simulator import RawStep
from ezm.tasks.suites import parse


def spec(name: str = "task", **changes: Any) -> TaskSpec:
    values: dict = {
        "name": name,
        "source": f"test:{name}",
        "observation_size": 3,
        "action_size": 2,
        "action_repeat": 1,
        "episode_steps": None,
        "reward_range": None,
        "embodiment": "counter",
    }
    return TaskSpec(**(values | changes))


class Counter:
    """Observes the simulator steps taken; a step is worth 1 and fails on request."""

    observation_size = 3
    action_size = 2
    reward_range: tuple[float, float] | None = None
    embodiment = "counter"
    can_restore = False
    threads_pay = False

    def __init__(self, limit: int | None = None, ends_at: int | None = None) -> None:
        self.episode_limit = limit
        self.ends_at = ends_at
        self.count = 0
        self.actions: list[np.ndarray] = []
        self.observe: Callable[[int], Any] = lambda count: np.full(3, float(count))
        self.reward = 1.0

    def reset(self) -> np.ndarray:
        self.count = 0
        return self.observe(0)

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        self.actions.append(action)
        before = self.count
        self.count += repeat
        terminated = False
        if self.ends_at is not None and self.count >= self.ends_at:
            self.count, terminated = self.ends_at, True
        taken = self.count - before
        return RawStep(self.observe(self.count), taken * self.reward, terminated, False)

    def snapshot(self) -> object:
        raise AssertionError

    def restore(self, snapshot: object) -> None:
        raise AssertionError

    def shared(self) -> dict[str, object]:
        raise AssertionError

    def close(self) -> None:
        pass


def padded(simulator: Counter, **changes: Any) -> Task:
    return Task(spec(**changes), simulator, observation_size=5, action_size=4)


# Names and lists


def test_named_suites_have_their_action_repeats() -> None:
    suite = load_suite("cartpole")
    assert suite.task_names == (
        "cartpole-balance",
        "cartpole-swingup",
        "cartpole-balance_sparse",
        "cartpole-swingup_sparse",
    )
    assert (suite.observation_size, suite.action_size, suite.num_tasks) == (5, 1, 4)
    assert {task.action_repeat for task in suite.tasks} == {8}
    assert {task.action_repeat for task in load_suite("walker").tasks} == {4}
    assert {task.episode_steps for task in suite.tasks} == {125}
    assert {task.reward_range for task in suite.tasks} == {(0.0, 8.0)}


def test_mixed_suite_pads_five_embodiments() -> None:
    suite = load_suite("mixed")
    assert [task.observation_size for task in suite.tasks] == [5, 6, 8, 9, 24]
    assert [task.action_size for task in suite.tasks] == [1, 2, 2, 2, 6]
    assert [task.action_repeat for task in suite.tasks] == [8, 4, 4, 4, 4]
    assert (suite.observation_size, suite.action_size) == (24, 6)
    assert suite.embodiments == (0, 1, 2, 3, 4)
    assert suite.action_mask.sum(axis=1).tolist() == [1, 2, 2, 2, 6]
    for number in range(suite.num_tasks):
        task = suite.make(number, seed=1)
        own = suite.tasks[number].observation_size
        observation = task.reset()
        assert observation.shape == (24,)
        assert observation.dtype == np.float32
        assert not observation[own:].any()
        assert not task.step(np.ones(6)).observation[own:].any()


def test_walker_list_inherits_the_prefix() -> None:
    suite = load_suite("dmc:walker-walk,cheetah-run", action_repeat=3, episode_steps=7)
    assert suite.task_names == ("walker-walk", "cheetah-run")
    assert [task.action_repeat for task in suite.tasks] == [3, 3]
    assert [task.episode_steps for task in suite.tasks] == [7, 7]


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("walker", list(SUITES["walker"])),
        ("walker-run", ["dmc:walker-run"]),
        ("dmc:walker-run,cheetah-run", ["dmc:walker-run", "dmc:cheetah-run"]),
        ("gym:A-v0, B-v1", ["gym:A-v0", "gym:B-v1"]),
        ("gym:A-v0,dmc:walker-run", ["gym:A-v0", "dmc:walker-run"]),
        ("pkg.mod:make,other:make", ["pkg.mod:make", "other:make"]),
        ("gym:package:A-v0", ["gym:package:A-v0"]),
        ("pkg.mod:make,walker-run", ["pkg.mod:make", "dmc:walker-run"]),
        ("walker,cheetah-run", [*SUITES["walker"], "dmc:cheetah-run"]),
    ],
)
def test_a_name_stands_for_sources(name: str, sources: list[str]) -> None:
    assert parse(name) == sources


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("walkr", "'walkr' (did you mean walker?); `ezm tasks`"),
        ("cartpole-swing-up", "did you mean cartpole-swingup?"),
        ("dmc:walker-wlak", "'walker-wlak' (did you mean walker-walk?); `ezm tasks dmc`"),
        ("dmc:lqr-lqr_2_1", "its actions have no bounds"),
        ("dmc:quadruped-escape", "with a renderer"),
        ("dmc:walker-walk,walker-walk", "walker-walk is named twice"),
        ("cartpole,cartpole-balance", "cartpole-balance is named twice"),
        ("", "empty task name"),
        ("cartpole,,walker", "empty task name"),
    ],
)
def test_a_wrong_name_is_explained(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_suite(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [0, -2])
def test_numbers_below_one_are_refused(value: int) -> None:
    with pytest.raises(UserError, match=f"^--action-repeat {value}: must be at least 1"):
        load_suite("cartpole", action_repeat=value)
    with pytest.raises(UserError, match=f"^episode_steps={value}: must be at least 1"):
        load_suite("cartpole", episode_steps=value)


def test_tasks_of_one_embodiment_and_size_share_it() -> None:
    tasks = [
        spec("a", embodiment="walker"),
        spec("b", embodiment="cheetah"),
        spec("c", embodiment="walker", source="my_tasks:make"),
        spec("d", embodiment="walker", action_size=4),
    ]
    assert Suite("four", tuple(tasks)).embodiments == (0, 1, 0, 3)


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("cartpole", {"cartpole"}, (0, 0, 0, 0)),
        ("walker", {"walker"}, (0, 0, 0)),
        ("h1", {"h1"}, (0,) * 9),
        ("h1hand-stand,h1hand-reach", {"h1hand"}, (0, 1)),  # reach also observes its goal
        ("gym:Pendulum-v1", {"Pendulum-v1"}, (0,)),
        ("gym:ezm/h1-walk-v0,hb:h1-run?protocol=paper", {"h1"}, (0, 0)),
    ],
)
def test_every_source_declares_embodiments(
    name: str, names: set[str], expected: tuple[int, ...]
) -> None:
    suite = load_suite(name)
    assert {task.embodiment for task in suite.tasks} == names
    assert suite.embodiments == expected


def test_listing_has_a_row_for_every_task_of_every_suite() -> None:
    rows = listing()
    assert [(row.suite, row.source) for row in rows] == [
        (suite, source) for suite, sources in SUITES.items() for source in sources
    ]
    assert rows[0] == ("cartpole", "cartpole-balance", 5, 1, 8, 125, "dmc:cartpole-balance")
    assert [row.task for row in listing("walker-run")] == ["walker-run"]


def test_import_is_light() -> None:
    """Gymnasium is there, which is told of HumanoidBench's tasks, but nothing that takes its time."""
    heavy = "{'dm_control', 'mujoco', 'jax', 'scipy', 'matplotlib'}"
    code = f"import sys, ezm.tasks; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout.decode().strip() == "[]"


# Masks


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=6))
def test_masks_mark_exactly_the_real_dimensions(sizes: list[tuple[int, int]]) -> None:
    tasks = [
        spec(f"t{index}", observation_size=o, action_size=a) for index, (o, a) in enumerate(sizes)
    ]
    suite = Suite("s", tuple(tasks))
    assert suite.observation_size == max(o for o, _ in sizes)
    mask, own = suite.action_mask, [a for _, a in sizes]
    assert mask.shape == (len(sizes), max(own)) and mask.dtype == np.float32
    assert mask.sum(axis=1).tolist() == own
    assert all(row[:size].all() for row, size in zip(mask, own, strict=True))


@given(st.data())
def test_a_sub_suite_keeps_order_and_pads_afresh(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    suite = Suite("s", tuple(spec(f"t{i}", observation_size=o) for i, o in enumerate(sizes)))
    chosen = data.draw(
        st.lists(st.sampled_from(suite.task_names), min_size=1, max_size=6, unique=True)
    )
    part = suite.only(*chosen)
    assert part.task_names == tuple(chosen)
    assert part.observation_size == max(sizes[int(name[1:])] for name in chosen)


def test_a_sub_suite_names_what_is_missing() -> None:
    with pytest.raises(
        UserError, match=r"no task 'walkk' \(did you mean walk\?\); it has walk, run"
    ):
        Suite("s", (spec("walk"), spec("run"))).only("walkk")


# The padded environment


@given(
    observation=st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3),
    action=st.lists(st.floats(-5, 5), min_size=4, max_size=4),
)
def test_padding_adds_zeros_and_drops_padded_actions(
    observation: list[float], action: list[float]
) -> None:
    simulator = Counter()
    simulator.observe = lambda count: np.array(observation)
    task = padded(simulator)
    assert task.reset().tolist() == [*observation, 0, 0]
    assert task.step(np.array(action)).observation.tolist() == [*observation, 0, 0]
    assert simulator.actions[0].tolist() == [min(max(value, -1), 1) for value in action[:2]]


@given(repeat=st.integers(1, 12), limit=st.integers(1, 60))
def test_the_sources_limit_holds_with_any_repeat(repeat: int, limit: int) -> None:
    simulator = Counter(limit=limit)
    steps = -(-limit // repeat)
    task = padded(simulator, action_repeat=repeat, episode_steps=steps)
    task.reset()
    outcomes = [task.step(np.zeros(4)) for _ in range(steps)]
    assert [step.truncated for step in outcomes] == [False] * (steps - 1) + [True]
    assert not any(step.terminated for step in outcomes)
    assert sum(step.reward for step in outcomes) == limit == simulator.count


@pytest.mark.parametrize("steps", [2, 10])
def test_another_limit_shortens_or_lengthens_the_episode(steps: int) -> None:
    task = padded(Counter(limit=20), action_repeat=4, episode_steps=steps)
    task.reset()
    assert [task.step(np.zeros(4)).truncated for _ in range(steps)] == [False] * (steps - 1) + [
        True
    ]


def test_episodes_may_be_cut_earlier_and_the_cut_may_be_lifted_within_an_episode() -> None:
    task = padded(Counter(limit=20), action_repeat=4, episode_steps=5)
    task.cut_after = 2
    task.reset()
    assert [task.step(np.zeros(4)).truncated for _ in range(2)] == [False, True]
    task.reset()
    task.step(np.zeros(4))
    task.cut_after = None
    assert [task.step(np.zeros(4)).truncated for _ in range(4)] == [False, False, False, True]


def test_a_termination_ends_the_repeat_early_and_is_no_truncation() -> None:
    task = padded(Counter(limit=6, ends_at=6), action_repeat=4, episode_steps=2)
    task.reset()
    assert task.step(np.zeros(4)).reward == 4
    last = task.step(np.zeros(4))
    assert (last.reward, last.terminated, last.truncated) == (2, True, False)
    with pytest.raises(RuntimeError, match="without a running episode"):
        task.step(np.zeros(4))


def test_failures_name_task_and_step() -> None:
    simulator = Counter()
    task = padded(simulator, name="hopper")
    task.reset()
    task.step(np.zeros(4))

    simulator.observe = lambda count: np.array([0.0, np.nan, 0.0])
    with pytest.raises(UserError, match=r"task hopper, step 2 of .* nan as observation number 1"):
        task.step(np.zeros(4))
    simulator.observe = lambda count: np.zeros(4)
    with pytest.raises(UserError, match=r"task hopper, step 3 of .* 4 observations instead of 3"):
        task.step(np.zeros(4))
    simulator.observe = lambda count: 1 / 0
    with pytest.raises(UserError, match=r"step 4 of .*\(test:hopper\) raised ZeroDivisionError"):
        task.step(np.zeros(4))
    with pytest.raises(UserError, match="task hopper, reset: .* raised ZeroDivisionError"):
        task.reset()
    simulator.observe = lambda count: np.zeros(3)
    simulator.reward = np.inf
    task.reset()
    with pytest.raises(UserError, match="step 1 of the episode.* the reward inf"):
        task.step(np.zeros(4))
    simulator.reward = 1e300
    with pytest.raises(UserError, match=r"the reward 1e\+300, which is beyond float32"):
        task.step(np.zeros(4))
    simulator.observe = lambda count: np.array([0.0, 1e40, 0.0])
    with pytest.raises(UserError, match=r"returned 1e\+40, which is .* as observation number 1"):
        task.reset()
    simulator.observe = lambda count: np.zeros(3)
    task.reset()
    with pytest.raises(UserError, match="step 1 of the episode.* action is nan"):
        task.step(np.array([0, np.nan, 0, 0]))


def test_a_source_that_cannot_be_restored_says_so() -> None:
    task = padded(Counter())
    assert not task.can_restore
    with pytest.raises(RuntimeError, match="cannot be restored"):
        task.snapshot()
