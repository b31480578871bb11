"""The engine's throughput: what it is compared with computes the same, and what is timed is the preset's training."""

from contextlib import closing
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks import throughput
from benchmarks.mctx_search import MctxLearner
from benchmarks.straightforward import ListReplay, Straightforward
from ezm.agent import build
from ezm.agent.learning.normalizer import RunningStatistics
from ezm.config import MveConfig, PlannerConfig, ReplayConfig, TrainConfig
from ezm.config.presets import PRESETS, defaults
from ezm.errors import UserError
from ezm.experience import Replay
from ezm.tasks import Suite, TaskSpec, load_suite

PAIR = Suite(
    "pair",
    (
        TaskSpec("one", "test:one", 3, 2, 1, 40, (-1.0, 1.0), "one"),
        TaskSpec("two", "test:two", 4, 1, 1, 20, (0.0, 1.0), "two"),
    ),
)
TINY = replace(
    defaults("cpu", "cartpole"),
    model=replace(PRESETS["cpu"].model, latent_size=8, task_embedding_size=4, action_code_size=4),
    planner=PlannerConfig(simulations=2, root_actions=2, policy_actions=1),
    replay=ReplayConfig(capacity=200, alpha=0.7, beta=0.6),
    loss=replace(PRESETS["cpu"].loss, unroll=2, n_step=2, mve=MveConfig()),
    optimizer=replace(PRESETS["cpu"].optimizer, batch_size=13),
)


def record_alike(*replays: Replay | ListReplay) -> None:
    """The same 75 random steps of both tasks: episodes of many lengths and all ends; the last one runs."""
    rng = np.random.default_rng(0)
    for task in range(2):
        over = True
        for step in range(75):
            observation, following = rng.normal(size=(2, PAIR.observation_size))
            action, reward = rng.normal(size=PAIR.action_size), rng.normal()
            terminated, truncated = (rng.random(2) < 0.15) & (step < 72)
            for replay in replays:
                if over:
                    replay.begin(task, observation)
                ends = bool(terminated), bool(truncated and not terminated)
                replay.add(task, action, reward, following, *ends)
            over = terminated or truncated


@pytest.mark.parametrize("capacity", [200, 50])
def test_the_straightforward_replay_holds_and_draws_the_same(capacity: int) -> None:
    config = replace(TINY.replay, capacity=capacity)
    sizes = 2, PAIR.observation_size, PAIR.action_size
    ours = Replay(*sizes, config, window=4, states=3)
    theirs = ListReplay(*sizes, config, window=4, states=3)
    record_alike(ours, theirs)
    for seed in range(5):
        batch, where = ours.sample(np.random.default_rng(seed), 101, reanalyse=303)
        newest = np.array([len(rows) - 1 for rows in theirs.rows])
        index = list(zip(batch.task.tolist(), (newest[batch.task] - batch.age).tolist()))
        again = theirs.gather(index, batch.weight)
        if capacity == 200:  # a ring that has turned has its rows in another order
            again, drawn = theirs.sample(np.random.default_rng(seed), 101)
            assert drawn == index
        for expected, found in zip(jax.tree.leaves(batch), jax.tree.leaves(again), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert set(batch.length) == {1, 2, 3, 4} and set(batch.terminated) == {True, False}
        priority = np.random.default_rng(seed).exponential(3.0, 101).astype(np.float32)
        _, first = np.unique(np.stack(where[:2]), axis=1, return_index=True)
        chosen = where._replace(task=where.task[first], slot=where.slot[first])
        ours.update_priorities(chosen, priority[first])
        theirs.update_priorities([index[i] for i in first], priority[first])
    record_alike(ours, theirs)
    for task in range(2):
        priority = np.roll(ours.priority[task], -int(ours.rows[task]) % capacity)
        np.testing.assert_allclose(theirs.priorities[task], priority[-len(theirs.rows[task]) :])


def test_the_straightforward_targets_are_the_learners_with_mctx() -> None:
    theirs = Straightforward(TINY, PAIR)
    ours = Replay(
        2, PAIR.observation_size, PAIR.action_size, TINY.replay, window=4, states=3, root_actions=2
    )
    record_alike(ours, theirs.replay)
    loss = replace(TINY.loss, reanalyze_ratio=1.0)
    agent = build(replace(TINY, precision="float32", loss=loss), PAIR)
    normalizer = agent.statistics.normalizer()
    batch, _ = ours.sample(np.random.default_rng(0), 13, reanalyse=39)
    learner = MctxLearner(agent.learner.suite, agent.learner.config)
    make_targets = jax.jit(learner.make_targets)
    expected = make_targets(agent.state, normalizer, batch, jnp.int32(0))
    listed, _ = theirs.replay.sample(np.random.default_rng(0), 13)
    found = theirs.targets(normalizer, listed)
    assert found.policy.mean.shape[:2] == (3, 13)  # every state of every sample
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["ours", "rows on the device"])
def test_our_engine_learns_and_acts(variant: str) -> None:
    engine = throughput.VARIANTS[variant](TINY, PAIR)
    record_alike(engine.replay)
    normalizer = engine.statistics.normalizer()
    observation, task = np.zeros((2, PAIR.observation_size), np.float32), np.arange(2)
    action = engine.step(normalizer, observation, task, 2)
    assert action.shape == (2, PAIR.action_size) and np.isfinite(action).all()


