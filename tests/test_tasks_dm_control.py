"""dm_control: the same as its own ``Environment.step``, and exact snapshots."""

from typing import Any

import numpy as np
import pytest

from ezm.tasks import load_suite
from ezm.tasks.sources.dm_control import DmControlSimulator, task_names

NAMED = [
    "cartpole-balance",
    "cartpole-balance_sparse",
    "cartpole-swingup",
    "cartpole-swingup_sparse",
    "walker-stand",
    "walker-walk",
    "walker-run",
    "reacher-easy",
    "reacher-hard",
    "hopper-stand",
    "hopper-hop",
    "finger-spin",
]
# Fourth-order integration; actuators with a state and other bounds; a model made for the task; a
# target in the model.
OTHERS = ["acrobot-swingup", "quadruped-run", "swimmer-swimmer6", "finger-turn_easy"]
RESTORED = ["cartpole-swingup", "walker-run", "reacher-easy", "hopper-hop", *OTHERS]


def environment(name: str, seed: int) -> Any:
    from dm_control import suite

    domain, _, task = name.partition("-")
    return suite.load(domain, task, task_kwargs={"random": np.random.RandomState(seed)})


def flat(step: Any) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in step.observation.values()])


def actions(size: int, count: int) -> np.ndarray:
    """Stretches of full, of no and of random action, to meet every part of the rewards."""
    random = np.random.default_rng(3)
    values = random.uniform(-1, 1, (count, size))
    values[: count // 4] = random.choice([-1.0, 1.0], size)
    values[count // 4 : count // 2] = 0
    return values


@pytest.mark.parametrize("name", NAMED + OTHERS)
def test_an_action_repeat_equals_environment_steps(name: str) -> None:
    simulator, reference = DmControlSimulator(name, seed=5), environment(name, seed=5)
    for episode in range(2):
        assert np.array_equal(simulator.reset(), flat(reference.reset()))
        for action in actions(simulator.action_size, 40 if name in NAMED else 12):
            repeat = 4 - episode
            bounds = reference.action_spec()
            low, high = bounds.minimum, bounds.maximum
            own_action = action * (high - low) / 2 + (high + low) / 2
            expected = [reference.step(own_action) for _ in range(repeat)]
            step = simulator.step(action, repeat)
            assert np.array_equal(step.observation, flat(expected[-1]))
            assert step.reward == pytest.approx(sum(e.reward for e in expected), abs=1e-12)
            assert not (step.terminated or step.truncated)


@pytest.mark.parametrize("name", ["cartpole-balance", "cartpole-balance_sparse", "walker-stand"])
def test_rewards_are_right_where_they_are_high(name: str) -> None:
    simulator, reference = DmControlSimulator(name, seed=0), environment(name, seed=0)
    simulator.reset()
    reference.reset()
    if name == "walker-stand":
        for physics in (simulator.environment.physics, reference.physics):
            with physics.reset_context():
                physics.data.qpos[:] = 0
    rewards = []
    for _ in range(30):
        action = np.full(simulator.action_size, 0.05)
        rewards.append(simulator.step(action, 1).reward)
        assert rewards[-1] == pytest.approx(reference.step(action).reward, abs=1e-12)
    assert max(rewards) > 0.9


def test_a_full_episode_truncates_and_the_next_one_differs() -> None:
    suite = load_suite("cartpole-swingup")
    task = suite.make(0, seed=0)
    first = task.reset()
    steps = [task.step(np.zeros(1)) for _ in range(125)]
    assert [step.truncated for step in steps] == [False] * 124 + [True]
    assert not any(step.terminated for step in steps)
    assert not np.array_equal(task.reset(), first)


def test_a_seed_fixes_all_episodes() -> None:
    suite = load_suite("reacher-easy")

    def starts(seed: int) -> np.ndarray:
        task = suite.make(0, seed)
        return np.stack([task.reset() for _ in range(3)])

    assert np.array_equal(starts(1), starts(1))
    assert not np.array_equal(starts(1), starts(2))


@pytest.mark.parametrize("name", RESTORED)
def test_a_restored_snapshot_has_the_same_future(name: str) -> None:
    """Across episode ends too: targets in the model and the randomness come back."""
    suite = load_suite(name, episode_steps=6)
    task = suite.make(0, seed=2)
    assert task.can_restore
    task.reset()
    own_actions = actions(suite.action_size, 16)

    def future() -> list[Any]:
        outcome: list[Any] = []
        for action in own_actions:
            step = task.step(action)
            outcome += [step.observation.tolist(), *step[1:]]
            if step.truncated:
                outcome.append(task.reset().tolist())
        return outcome

    for action in own_actions[:3]:
        task.step(action)
    snapshot = task.snapshot()
    expected = future()
    for _ in range(2):
        task.restore(snapshot)
        assert future() == expected


def test_a_snapshot_leaves_its_environment_alone() -> None:
    suite = load_suite("walker-walk")
    watched, free = suite.make(0, seed=0), suite.make(0, seed=0)
    watched.reset(), free.reset()
    for action in actions(6, 8):
        watched.snapshot()
        assert np.array_equal(watched.step(action).observation, free.step(action).observation)


def test_rewards_stay_within_their_range() -> None:
    suite = load_suite("cartpole-swingup,walker-walk")
    for number, spec in enumerate(suite.tasks):
        assert spec.reward_range == (0.0, float(spec.action_repeat))
        task = suite.make(number, seed=0)
        task.reset()
        for action in actions(suite.action_size, 20):
            assert 0 <= task.step(action).reward <= spec.action_repeat


def test_diverging_physics_is_an_error_of_the_task() -> None:
    from ezm.errors import UserError

    task = load_suite("cartpole-swingup").make(0, seed=0)
    task.reset()
    task.simulator.environment.physics.data.qvel[:] = 1e20  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"task cartpole-swingup, step 1 .* the physics diverged"):
        task.step(np.zeros(1))


def test_all_usable_tasks_are_listed() -> None:
    names = task_names()
    assert set(NAMED + OTHERS) <= set(names)
    assert not any(name.startswith("lqr") for name in names)
