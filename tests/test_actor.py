"""Acting: whose policy acts in an episode."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.keep import keep_agent
from ezm.acting.actor import behaviour_task
from ezm.acting.load import load_agent
from ezm.config import MveConfig, PlannerConfig
from ezm.config.presets import PRESETS
from ezm.runs.folder import RunFolder
from ezm.training import session

BODIES = (0, 0, 2, 0)


@given(seed=st.integers(0, 1000), task=st.integers(0, 3), share=st.floats(0.0, 1.0))
def test_only_policies_of_the_same_body_act(seed: int, task: int, share: float) -> None:
    chosen = behaviour_task(np.random.default_rng(seed), task, BODIES, share)
    assert BODIES[chosen] == BODIES[task]


def test_share_and_evenness() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(behaviour_task(rng, 0, BODIES, 0.3) for _ in range(4_000))
    assert counts.keys() == {0, 1, 3}
    np.testing.assert_allclose(
        [counts[0] / 4_000, counts[1] / 4_000, counts[3] / 4_000], [0.7, 0.15, 0.15], atol=0.03
    )


def test_without_a_share_or_without_a_peer_a_task_acts_for_itself() -> None:
    rng = np.random.default_rng(0)
    assert {behaviour_task(rng, 1, BODIES, 0.0) for _ in range(100)} == {1}
    assert {behaviour_task(rng, 2, BODIES, 1.0) for _ in range(100)} == {2}
    assert 1 not in {behaviour_task(rng, 1, BODIES, 1.0) for _ in range(100)}


def test_evaluations_sample_close_to_the_policys_mean_only_if_asked_to() -> None:
    wide = PlannerConfig(spread=3.0, policy_actions=4)
    assert wide.evaluating() == wide
    narrow = replace(wide, evaluation_spread=0.25).evaluating()
    assert (narrow.spread, narrow.policy_actions, narrow.root_actions) == (0.25, 1, 16)


# -- training's actions ------------------------------------------------------------------


class Kept(NamedTuple):
    """What a short training acted and stored."""

    actions: np.ndarray
    searched: np.ndarray


def trained(tmp_path: Path, **changes: Any) -> Kept:
    """The last forty steps of cartpole-swingup, all of them behind the random ones."""
    cpu = PRESETS["cpu"]
    config = replace(
        cpu,
        suite="dmc:cartpole-swingup",
        steps=60,
        random_steps=20,
        updates_per_step=0.1,
        evaluation_episodes=1,
        final_episodes=1,
        model=replace(cpu.model, latent_size=8),
        planner=replace(
            cpu.planner, simulations=2, root_actions=2, policy_actions=1, leaf_rollout=0
        ),
        loss=replace(cpu.loss, reanalyze_ratio=0.0, mve=MveConfig()),
        optimizer=replace(cpu.optimizer, batch_size=4),
        **changes,
    )
    session.train(config, tmp_path / "run")
    checkpoint = RunFolder.open(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    replay = checkpoint.arrays["replay"]
    return Kept(replay["action"]["0"][20:60, 0], replay["search_updates"]["0"][20:60] >= 0)


@pytest.fixture(scope="module")
def without_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kept]:
    """A folder with a run that acts without a search, and what the run kept."""
    folder = tmp_path_factory.mktemp("policy")
    return folder, trained(folder, acting="policy")


def test_acting_without_search_stores_none(without_search: tuple[Path, Kept]) -> None:
    _, kept = without_search
    assert not kept.searched.any()
    assert len(np.unique(kept.actions)) == 40  # samples, not the mean


def test_noise_changes_actions_and_leaves_the_searches(tmp_path: Path) -> None:
    quiet, noisy = trained(tmp_path / "a"), trained(tmp_path / "b", noise=0.5)
    assert quiet.searched.all() and noisy.searched.all()
    assert np.abs(noisy.actions).max() <= np.float32(0.99)
    assert not np.array_equal(quiet.actions[:5], noisy.actions[:5])


def test_an_agent_is_kept_without_what_only_training_needs(
    without_search: tuple[Path, Kept], tmp_path: Path
) -> None:
    folder, _ = without_search
    run = RunFolder.open(folder / "run")
    keep_agent(run, tmp_path / "agent")
    kept, step = load_agent(RunFolder.open(tmp_path / "agent"))
    agent, _ = load_agent(run)
    assert step == 60
    for ours, theirs in zip(
        jax.tree.leaves(kept.state.model), jax.tree.leaves(agent.state.model), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for name, value in agent.statistics.state().items():
        np.testing.assert_array_equal(kept.statistics.state()[name], value)
    saved = RunFolder.open(tmp_path / "agent").latest_checkpoint()
    assert saved is not None and set(saved.arrays) == {"agent"}
    for file in (tmp_path / "agent").rglob("*"):
        assert file.is_dir() or str(folder).encode() not in file.read_bytes(), file
