"""Rows on the device that learns: the same batches and checkpoints as with rows in the machine's memory.

Whole runs are compared in test_resume.py.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm.agent.batch import Searches
from ezm.config import ReplayConfig
from ezm.experience import Replay, device_rows

TASKS, OBSERVATIONS, ACTIONS, ROOT_ACTIONS, WINDOW, STATES = 2, 3, 2, 2, 4, 3
BATCH, RENEWED = 6, 7


def pair(capacity: int, **config: Any) -> list[Replay]:
    """One replay with its rows on the host, one with its rows on the device."""
    sizes = TASKS, OBSERVATIONS, ACTIONS
    rest = WINDOW, STATES, ROOT_ACTIONS
    both = (ReplayConfig(capacity=capacity, device=there, **config) for there in (False, True))
    return [Replay(*sizes, each, *rest) for each in both]


def assert_same(ours: Any, theirs: Any) -> None:
    """Bit for bit, types included."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class Story:
    """The same experience for several replays, made up as it goes."""

    def __init__(self, replays: list[Replay], seed: int):
        self.replays, self.rng = replays, np.random.default_rng(seed)
        self.updates = 0
        for task in range(TASKS):
            self.begin(task)
            self.step(task, "running")

    def observation(self) -> np.ndarray:
        return self.rng.normal(size=OBSERVATIONS)

    def begin(self, task: int) -> None:
        observation = self.observation()
        for replay in self.replays:
            replay.begin(task, observation)

    def step(self, task: int, end: str) -> None:
        action, reward = self.rng.normal(size=ACTIONS), self.rng.normal()
        following = self.observation()
        for replay in self.replays:
            ends = end == "terminated", end == "truncated"
            replay.add(task, action, reward, following, *ends)
            if end == "cut":
                replay.cut_episode(task)
        if end != "running":
            self.begin(task)

    def searches(self, number: int) -> Searches:
        """Of all magnitudes: what half precision makes of them is to be the same, too."""

        def numbers(*shape: int) -> np.ndarray:
            return np.float32(self.rng.normal(size=shape) * 10.0 ** self.rng.integers(-9, 5, shape))

        actions = numbers(number, ROOT_ACTIONS, ACTIONS), numbers(number, ROOT_ACTIONS)
        return Searches(*actions, numbers(number), numbers(number))

    def sample(self) -> None:
        """Draw a batch; give back priorities, and searches of the states that are to be reanalysed."""
        seed, self.updates = int(self.rng.integers(1_000)), self.updates + 1
        (ours, where), (theirs, there) = (
            replay.sample(np.random.default_rng(seed), BATCH, RENEWED) for replay in self.replays
        )
        assert_same((ours, where), (theirs, there))
        assert isinstance(theirs.observation, jax.Array) and isinstance(theirs.task, np.ndarray)
        searches, priority = self.searches(RENEWED), self.rng.exponential(size=BATCH)
        late = self.rng.random() < 0.5
        for replay, made in zip(
            self.replays, (searches, jax.tree.map(jax.numpy.asarray, searches))
        ):
            replay.update_priorities(where, priority)
            if not late:
                replay.store(*where.reanalysed, made, self.updates)
        if late:  # by when the ring may have come round
            for _ in range(int(self.rng.integers(12))):
                self.step(0, "running")
            for replay in self.replays:
                replay.store(*where.reanalysed, searches, self.updates)

    def store(self) -> None:
        """What acting searched for the newest rows; that of a task may be none of its own."""
        tasks = np.arange(TASKS)
        own = self.rng.random(TASKS) < 0.7
        searches = self.searches(TASKS)
        for replay in self.replays:
            replay.store(tasks, np.where(own, replay.rows - 1, -1), searches, self.updates)

    def save(self) -> None:
        """Each goes on from what the other one saved."""
        states = [replay.state() for replay in self.replays]
        assert_same(*states)
        states = [jax.tree.map(np.array, state) for state in states]
        config = self.replays[0].config
        self.replays[:] = pair(config.capacity, alpha=config.alpha)
        for replay, state in zip(self.replays, reversed(states)):
            replay.load(state)


steps = st.tuples(
    st.integers(0, TASKS - 1), st.sampled_from([*["running"] * 6, "terminated", "truncated", "cut"])
)


@given(
    events=st.lists(
        st.one_of(steps, st.sampled_from(["sample", "store", "sample", "save"])), max_size=60
    ),
    capacity=st.sampled_from([9, 14]),  # each is compiled
    alpha=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 100),
)
def test_both_give_the_same_batches(
    events: list[Any], capacity: int, alpha: float, seed: int
) -> None:
    """Whatever happens in whatever order: rings come round, episodes are cut, searches come late."""
    story = Story(pair(capacity, alpha=alpha), seed)
    for event in events:
        if isinstance(event, str):
            getattr(story, event)()
        else:
            story.step(*event)
    story.sample()
    story.save()
    story.sample()


def test_a_search_of_a_state_that_is_named_twice_is_the_last_one() -> None:
    for replay in pair(20):
        Story([replay], 0)
        found = Story([], 0).searches(3)
        replay.store(np.array([0, 0, 1]), np.array([1, 1, 1]), found, 5)
        np.testing.assert_array_equal(replay.state()["search_value"]["0"], [0, found.value[1]])
        np.testing.assert_array_equal(replay.state()["search_value"]["1"], [0, found.value[2]])


def test_more_rows_than_are_moved_at_once_are_saved_and_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_rows, "_CHUNK", 16)
    story = Story(pair(50), 0)
    for _ in range(45):
        story.step(0, "running")
    story.save()
    for _ in range(30):  # the ring comes round
        story.step(0, "running")
    story.save()
    story.sample()


def test_nothing_is_compiled_again_as_rows_and_searches_come() -> None:
    story = Story(pair(30), 0)
    programs = (device_rows._written, device_rows._gathered, device_rows._chunk)

    def go_on() -> None:
        for number in range(7):
            for _ in range(number):  # more rows than are brought to the device at once, too
                for task in range(TASKS):
                    story.step(task, "truncated" if number == 3 else "running")
            story.sample()
            story.store()
        for replay in story.replays:
            replay.state()

    go_on()
    compiled = [program._cache_size() for program in programs]
    for _ in range(5):
        go_on()
    assert [program._cache_size() for program in programs] == compiled


def test_an_example_is_what_a_sample_is() -> None:
    _, replay = pair(30)
    Story([replay], 0)
    sizes = BATCH, RENEWED, 2
    (example, _), (batch, _) = (
        replay.example(*sizes),
        replay.sample(np.random.default_rng(0), *sizes),
    )
    for a, b in zip(jax.tree.leaves(example), jax.tree.leaves(batch), strict=True):
        assert type(a) is type(b) and a.shape == b.shape and a.dtype == b.dtype
        assert not isinstance(a, jax.Array) or (a.sharding, a.committed) == (
            b.sharding,
            b.committed,
        )
