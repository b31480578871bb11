"""HumanoidBench as Gymnasium environments: one, many, copies, workers, pictures."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import NormalizeObservation

from ezm.errors import UserError


# Positions and velocities have no bounds.
@pytest.mark.filterwarnings("ignore:.*Box observation space m")
@pytest.mark.parametrize("name", ["h1-walk", "h1hand-reach", "h1hand-balance_hard"])
def test_gymnasium_checker(name: str) -> None:
    environment = gymnasium.make(f"ezm/{name}-v0")
    check_env(environment.unwrapped, skip_render_check=True)


def test_gymnasium_episode() -> None:
    environment = gymnasium.make("ezm/h1-crawl-v0")
    observation, _ = environment.reset(seed=1)
    assert observation.shape == (51,)
    for number in range(1000):
        observation, reward, terminated, truncated, info = environment.step(
            np.zeros(19, np.float32)
        )
        assert not terminated and truncated is (number == 999)
    assert set(info) >= {"crawling", "crawling_head", "small_control", "move", "in_tunnel"}
    assert isinstance(reward, float)


def test_gymnasium_vector() -> None:
    """As many single environments; an end brings the next episode's first observation at once."""
    environments: Any = gymnasium.make_vec(
        "ezm/h1-run-v0", num_envs=3, max_episode_steps=45, threads=2
    )
    singles = [gymnasium.make("ezm/h1-run-v0", max_episode_steps=45) for _ in range(3)]
    first, _ = environments.reset(seed=7)
    np.testing.assert_array_equal(
        first, [single.reset(seed=7 + index)[0] for index, single in enumerate(singles)]
    )
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        action = rng.uniform(-1, 1, (3, 19)).astype(np.float32)
        observation, reward, terminated, truncated, info = environments.step(action)
        for index, single in enumerate(singles):
            one, one_reward, one_terminated, one_truncated, one_info = single.step(action[index])
            assert (reward[index], terminated[index]) == (one_reward, one_terminated)
            assert truncated[index] == (one_truncated and not one_terminated)
            over = one_terminated or one_truncated
            terms = info["final_info"] if over else info
            assert terms["move"][index] == one_info["move"] and terms["_move"][index]
            if over:
                ended += 1
                np.testing.assert_array_equal(info["final_obs"][index], one)
                one, _ = single.reset()
            np.testing.assert_array_equal(observation[index], one)
    assert ended >= 3
    environments.close()


def test_render() -> None:
    environment: Any = gymnasium.make(
        "ezm/h1-stand-v0", render_mode="rgb_array", width=160, height=120
    )
    environment.reset(seed=0)
    try:
        picture = environment.render()
    except UserError as error:
        assert "apt install" in str(error)
        pytest.skip(str(error))
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
    assert picture.std() > 20  # a dark robot on a light floor
    environment.close()
    environment.close()


def test_render_without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"no {name}")

    environment = gymnasium.make("ezm/h1-stand-v0", render_mode="rgb_array")
    environment.reset(seed=0)
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=r"egl: no mujoco\.egl; osmesa: .*apt install libegl1"):
        environment.render()


# -- copies, workers, seeds --------------------------------------------------------------------

COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("name", ["h1-stand", "h1-maze", "h1hand-reach"])
def test_a_copy_goes_on_as_its_original(name: str, copied: Callable[[Any], Any]) -> None:
    original = gymnasium.make(f"ezm/{name}-v0", protocol="paper")
    original.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, *original.action_space.shape))
    for action in actions:
        original.step(action)
    other = copied(original)
    starts = []
    for environment in (original, other):
        path = [environment.step(action)[:3] for action in actions]
        starts.append([*path, (environment.reset()[0], 0.0, False)])
    for one, two in zip(*starts, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]
    assert not np.array_equal(starts[1][0][0], starts[1][1][0])


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_many_goes_on_as_its_original(copied: Callable[[Any], Any]) -> None:
    original: Any = gymnasium.make_vec("ezm/h1-run-v0", num_envs=3, threads=2, max_episode_steps=8)
    original.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 3, 19))
    original.step(actions[0])
    other = copied(original)
    for action in actions:
        one, two = original.step(action), other.step(action)
        for first, second in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(one[4]["move"], two[4]["move"])
    original.close()
    other.close()


