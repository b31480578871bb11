"""A field that is declared once is stored, sampled, saved, and read by a loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm.acting.collector import Experience
from ezm.agent.batch import BATCH_AXIS, Batch
from ezm.agent.learning import RunningStatistics
from ezm.config import ReplayConfig
from ezm.experience import Replay
from ezm.experience.rows import FIELDS, Field
from ezm.tasks import StepBatch
from ezm.training.sink import ReplaySink

TASKS, WINDOW, STEPS = 2, 3, 9
EPISODE = 4


@pytest.fixture(params=[False, True], ids=["host", "device"])
def on_device(request: pytest.FixtureRequest) -> Any:
    return request.param


def replay(on_device: bool) -> Replay:
    return Replay(TASKS, 2, 1, ReplayConfig(capacity=50, device=on_device), WINDOW, states=2)


def step(t: int) -> Experience:
    """Step ``t`` of both tasks. The first observation number tells the step, and an episode has four steps."""
    over = np.full(TASKS, t % EPISODE == EPISODE - 1)
    states = np.full((TASKS, 2), t + 1, np.float32)
    tasks = np.arange(TASKS, dtype=np.int32)
    rewards = np.full(TASKS, t, np.float32)
    nothing = np.zeros(TASKS, bool)
    result = StepBatch(states, rewards, nothing, over, states, rewards, tasks)
    behaviour = np.array([10 + t, 20 + t], np.int32)
    return Experience(tasks, behaviour, nothing, np.zeros((TASKS, 1)), result, None, nothing)


def toy_loss(batch: Batch) -> jax.Array:
    """A mean over the real transitions of a field."""
    real = jnp.arange(WINDOW)[:, None] < batch.length
    return (batch.extras["behaviour_task"] * real).sum() / real.sum()


def test_a_declared_field_goes_from_the_sink_to_a_loss(
    on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIELDS, "behaviour_task", Field("transition", (), np.int32))
    monkeypatch.setitem(FIELDS, "episode_length", Field("transition", (), np.int16))
    kept = replay(on_device)
    sink = ReplaySink(kept, RunningStatistics((0, 0), 2), lambda: 0)
    sink.begin(np.arange(TASKS), np.zeros((TASKS, 2), np.float32))
    for t in range(STEPS):
        sink.add(step(t))
    again = replay(not on_device)
    again.load(jax.tree.map(np.array, kept.state()))
    for each in (kept, again):
        batch, _ = each.sample(np.random.default_rng(0), 40)
        extras = {name: np.asarray(x) for name, x in batch.extras.items()}
        t = np.asarray(batch.observation)[0, :, 0].astype(int) + np.arange(WINDOW)[:, None]
        real = np.arange(WINDOW)[:, None] < batch.length
        assert not real.all()
        expected = np.where(real, t + np.where(batch.task == 0, 10, 20), 0)
        np.testing.assert_array_equal(extras["behaviour_task"], expected)
        # A field of the step's result: the made-up length is the task.
        np.testing.assert_array_equal(extras["episode_length"], np.where(real, batch.task, 0))
        assert extras["behaviour_task"].dtype == np.int32
        assert float(jax.jit(toy_loss)(batch)) == pytest.approx(expected.sum() / real.sum())
        first = jax.tree.map(lambda x: x.shape[BATCH_AXIS.extras], batch.extras)
        assert set(first.values()) == {40}
    example, _ = kept.example(40)
    assert jax.tree.structure(example) == jax.tree.structure(batch)


def test_what_a_field_is_of_decides_how_windows_end(
    on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIELDS, "height", Field("state", (3, "action"), np.float16))
    monkeypatch.setitem(FIELDS, "cost", Field("transition", (2,), np.float32))
    kept = replay(on_device)
    kept.begin(0, np.zeros(2), height=np.full((3, 1), 5.0))
    kept.add(0, np.ones(1), 1.0, np.ones(2), False, False, height=np.full((3, 1), 6.0), cost=[1, 2])
    kept.add(0, np.ones(1), 1.0, np.ones(2), False, True)  # not given: 0
    kept.begin(1, np.zeros(2))
    kept.add(1, np.ones(1), 1.0, np.ones(2), False, True)
    batch, _ = kept.sample(np.random.default_rng(0), 40)
    ours = int(np.flatnonzero((batch.task == 0) & (batch.length == 2))[0])
    height, cost = (np.asarray(batch.extras[name])[:, ours] for name in ("height", "cost"))
    assert height.shape == (WINDOW + 1, 3, 1) and height.dtype == np.float16
    np.testing.assert_array_equal(height[:, 0, 0], [5, 6, 0, 0])
    np.testing.assert_array_equal(cost, [[1, 2], [0, 0], [0, 0]])


def test_a_field_that_no_collector_gives_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIELDS, "luck", Field("transition", (), np.float32))
    sink = ReplaySink(replay(False), RunningStatistics((0, 0), 2), lambda: 0)
    sink.begin(np.arange(TASKS), np.zeros((TASKS, 2), np.float32))
    with pytest.raises(AttributeError, match="luck"):
        sink.add(step(0))
