"""Rung 4 of the ladder: what is sampled is what was recorded, as often as its priority says."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezm.agent.batch import Batch, Searches
from ezm.config import ReplayConfig
from ezm.experience import Drawn, Replay
from ezm.experience.sum_tree import SumTree

WINDOW = 5
Episode = tuple[int, str]  # number of steps; "terminated", "truncated" or "running"


def buffer(num_tasks: int = 1, capacity: int = 100, **config: Any) -> Replay:
    return Replay(num_tasks, 2, 1, ReplayConfig(capacity=capacity, **config), WINDOW)


def drawn(task: Any, slot: Any) -> Drawn:
    return Drawn(np.asarray(task), np.asarray(slot), (np.zeros(0, int), np.zeros(0, int)))


def record(replay: Replay, episodes: list[Episode], task: int = 0, first: int = 0) -> None:
    """Every row tells what it is: observation (episode, t), action t, reward 100 episode + t."""
    for number, (steps, end) in enumerate(episodes, first):
        replay.begin(task, np.array([number, 0]))
        for t in range(steps):
            over = t + 1 == steps
            replay.add(
                task,
                np.array([t]),
                100.0 * number + t,
                np.array([number, t + 1]),
                over and end == "terminated",
                over and end == "truncated",
            )


def check_windows(batch: Batch, episodes: list[Episode]) -> None:
    """Each window against the episode that its first observation names."""
    for b in range(len(batch.task)):
        number, start = batch.observation[0, b].astype(int)
        steps, end = episodes[number]
        length = min(steps - start, WINDOW)
        assert batch.length[b] == length >= 1
        states = start + np.minimum(np.arange(WINDOW + 1), length)
        np.testing.assert_array_equal(batch.observation[:, b, 0], number)
        np.testing.assert_array_equal(batch.observation[:, b, 1], states)
        np.testing.assert_array_equal(batch.action[:length, b, 0], states[:length])
        np.testing.assert_array_equal(batch.reward[:length, b], 100 * number + states[:length])
        np.testing.assert_array_equal(batch.reward[length:, b], 0.0)
        assert batch.terminated[b] == (end == "terminated" and start + length == steps)


ends = st.sampled_from(["terminated", "truncated"])


@given(
    episodes=st.lists(st.tuples(st.integers(1, 12), ends), min_size=1, max_size=12),
    running=st.integers(1, 8),
    capacity=st.integers(2 * WINDOW + 1, 60),
)
def test_windows_are_what_was_recorded(
    episodes: list[Episode], running: int, capacity: int
) -> None:
    """Whatever the episodes' lengths and wherever the ring is cut; the last episode still runs."""
    replay = buffer(capacity=capacity)
    episodes = [*episodes, (running, "running")]
    record(replay, episodes)
    batch, _ = replay.sample(np.random.default_rng(0), 200)
    check_windows(batch, episodes)
    rows = sum(steps + 1 for steps, _ in episodes)
    ages = (
        rows
        - 1
        - np.array([sum(s + 1 for s, _ in episodes[: int(e)]) + t for e, t in batch.observation[0]])
    )
    np.testing.assert_array_equal(batch.age, ages)
    assert (batch.age < capacity).all()


def test_an_episode_longer_than_the_ring() -> None:
    episodes = [(50, "terminated"), (3, "running")]
    replay = buffer(capacity=20)
    record(replay, episodes)
    batch, _ = replay.sample(np.random.default_rng(0), 300)
    check_windows(batch, episodes)
    # 20 rows: 4 of the running episode, 16 of the ended one; the last row of each starts no window.
    assert {tuple(row) for row in batch.observation[0]} == {
        *((0, t) for t in range(35, 50)),
        *((1, t) for t in range(3)),
    }


def test_termination_and_truncation_are_told_apart() -> None:
    replay = buffer()
    record(replay, [(4, "terminated"), (4, "truncated"), (2, "terminated")])
    batch, _ = replay.sample(np.random.default_rng(0), 200)
    assert set(batch.observation[0, batch.terminated, 0]) == {0, 2}
    assert set(batch.observation[0, ~batch.terminated, 0]) == {1}


def test_every_task_gives_the_same_number_of_samples() -> None:
    replay = buffer(num_tasks=3)
    for task, steps in enumerate((2, 10, 60)):
        record(replay, [(steps, "truncated")], task)
    rng = np.random.default_rng(0)
    batch, _ = replay.sample(rng, 30)
    np.testing.assert_array_equal(np.bincount(batch.task), [10, 10, 10])
    remainders = np.zeros(3)
    for _ in range(60):
        counts = np.bincount(replay.sample(rng, 31)[0].task)
        assert sorted(counts) == [10, 10, 11]
        remainders += counts - 10
    assert (remainders >= 8).all()  # of 20 expected each


