"""Environments stepped together: the same as one by one, with resets in between."""

import os
import threading

import numpy as np
import pytest

from ezm.errors import UserError
from ezm.tasks import ParallelTasks, Suite, load_suite
from ezm.tasks.sources.gymnasium import GymnasiumSimulator


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("gym:Pendulum-v1,MountainCarContinuous-v0", episode_steps=5)


def actions(count: int, size: int, steps: int = 12) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, count, size))


@pytest.mark.parametrize("threads", [1, 3, None])
def test_a_batch_equals_single_tasks(suite: Suite, threads: int | None) -> None:
    parallel = ParallelTasks(suite, seed=7, copies=2, threads=threads)
    assert parallel.task_ids.tolist() == [0, 1, 0, 1]
    assert parallel.task_ids.dtype == np.int32
    seeds = np.random.SeedSequence(7).generate_state(4)
    singles = [suite.make(i % 2, int(seed)) for i, seed in enumerate(seeds)]
    observation = parallel.reset()
    assert np.array_equal(observation, [task.reset() for task in singles])
    returns = np.zeros(4)
    for number, action in enumerate(actions(4, suite.action_size), start=1):
        batch = parallel.step(action)
        steps = [task.step(own) for task, own in zip(singles, action, strict=True)]
        assert np.array_equal(batch.next_observation, [step.observation for step in steps])
        assert np.array_equal(batch.reward, np.array([step.reward for step in steps], np.float32))
        returns += [step.reward for step in steps]
        ended = number % 5 == 0
        assert batch.truncated.tolist() == [ended] * 4
        assert not batch.terminated.any()
        if ended:
            assert np.array_equal(batch.observation, [task.reset() for task in singles])
            assert batch.episode_return == pytest.approx(returns, rel=1e-6)
            assert batch.episode_length.tolist() == [5] * 4
            returns[:] = 0
        else:
            assert np.array_equal(batch.observation, batch.next_observation)
            assert np.isnan(batch.episode_return).all()
            assert not batch.episode_length.any()
        assert parallel.observation is batch.observation
    parallel.close()


def test_no_two_environments_or_episodes_start_alike(suite: Suite) -> None:
    parallel = ParallelTasks(suite, seed=0, copies=2)
    other = ParallelTasks(suite, seed=1)
    starts = [*parallel.reset(), *parallel.reset(), *other.reset()]
    assert len({tuple(start) for start in starts}) == 10


def test_batches_stay_as_they_were(suite: Suite) -> None:
    parallel = ParallelTasks(suite, seed=0)
    parallel.reset()
    first = parallel.step(np.zeros((2, 1)))
    before = first.next_observation.copy()
    parallel.step(np.ones((2, 1)))
    assert np.array_equal(first.next_observation, before)


def test_a_reset_in_the_middle_forgets_the_return(suite: Suite) -> None:
    parallel = ParallelTasks(suite, seed=0, task_ids=[1])
    parallel.reset()
    parallel.step(np.zeros((1, 1)))
    parallel.reset()
    lengths = [int(parallel.step(np.zeros((1, 1))).episode_length[0]) for _ in range(5)]
    assert lengths == [0, 0, 0, 0, 5]


def test_threads_are_used_where_they_pay(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def thread_names(parallel: ParallelTasks) -> set[str]:
        names: set[str] = set()

        def reset() -> np.ndarray:
            names.add(threading.current_thread().name)
            return np.zeros(suite.observation_size)

        for task in parallel.tasks:
            monkeypatch.setattr(task, "reset", reset)
        parallel.reset()
        parallel.close()
        return names

    assert thread_names(ParallelTasks(suite, seed=0)) == {threading.current_thread().name}
    monkeypatch.setattr(GymnasiumSimulator, "threads_pay", True)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert all("ezm-tasks" in name for name in thread_names(ParallelTasks(suite, seed=0)))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failing_environment_is_named(
    suite: Suite, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parallel = ParallelTasks(suite, seed=0, threads=threads)
    parallel.reset()
    parallel.step(np.zeros((2, 1)))
    monkeypatch.setattr(parallel.tasks[1].simulator, "step", lambda action, repeat: 1 / 0)
    message = "task MountainCarContinuous-v0, step 2 of the episode.* raised ZeroDivisionError"
    with pytest.raises(UserError, match=message):
        parallel.step(np.zeros((2, 1)))
    parallel.close()


def test_an_environment_that_returns_nan_is_named(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    parallel = ParallelTasks(suite, seed=0)
    parallel.reset()
    for _ in range(6):  # the first episode has 5
        parallel.step(np.zeros((2, 1)))
    own = parallel.tasks[0].simulator.environment  # type: ignore[attr-defined]
    monkeypatch.setattr(own, "step", lambda _: (np.full(3, np.nan), 0.0, False, False, {}))
    message = "task Pendulum-v1, step 2 of the episode.* returned nan as observation number 0"
    with pytest.raises(UserError, match=message):
        parallel.step(np.zeros((2, 1)))


@pytest.mark.parametrize("option", ["copies", "threads"])
def test_sizes_below_one_are_refused(suite: Suite, option: str) -> None:
    with pytest.raises(UserError, match=f"^{option}=0: must be at least 1"):
        ParallelTasks(suite, 0, **{option: 0})  # type: ignore[arg-type]
