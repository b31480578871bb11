"""The registry of sources: one entry is all that a new source needs, and the entries' options and names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezm.errors import UserError
from ezm.statistics.scores import normalised, score_matrix, success_bar
from ezm.tasks import ParallelTasks, listing, load_suite, protocol_of, sources, with_protocol
from ezm.tasks.simulator import RawStep, Simulator
from ezm.tasks.sources import Score, Source


class Line:
    """Counts up or down a line, which ends at 3. The name gives the step."""

    observation_size = 1
    action_size = 1
    embodiment = "line"
    episode_limit = 20
    reward_range = (-1.0, 1.0)
    neutral_action = None
    threads_pay = False
    step_seconds = 1.0
    can_restore = True

    def __init__(self, name: str, seed: int, pictures: bool = False) -> None:
        self.pace = {"slow": 0.1, "fast": 0.5}[name.partition("?")[0]]
        self.random = np.random.default_rng(seed)
        self.place = 0.0

    def reset(self) -> np.ndarray:
        self.place = self.random.uniform()
        return np.array([self.place])

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        before = self.place
        self.place += repeat * self.pace * float(action[0])
        return RawStep(np.array([self.place]), self.place - before, self.place > 3, False)

    def snapshot(self) -> object:
        return self.place, self.random.bit_generator.state

    def restore(self, snapshot: object) -> None:
        self.place, self.random.bit_generator.state = snapshot  # type: ignore[misc]

    def shared(self) -> dict[str, object]:
        return {}

    def view(self) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def close(self) -> None:
        pass


class Together:
    """Steps lines in one call, and says how often."""

    calls = 0
    closed = False

    def __init__(self, simulators: Sequence[Simulator], threads: int) -> None:
        assert threads == 1
        self.simulators = simulators

    def step(self, actions: Sequence[np.ndarray], repeats: Sequence[int]) -> list[RawStep]:
        Together.calls += 1
        every = zip(self.simulators, actions, repeats, strict=True)
        return [simulator.step(action, repeat) for simulator, action, repeat in every]

    def close(self) -> None:
        Together.closed = True


def registered(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Source:
    entry: dict[str, Any] = {"title": "Lines", "form": "line:pace", "make": Line, **changes}
    monkeypatch.setitem(sources.REGISTRY, "line", Source(**entry))
    return sources.REGISTRY["line"]


def test_an_entry_is_all_that_a_source_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(
        monkeypatch,
        names=lambda: ("slow", "fast"),
        action_repeat={"slow": 4, "fast": 2}.__getitem__,
        options=("protocol",),
        stepper=Together,
        score=lambda name: Score(zero=-1.0, one=3.0, bar=2.0),
    )
    suite = load_suite("fast,line:slow,gym:Pendulum-v1", protocol="paper")
    assert suite.task_names == ("fast", "slow", "Pendulum-v1")
    assert [task.action_repeat for task in suite.tasks] == [2, 4, 1]
    assert [task.episode_steps for task in suite.tasks] == [10, 5, 200]
    assert suite.embodiments == (0, 0, 2)
    assert suite.tasks[0].source == "line:fast?protocol=paper"
    assert list(map(protocol_of, suite.tasks)) == ["paper", "paper", None]
    assert with_protocol(suite, "benchmark").tasks[0].source == "line:fast"
    assert [row.task for row in listing("line")] == ["slow", "fast"]

    parallel = ParallelTasks(suite, seed=5, copies=2)
    seeds = np.random.SeedSequence(5).generate_state(6)
    singles = [suite.make(index % 3, int(seed)) for index, seed in enumerate(seeds)]
    assert np.array_equal(parallel.reset(), [task.reset() for task in singles])
    for number, action in enumerate(np.random.default_rng(0).uniform(-2, 2, (12, 6, 1)), 1):
        batch = parallel.step(action)
        assert Together.calls == number
        for index, single in enumerate(singles):
            step = single.step(action[index])
            assert np.array_equal(batch.next_observation[index], step.observation)
            assert batch.reward[index] == np.float32(step.reward)
            assert (batch.terminated[index], batch.truncated[index]) == step[2:]
            if step.terminated or step.truncated:
                assert np.array_equal(batch.observation[index], single.reset())
    parallel.close()
    assert Together.closed

    assert success_bar("line:fast?protocol=paper") == 2
    np.testing.assert_array_equal(normalised("line:slow", [-1.0, 1.0]), [0.0, 0.5])  # type: ignore[arg-type]
    matrix = score_matrix("line:fast,gym:Pendulum-v1", {"fast": [1.0], "Pendulum-v1": [0.0]})
    assert matrix is not None and matrix.tolist() == [[0.5]]


def test_the_least_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch)
    suite = load_suite("line:fast,slow", protocol="paper")
    assert [task.source for task in suite.tasks] == ["line:fast", "line:slow"]
    assert [task.action_repeat for task in suite.tasks] == [1, 1]
    assert success_bar("line:fast") is None and normalised("line:fast", [1.0]) is None
    parallel = ParallelTasks(suite, seed=0)
    parallel.reset()
    assert parallel.step(np.ones((2, 1))).reward == pytest.approx([0.5, 0.1])


def test_a_source_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registered(monkeypatch, needs=("sys", "not_there"), install="pip install not-there")
    assert entry.lack() == "not_there is not installed"
    for name, what in [("line:fast", "task line:fast"), ("dmc:walker-walk,line:x", "task line:x")]:
        with pytest.raises(UserError, match=f"{what}: not_there is not installed; run: pip ins"):
            load_suite(name)
    with pytest.raises(UserError, match="suite line: not_there is not installed"):
        listing("line")
    with pytest.raises(UserError, match="'fst'; Lines's tasks are unknown, since not_there is"):
        load_suite("fst")


def test_a_mistyped_prefix_names_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch)
    with pytest.raises(UserError, match="gym:Id, line:pace or module:function"):
        load_suite("lime:fast")


@pytest.mark.parametrize(
    ("source", "changes", "expected"),
    [
        ("hb:h1-walk", {"protocol": "paper"}, "hb:h1-walk?protocol=paper"),
        ("hb:h1-walk?protocol=paper", {"protocol": None}, "hb:h1-walk"),
        (
            "hb:h1-walk?meshes=%2Fa",
            {"protocol": "paper"},
            "hb:h1-walk?protocol=paper&meshes=%2Fa",
        ),
        ("dmc:walker-walk", {"protocol": "paper"}, "dmc:walker-walk"),
        ("gym:A-v0?b=c", {"meshes": "/a"}, "gym:A-v0?b=c"),
    ],
)
def test_options_of_a_name(source: str, changes: dict[str, str | None], expected: str) -> None:
    assert sources.with_options(source, **changes) == expected
    assert sources.task_name(source) == sources.task_name(expected)


def test_an_option_of_a_name_goes_before_the_commands_option() -> None:
    suite = load_suite("hb:h1-walk?protocol=paper,hb:h1-run", protocol="benchmark")
    assert [task.source for task in suite.tasks] == ["hb:h1-walk?protocol=paper", "hb:h1-run"]


def test_an_unknown_option_of_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="no option 'protocl'; it may be protocol or meshes"):
        load_suite("hb:h1-walk?protocl=paper")


def test_a_factorys_name_is_its_source() -> None:
    assert sources.split("pkg.mod:make") == (sources.FACTORY, "pkg.mod:make")
    assert sources.task_name("pkg.mod:make?a=b") == "pkg.mod:make?a=b"


# -- embodiments of a factory's tasks --------------------------------------------------------

FACTORIES = """
import gymnasium
import numpy as np


class Arm(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))


class Named(Arm):
    embodiment = "walker"


class Wrong(Arm):
    embodiment = 3


def left():
    return gymnasium.wrappers.TimeLimit(Arm(), 100)


def right():
    return gymnasium.wrappers.RescaleAction(Arm(), np.float32(-2.0), np.float32(2.0))


def named():
    return gymnasium.wrappers.TimeLimit(Named(), 100)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_arms.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_factorys_embodiment_is_its_class_or_what_it_declares(factories: None) -> None:
    suite = load_suite("own_arms:left,own_arms:named,own_arms:right,own_arms:Named")
    assert suite.embodiments == (0, 1, 0, 1)
    assert [task.embodiment for task in suite.tasks] == ["own_arms.Arm", "walker"] * 2


def test_an_embodiment_that_is_no_name_is_refused(factories: None) -> None:
    with pytest.raises(UserError, match="task own_arms:Wrong: its embodiment 3 is no name; give a"):
        load_suite("own_arms:Wrong")
