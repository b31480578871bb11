"""Acting: whose policy acts in an episode."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ezm.config import PlannerConfig
from ezm.training.actor import policy_for_episode

BODIES = (0, 0, 2, 0)


@given(seed=st.integers(0, 1000), task=st.integers(0, 3), share=st.floats(0.0, 1.0))
def test_only_policies_of_the_same_body_act(seed: int, task: int, share: float) -> None:
    chosen = policy_for_episode(np.random.default_rng(seed), task, BODIES, share)
    assert BODIES[chosen] == BODIES[task]


def test_share_and_evenness() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(policy_for_episode(rng, 0, BODIES, 0.3) for _ in range(4_000))
    assert counts.keys() == {0, 1, 3}
    np.testing.assert_allclose(
        [counts[0] / 4_000, counts[1] / 4_000, counts[3] / 4_000], [0.7, 0.15, 0.15], atol=0.03
    )


def test_without_a_share_or_without_a_peer_a_task_acts_for_itself() -> None:
    rng = np.random.default_rng(0)
    assert {policy_for_episode(rng, 1, BODIES, 0.0) for _ in range(100)} == {1}
    assert {policy_for_episode(rng, 2, BODIES, 1.0) for _ in range(100)} == {2}
    assert 1 not in {policy_for_episode(rng, 1, BODIES, 1.0) for _ in range(100)}


def test_evaluations_sample_close_to_the_policys_mean_only_if_asked_to() -> None:
    wide = PlannerConfig(spread=3.0, policy_actions=4)
    assert wide.evaluating() == wide
    narrow = replace(wide, evaluation_spread=0.25).evaluating()
    assert (narrow.spread, narrow.policy_actions, narrow.root_actions) == (0.25, 1, 16)