@pytest.mark.parametrize("updates_per_step", [2.0, 0.5])
def test_a_turn_keeps_the_ratio_of_updates_to_steps(
    updates_per_step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "FILLED", 25)
    suite = load_suite("dmc:cartpole-balance,cartpole-swingup", episode_steps=10)
    statistics = RunningStatistics(suite.embodiments, suite.observation_size)
    replay = ListReplay(2, 1, 1, TINY.replay, window=4, states=3)
    engine = throughput._Parts(replay, statistics, lambda *_: np.zeros((2, 1)))
    config = replace(TINY, updates_per_step=updates_per_step)
    with closing(throughput.Training(engine, config, suite)) as training:
        assert [len(rows) for rows in replay.rows] == [25 + 3] * 2  # three episodes began
        turn = training.turn(seconds=1e-9)
    assert training.updates == int(training.steps * updates_per_step) > 0
    assert turn.updates >= 1 and turn.env_steps == 2 * (training.steps - 1)


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float]] = []

    class Fake:
        def __init__(self, variant: str, config: TrainConfig) -> None:
            self.variant, self.turns = variant, []
            gpu = throughput.Gpu(bfloat16=4e12, float32=1e12, update_flops=1e10)
            self.start = throughput.Start({"device": "toaster"}, 3.0, gpu)

        def turn(self, seconds: float) -> None:
            calls.append((self.variant, seconds))
            pace = dict(zip(throughput.VARIANTS, (20, 19, 8, 5, 7), strict=True))
            count = pace[self.variant] + len(self.turns) ** 2
            self.turns.append(throughput.Turn(2 * count, 9 * count, 2.0, 100.0 + len(calls)))

        def close(self) -> None: ...

    monkeypatch.setattr(throughput, "Worker", Fake)
    notes: list[str] = []
    options = throughput.Options("paper", "dmc:cartpole-balance", seconds=30.0)
    rows = list(throughput.measure(options, notes.append))
    assert calls == [(variant, 10.0) for variant in throughput.VARIANTS] * 3
    assert rows == [
        {
            "preset": "paper",
            "variant": variant,
            "updates_per_s": updates,
            "env_steps_per_s": 4.5 * updates,
            "peak_memory_mib": memory,
        }
        for variant, updates, memory in (
            ("ours", 21.0, 111.0),
            ("rows on the device", 20.0, 112.0),
            ("uncached", 9.0, 113.0),
            ("straightforward", 6.0, 114.0),
            ("straightforward, mixed", 8.0, 115.0),
        )
    ]
    shown = Console(width=140)
    with shown.capture() as captured:
        shown.print(throughput.table(rows))
    assert "3.50" in captured.get()  # the ratio
    said = "\n".join(notes)
    for part in ("toaster", "130 updates timed", "5.25%", "21.00%"):
        assert part in said


def test_projections_known_values() -> None:
    # 850,000 steps less 5,000 random ones, an update each, ten a second.
    assert throughput.hours(PRESETS["paper"], 850_000, 10.0) == pytest.approx(845_000 / 36_000)
    assert throughput.hours(PRESETS["cpu"], 10_000, 4.0) == pytest.approx(9_800 / 3600)
    assert throughput.share_of_peak(2e12, 10.0, 1e14) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (throughput.Options(preset="gpu"), "--preset gpu: there are cpu, paper and all"),
        (throughput.Options(turns=0), "--turns must be at least 1"),
        (throughput.Options(seconds=0.0), "--seconds greater than 0"),
        (throughput.Options(suite="cartpol"), "did you mean cartpole"),
    ],
)
def test_throughput_refuses(options: throughput.Options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(throughput.measure(options, print))
