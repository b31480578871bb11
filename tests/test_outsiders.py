"""Model-free agents as benchmarks: what they see and do, and that their runs repeat."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.outsiders import SETTINGS, Settings, TaskEnvironment, from_neutral, train
from ezm.tasks import load_suite


def test_an_action_of_0_is_the_neutral_one_and_the_bounds_stay() -> None:
    neutral = np.array([0.5, -0.25, 0.0])
    for action, expected in ((0.0, neutral), (1.0, 1.0), (-1.0, -1.0)):
        np.testing.assert_allclose(from_neutral(np.full(3, action), neutral), expected)
    np.testing.assert_allclose(from_neutral(np.full(3, 0.5), neutral), [0.75, 0.375, 0.5])


class TestOutsiders:
    """One agent and its environments, as sbx sees them."""

    @pytest.fixture(autouse=True)
    def _needs_sbx(self) -> None:
        pytest.importorskip("sbx")

    def test_the_task_is_a_one_hot_behind_the_padded_observation(self) -> None:
        suite = load_suite("dmc:cartpole-balance,reacher-easy")
        environment = TaskEnvironment(suite, 0, seed=0)
        observation, _ = environment.reset()
        assert observation.shape == environment.observation_space.shape == (6 + 2,)
        assert observation[5] == 0  # cartpole's five, padded to reacher's six
        assert observation[6:].tolist() == [1, 0]
        assert environment.action_space.shape == (2,)
        alone = TaskEnvironment(suite.only("cartpole-balance"), 0, seed=0)
        np.testing.assert_array_equal(alone.reset()[0], observation[:5])

    def test_the_time_limit_truncates(self) -> None:
        suite = load_suite("dmc:cartpole-balance", episode_steps=2)
        environment = TaskEnvironment(suite, 0, seed=0)
        environment.reset()
        action = np.zeros(1, np.float32)
        assert environment.step(action)[2:4] == (False, False)
        assert environment.step(action)[2:4] == (False, True)

    @pytest.mark.parametrize("name", ["tqc", "crossq", "sac-simba", "tqc-simba", "crossq-simba"])
    def test_each_algorithm_trains_with_each_kind_of_networks(self, name: str) -> None:
        suite = load_suite("dmc:cartpole-balance", episode_steps=10)
        small = replace(SETTINGS[name], actor=(8,), critic=(8,), batch_size=8, learning_starts=5)
        (evaluation,) = train(suite, 0, steps=10, every=10, episodes=1, settings=small)
        assert np.isfinite(evaluation.returns).all()

    def test_evaluations_come_at_the_steps_asked_for_and_repeat_exactly(self) -> None:
        suite = load_suite("dmc:cartpole-balance,cartpole-swingup", episode_steps=10)
        settings = Settings(actor=(8,), critic=(8,), batch_size=8, learning_starts=5)

        def evaluations() -> list:
            return list(train(suite, 0, steps=20, every=10, episodes=3, settings=settings))

        first, second = evaluations(), evaluations()
        assert [evaluation.steps for evaluation in first] == [10, 20]
        assert all(len(returns) == 3 for each in first for returns in each.returns)
        assert [each.returns for each in first] == [each.returns for each in second]
        assert first[0].returns != first[1].returns
