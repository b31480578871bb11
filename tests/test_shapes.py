"""Rung 0: while the tests run, a wrong shape or type is an error, in each package of the method."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from ezm.agent.learning.targets import best_alone
from ezm.agent.planning.search import complete_q
from ezm.agent.world_model import h, moments
from ezm.experience.sum_tree import SumTree

ACTIONS, WEIGHTS, VISITS = jnp.zeros((2, 3, 1)), jnp.ones((2, 4)), jnp.ones((2, 4), jnp.int32)


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("agent.world_model", lambda: moments(ACTIONS, WEIGHTS)),
        ("agent.world_model", lambda: h(VISITS)),
        ("agent.planning", lambda: complete_q(WEIGHTS, VISITS, jnp.ones(1), WEIGHTS)),
        ("agent.learning", lambda: best_alone(ACTIONS, WEIGHTS)),
        ("experience", lambda: SumTree([[1.0]])),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_raise(package: str, call: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError, match=f"ezm.{package}"):
        call()