def test_shared_replay_samples_tasks_by_their_share() -> None:
    replay = buffer(num_tasks=2, per_task=False, alpha=0.0)
    record(replay, [(10, "truncated")], 0)
    record(replay, [(90, "truncated")], 1)
    batch, _ = replay.sample(np.random.default_rng(0), 2000)
    assert np.mean(batch.task) == pytest.approx(0.9, abs=0.03)


def test_windows_of_different_tasks_stay_apart() -> None:
    replay = buffer(num_tasks=2, capacity=30)
    for number in range(10):
        for task in (0, 1):
            record(replay, [(7, "terminated")], task, first=2 * number + task)
    batch, _ = replay.sample(np.random.default_rng(0), 100)
    check_windows(batch, [(7, "terminated")] * 20)
    np.testing.assert_array_equal(batch.observation[0, :, 0] % 2, batch.task)


def filled(**config: Any) -> tuple[Replay, np.ndarray]:
    """One task with 4 transitions of priorities 1, 2, 3 and 4 (normalised: the second result)."""
    replay = buffer(**config)
    record(replay, [(4, "truncated")])
    slots = np.arange(4)
    replay.update_priorities(drawn(np.zeros(4, int), slots), np.array([1.0, 2.0, 3.0, 4.0]))
    return replay, np.array([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(1.0, [0.1, 0.2, 0.3, 0.4]), (0.0, [0.25] * 4), (2.0, np.array([1, 4, 9, 16]) / 30)],
)
def test_sampling_frequencies_follow_priorities(alpha: float, expected: list[float]) -> None:
    replay, _ = filled(alpha=alpha)
    num = 20_000
    slot = replay.sample(np.random.default_rng(0), num)[1].slot
    counts = np.bincount(slot, minlength=4)
    chi_square = ((counts - num * np.array(expected)) ** 2 / (num * np.array(expected))).sum()
    assert chi_square < 16.3  # 99.9 % point with 3 degrees of freedom


def test_importance_weights_undo_the_priorities() -> None:
    """With beta 1 a weight is inverse to the probability: 1 for the least likely row sampled."""
    replay, probability = filled()
    batch, (_, slot, _) = replay.sample(np.random.default_rng(0), 200)
    np.testing.assert_allclose(batch.weight, probability[0] / probability[slot], rtol=1e-5)


def test_importance_weights_keep_within_bounds() -> None:
    replay, _ = filled()
    replay.update_priorities(
        drawn(np.zeros(4, int), np.arange(4)), np.array([0.01, 1.0, 10.0, 100.0])
    )
    weights = np.concatenate(
        [replay.sample(np.random.default_rng(seed), 500)[0].weight for seed in range(20)]
    )
    assert weights.min() == pytest.approx(0.1) and weights.max() == 1.0


def test_importance_weights_of_a_task_do_not_depend_on_the_other_tasks() -> None:
    """A task with one unlikely row would otherwise weigh all windows of the other task down to 0.1."""
    replay = buffer(num_tasks=2)
    for task in range(2):
        record(replay, [(4, "terminated")], task)
    replay.update_priorities(drawn([0] * 4, range(4)), np.array([1.0, 50.0, 50.0, 50.0]))
    replay.update_priorities(drawn([1] * 4, range(4)), np.full(4, 3.0))
    batch, _ = replay.sample(np.random.default_rng(0), 1_000)
    np.testing.assert_allclose(batch.weight[batch.task == 1], 1.0)
    own = batch.weight[batch.task == 0]
    assert own.min() == pytest.approx(0.1) and own.max() == 1.0


