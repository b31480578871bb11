"""Suites: names, padding, masks."""

import numpy as np

from ezm.tasks import load_suite


def test_cartpole_suite_has_the_four_tasks_with_planet_repeats() -> None:
    suite = load_suite("cartpole")
    assert suite.task_names == (
        "cartpole-balance",
        "cartpole-swingup",
        "cartpole-balance_sparse",
        "cartpole-swingup_sparse",
    )
    assert (suite.observation_size, suite.action_size) == (5, 1)
    assert {task.action_repeat for task in suite.tasks} == {8}
    assert {task.episode_steps for task in suite.tasks} == {125}
    assert {task.reward_range for task in suite.tasks} == {(0.0, 8.0)}
    assert np.array_equal(suite.action_mask, np.ones((4, 1), np.float32))
