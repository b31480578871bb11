"""Effect of more simulations with a true model: returns of a planner on a double integrator.

``python -m benchmarks.simulations`` controls a point (position and velocity, with quadratic cost). At every step it
searches among sampled actions, with the true dynamics and rewards. The samples come from an ``ignorant`` policy, N(0,
1), or an ``informed`` policy. The informed policy has half of the optimal controller's action as its mean, and a
standard deviation of 0.5. The value of the leaves is the ``optimal`` value or the value of staying ``idle``. Rows show
the cost beyond the optimal controller's cost, all from the same starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.table import Table

from benchmarks.command import Flag, command, show
from ezm.agent.planning import LatentModel, gumbel_search, root_candidates, sampled
from ezm.agent.world_model import Gaussian
from ezm.config import PlannerConfig

DISCOUNT = 0.97
A, B = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
COST, EFFORT = np.diag([1.0, 0.1]), np.array([[0.05]])


class Quadratic(NamedTuple):
    """A linear controller, action = -gain state, and its value, -state' P state."""

    gain: np.ndarray
    p: np.ndarray

    def value(self, state: Array) -> Array:
        return -jnp.einsum("...i,ij,...j", state, self.p, state)


def optimal() -> Quadratic:
    """Returns the optimal controller, from the discounted Riccati equation."""
    p = COST
    for _ in range(2000):
        gain = np.linalg.solve(EFFORT + DISCOUNT * B.T @ p @ B, DISCOUNT * B.T @ p @ A)
        p = COST + DISCOUNT * A.T @ p @ (A - B @ gain)
    return Quadratic(gain, p)


def idle() -> Quadratic:
    """Returns the controller that never acts."""
    p = COST
    for _ in range(2000):
        p = COST + DISCOUNT * A.T @ p @ A
    return Quadratic(np.zeros((1, 2)), p)


VALUES = {"optimal": optimal, "idle": idle}
CASES = [
    ("informed", "optimal"),
    ("informed", "idle"),
    ("ignorant", "optimal"),
    ("ignorant", "idle"),
]
"""Pairs of policy and value."""


def step(state: Array, action: Array) -> tuple[Array, Array, Array]:
    """Returns the next state, the reward and the discount. It works on numpy and JAX arrays."""
    reward = -jnp.einsum("...i,ij,...j", state, COST, state)
    reward -= jnp.einsum("...i,ij,...j", action, EFFORT, action)
    return state @ A.T + action @ B.T, reward, jnp.full(reward.shape, DISCOUNT)


@dataclass(frozen=True)
class Options:
    """Compare numbers of simulations."""

    simulations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    actions: int = 16
    """Actions sampled at the root."""
    starts: int = 200
    steps: int = 60
    """Steps of each episode."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


def regrets(policy: str, value: Quadratic, simulations: int, options: Options) -> np.ndarray:
    """Returns the optimal controller's discounted return minus the planner's, for each start, (starts,)."""
    config = PlannerConfig(
        root_actions=options.actions,
        policy_actions=options.actions,
        simulations=simulations,
        include_mean=policy == "informed",
    )
    best = optimal()

    def behaviour(state: Array) -> Gaussian:
        mean = -0.5 * state @ best.gain.T if policy == "informed" else 0.0 * state[..., :1]
        one = jnp.ones_like(mean)
        return Gaussian(mean, jnp.log(0.5) * one if policy == "informed" else 0.0 * one, one)

    def predict(state: Array) -> Any:
        return value.value(state), lambda key: sampled(
            key, behaviour(state), 2, include_mean=config.include_mean
        )

    def planned(key: Array, state: Array) -> Array:
        k_root, k_search = jax.random.split(key)
        root = root_candidates(k_root, behaviour(state), config)
        model = LatentModel(step, predict)
        return gumbel_search(k_search, model, state, root, value.value(state), config).action

    @jax.jit
    def episodes(state: Array) -> Array:
        def one(carry: Any, key: Array) -> tuple[Any, None]:
            theirs, ours, cost, factor = carry
            theirs, reward, _ = step(theirs, -theirs @ best.gain.T)
            ours, own, _ = step(ours, planned(key, ours))
            return (theirs, ours, cost + factor * (reward - own), factor * DISCOUNT), None

        start = (state, state, jnp.zeros(len(state)), 1.0)
        keys = jax.random.split(jax.random.key(0), options.steps)
        (theirs, ours, cost, factor), _ = jax.lax.scan(one, start, keys)
        return cost + factor * (best.value(theirs) - best.value(ours))

    state = np.random.default_rng(0).uniform(-1, 1, (options.starts, 2)).astype(np.float32)
    return np.asarray(episodes(jnp.asarray(state)))


def measure(options: Options) -> list[dict[str, Any]]:
    """Returns a row for each policy, value and number of simulations: mean regret and its standard error."""
    rows = []
    for policy, value in CASES:
        for simulations in options.simulations:
            each = regrets(policy, VALUES[value](), simulations, options)
            error = each.std(ddof=1) / np.sqrt(len(each))
            rows.append(
                {
                    "policy": policy,
                    "value": value,
                    "simulations": simulations,
                    "regret": round(float(each.mean()), 4),
                    "standard_error": round(float(error), 4),
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Makes a table with a row for each number of simulations and a column for each case."""
    shown = Table(title="cost beyond the optimal controller's", title_justify="left")
    for head in ("simulations", *(f"{policy}, {value}" for policy, value in CASES)):
        shown.add_column(head, justify="right")
    for simulations in dict.fromkeys(row["simulations"] for row in rows):
        cells = [
            f"{row['regret']:.3f} ± {row['standard_error']:.3f}"
            for row in rows
            if row["simulations"] == simulations
        ]
        shown.add_row(str(simulations), *cells)
    return shown


def main(options: Options) -> None:
    """Prints the table that ``options`` describe."""
    show(measure(options), table, as_json=options.json)


if __name__ == "__main__":
    command(main, Options, __doc__)