def test_uniform_sampling_weighs_all_the_same() -> None:
    replay, _ = filled(alpha=0.0)
    batch, _ = replay.sample(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_new_data_gets_the_highest_priority_of_its_task() -> None:
    replay = buffer(num_tasks=2)
    record(replay, [(3, "truncated")], 0)
    record(replay, [(3, "truncated")], 1)
    np.testing.assert_array_equal(replay.priority[0, :4], [1.0, 1.0, 1.0, 0.0])
    replay.update_priorities(drawn([0, 0], [0, 1]), np.array([7.0, 0.5]))
    record(replay, [(1, "truncated")], 0)
    record(replay, [(1, "truncated")], 1)
    np.testing.assert_allclose(replay.priority[0, :6], [7.0, 0.5, 1.0, 0.0, 7.0, 0.0])
    np.testing.assert_allclose(replay.priority[1, :6], [1.0, 1.0, 1.0, 0.0, 1.0, 0.0])


def test_a_priority_of_zero_stays_possible_to_sample() -> None:
    replay, _ = filled()
    replay.update_priorities(drawn(np.zeros(4, int), np.arange(4)), np.zeros(4))
    batch, _ = replay.sample(np.random.default_rng(0), 100)
    assert len(np.unique(batch.observation[0, :, 1])) == 4


def test_late_priorities_do_not_touch_rows_that_start_no_window() -> None:
    """A batch's priorities arrive after more rows, and the ring may have turned meanwhile."""
    replay = buffer(capacity=12)
    record(replay, [(8, "truncated")])
    _, index = replay.sample(np.random.default_rng(0), 200)
    episodes = [(8, "truncated"), (6, "truncated"), (3, "running")]
    record(replay, episodes[1:], first=1)
    replay.update_priorities(index, np.full(200, 5.0))
    batch, _ = replay.sample(np.random.default_rng(0), 200)
    check_windows(batch, episodes)


def test_round_trip_through_state() -> None:
    episodes = [(9, "terminated"), (7, "truncated"), (4, "running")]
    original, copy = buffer(capacity=15), buffer(capacity=15)
    record(original, episodes)
    original.update_priorities(drawn(np.zeros(3, int), [2, 3, 4]), np.array([0.5, 3.0, 9.0]))
    copy.load(jax.tree.map(np.copy, original.state()))
    for replay in (original, copy):  # both go on in the same way
        record(replay, [(5, "terminated")], first=3)
    ours, theirs = (r.sample(np.random.default_rng(3), 50) for r in (original, copy))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert copy.nbytes > sum(x.nbytes for x in jax.tree.leaves(copy.state())) > 0


def test_state_has_the_filled_rows_alone_and_makes_no_copies() -> None:
    replay = buffer(capacity=40, num_tasks=2)
    record(replay, [(8, "truncated")])
    state = replay.state()
    assert [len(ring) for ring in state["observation"].values()] == [9, 0]
    assert np.shares_memory(state["observation"]["0"], replay.state()["observation"]["0"])
    record(replay, [(60, "running")], first=1)
    assert [len(ring) for ring in replay.state()["end"].values()] == [40, 0]


def test_load_empties_what_it_takes() -> None:
    replay = buffer(capacity=15)
    record(replay, [(9, "terminated")])
    state = replay.state()
    buffer(capacity=15).load(state)
    assert not state


@pytest.mark.parametrize("before", [10, 15])
def test_load_takes_whole_rings(before: int) -> None:
    """Filled or not, of the same capacity or of a smaller one."""
    episodes = [(5, "terminated"), (7, "truncated")]
    original, copy = buffer(capacity=before), buffer(capacity=15)
    record(original, episodes)
    filled = original.state()
    whole = jax.tree.map(
        lambda x: np.pad(x, [(0, before - len(x)), *[(0, 0)] * (x.ndim - 1)]), filled
    )
    copy.load({k: dict(v) if isinstance(v, dict) else filled[k] for k, v in whole.items()})
    kept = np.arange(14 - min(before, 14), 14)
    for name in ("observation", "priority", "end"):
        ours, theirs = whole[name]["0"], copy.state()[name]["0"]
        np.testing.assert_array_equal(theirs[kept % 15], ours[kept % before])


def test_cut_episodes_become_truncated_ones() -> None:
    replay = buffer(num_tasks=2)
    episodes = [(3, "terminated"), (6, "running")]
    record(replay, episodes)  # the second task has nothing yet
    for task in (0, 0, 1):  # a second time changes nothing
        replay.cut_episode(task)
    episodes = [(3, "terminated"), (6, "truncated"), (4, "running")]
    record(replay, episodes[2:], first=2)
    replay.config = ReplayConfig(capacity=100, per_task=False)
    batch, _ = replay.sample(np.random.default_rng(0), 200)
    check_windows(batch, episodes)
    assert set(batch.observation[0, :, 0]) == {0, 1, 2}


def test_a_cut_right_behind_a_termination_leaves_it_one() -> None:
    replay = buffer()
    record(replay, [(3, "terminated")])
    replay.cut_episode(0)
    batch, _ = replay.sample(np.random.default_rng(0), 50)
    check_windows(batch, [(3, "terminated")])


# -- searches ------------------------------------------------------------------------------


def searching(capacity: int = 100, num_tasks: int = 1) -> Replay:
    config = ReplayConfig(capacity=capacity, alpha=0.0)
    return Replay(num_tasks, 2, 1, config, WINDOW, states=3, root_actions=2)


def found(values: list[float]) -> Searches:
    """Searches that tell which they are."""
    x = np.array(values, np.float32)
    half = np.full((len(x), 2), 0.5, np.float32)
    return Searches(np.tile(x[:, None, None] / 100, (1, 2, 1)), half, x, 2 * x)


def test_searches_come_back_with_the_states_they_were_made_at() -> None:
    replay = searching()
    episodes = [(6, "terminated"), (8, "truncated")]
    record(replay, episodes)
    rows = np.array([0, 2, 5, 9])  # rows 0 to 6 are the first episode, 7 to 15 the second
    replay.store(np.zeros(4, int), rows, found([0, 2, 5, 9]), updates=7)
    batch, _ = replay.sample(np.random.default_rng(0), 100)
    first = np.where(batch.observation[0, :, 0] == 0, 0, 7) + batch.observation[0, :, 1].astype(int)
    last = np.where(batch.observation[0, :, 0] == 0, 6, 15)
    states = np.minimum(first + np.arange(3)[:, None], last)
    np.testing.assert_array_equal(batch.searched, np.isin(states, rows))
    there = batch.searched
    np.testing.assert_array_equal(batch.searches.value[there], states[there])
    np.testing.assert_array_equal(batch.searches.q_spread[there], 2 * states[there])
    np.testing.assert_allclose(
        batch.searches.actions[there][:, 1, 0], states[there] / 100, atol=1e-4
    )


def test_the_oldest_searches_are_renewed_and_padding_never() -> None:
    replay = searching()
    record(replay, [(4, "terminated")])
    for row, updates in [(0, 5), (1, 3), (3, 4)]:
        replay.store(np.zeros(1, int), np.array([row]), found([row]), updates)
    batch, where = replay.sample(np.random.default_rng(0), 20, reanalyse=6)
    start = batch.observation[0, :, 1].astype(int)
    states = np.minimum(start + np.arange(3)[:, None], 4).ravel()
    chosen = states[batch.reanalyse]
    np.testing.assert_array_equal(chosen, where.reanalysed[1])
    # Row 2 has no search, row 1 the oldest; row 4 is the terminal state, where nothing is decided.
    order = [2, 1, 3, 0]
    wanted = [row for row in order for _ in range((states == row).sum())][:6]
    assert sorted(chosen) == sorted(wanted)
    everything, _ = replay.sample(np.random.default_rng(0), 20, reanalyse=60)
    np.testing.assert_array_equal(everything.reanalyse, np.arange(60))


def test_the_first_searches_are_made_for_every_task() -> None:
    replay = searching(num_tasks=3)
    for task in range(3):
        record(replay, [(20, "running")], task)
    batch, where = replay.sample(np.random.default_rng(0), 60, reanalyse=90)
    assert not batch.searched.any()
    # 30 of each are expected, with a standard deviation of 3.7.
    assert np.bincount(where.reanalysed[0], minlength=3).min() > 15


def test_a_new_state_in_a_row_has_no_search_and_takes_none_that_was_meant_for_the_old() -> None:
    replay = searching(capacity=12)
    record(replay, [(6, "truncated")])
    replay.store(np.zeros(2, int), np.array([1, 5]), found([1, 5]), updates=0)
    record(replay, [(6, "truncated")], first=1)  # rows 7 to 13: 12 and 13 lie where 0 and 1 were
    replay.store(np.zeros(2, int), np.array([1, 6]), found([8, 6]), updates=1)
    np.testing.assert_array_equal(np.flatnonzero(replay.search_updates[0] >= 0), [5, 6])


@given(
    masses=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=300),
    changes=st.lists(st.tuples(st.integers(0, 299), st.floats(0.0, 10.0)), max_size=20),
)
def test_a_sum_tree_is_its_masses(masses: list[float], changes: list[tuple[int, float]]) -> None:
    """Its total is theirs, its draws fall on rows with a mass, and how it came about does not matter."""
    now = np.array([masses, masses[::-1]])
    tree = SumTree(now)
    for row, mass in changes:
        row %= len(masses)
        now[1, row] = mass
        tree.set(np.array([1]), np.array([row]), np.array([mass]))
    np.testing.assert_allclose(tree.totals, now.sum(1), rtol=1e-12)
    np.testing.assert_array_equal(tree.totals, SumTree(now).totals)
    for task in (0, 1):
        if now[task].sum() > 0:
            rows = tree.draw(np.random.default_rng(0), np.full(50, task))
            assert (now[task, rows] > 0).all()


def test_a_sum_tree_draws_in_proportion() -> None:
    rng = np.random.default_rng(1)
    mass = rng.random((3, 2_000)) * (rng.random((3, 2_000)) < 0.5)
    rows = SumTree(mass).draw(rng, np.full(200_000, 1))
    groups = np.bincount(rows // 100, minlength=20) / 200_000
    np.testing.assert_allclose(groups, mass[1].reshape(20, 100).sum(1) / mass[1].sum(), atol=3e-3)