def test_a_spawned_worker_imports_ezm_by_the_name(tmp_path: Path) -> None:
    (tmp_path / "workers.py").write_text("""
import gymnasium


def make():
    return gymnasium.make("ezm:ezm/h1-walk-v0")


if __name__ == "__main__":
    many = gymnasium.vector.AsyncVectorEnv([make, make], context="spawn")
    print(many.reset(seed=0)[0].shape)
    many.close()
""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "workers.py"],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stdout == "(2, 51)\n", done.stderr


def test_an_episode_may_begin_with_the_next_step() -> None:
    """As Gymnasium's own vector of single environments in that mode."""
    options: dict[str, Any] = {"max_episode_steps": 5}
    many: Any = gymnasium.make_vec(
        "ezm/h1-run-v0", num_envs=2, autoreset_mode="NextStep", **options
    )
    singles = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("ezm/h1-run-v0", **options)] * 2
    )
    np.testing.assert_array_equal(many.reset(seed=7)[0], singles.reset(seed=7)[0])
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(14):
        action = rng.uniform(-1, 1, (2, 19)).astype(np.float32)
        found, expected = many.step(action), singles.step(action)
        for one, two in zip(found[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(one, two)
        moved = found[4]["_move"]
        if moved.any():
            np.testing.assert_array_equal(found[4]["move"][moved], expected[4]["move"][moved])
        ends += int(found[3].sum())
    assert ends == 4
    normalised = NormalizeObservation(many)
    normalised.reset(seed=1)
    normalised.step(np.zeros((2, 19)))
    many.close()


@pytest.mark.parametrize("mode", ["Disabled", "nextstep", None])
def test_another_mode_is_refused(mode: Any) -> None:
    with pytest.raises(
        UserError, match=f"autoreset_mode={mode!r}: choose 'SameStep' or 'NextStep'"
    ):
        gymnasium.make_vec("ezm/h1-run-v0", num_envs=2, autoreset_mode=mode)


def test_seeds_may_be_any_kind_of_whole_number() -> None:
    one = gymnasium.make("ezm/h1-stand-v0").unwrapped
    expected = one.reset(seed=3)[0]
    np.testing.assert_array_equal(one.reset(seed=np.int64(3))[0], expected)
    many: Any = gymnasium.make_vec("ezm/h1-stand-v0", num_envs=2)
    both = many.reset(seed=3)[0]
    np.testing.assert_array_equal(both[0], expected)
    for seed in (np.int64(3), np.array([3, 4]), [np.int32(3), 4]):
        np.testing.assert_array_equal(many.reset(seed=seed)[0], both)
    np.testing.assert_array_equal(many.reset(seed=[3, None])[0][0], expected)


# -- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -3, 1.5, None])
def test_a_size_that_no_picture_has(size: Any) -> None:
    with pytest.raises(UserError, match=f"width={size!r}: pictures need a whole number of at leas"):
        gymnasium.make("ezm/h1-stand-v0", render_mode="rgb_array", width=size)


def drawing(**options: Any) -> Any:
    environment = gymnasium.make("ezm/h1-stand-v0", render_mode="rgb_array", **options).unwrapped
    environment.reset(seed=0)
    return environment


def test_a_picture_that_is_too_large_leaves_the_others_alone() -> None:
    small = drawing(width=64, height=48)
    try:
        small.render()
    except UserError as error:
        pytest.skip(str(error))
    with pytest.raises(UserError, match="pictures of 100000 x 48 pixels cannot be drawn"):
        drawing(width=100_000, height=48).render()
    assert drawing(width=64, height=48).render().shape == (48, 64, 3)


def test_any_thread_may_draw_and_close() -> None:
    environment = drawing(width=64, height=48)
    try:
        picture = environment.render()
    except UserError as error:
        pytest.skip(str(error))
    seen: list[Any] = []

    def work() -> None:
        seen.append(environment.render())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        seen.append(environment.render())
    thread = threading.Thread(target=lambda: seen.append(environment.close()))
    thread.start()
    thread.join()
    assert len(seen) == 5 and seen[-1] is None
    for other in seen[:-1]:
        np.testing.assert_array_equal(other, picture)
