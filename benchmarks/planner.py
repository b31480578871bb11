"""How long one plan takes: our search, mctx, and the network calls that either cannot do without.

``python -m benchmarks.planner`` times four programs in turn, call by call, so that all of them meet
the same machine: our search and mctx on the same roots; the *sequential floor*, one model call for
each simulation, one after the other; and the *grouped floor*, one call for each round of Sequential
Halving. The floors hold no search at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from benchmarks.command import Flag, command
from ezm.config import PRESETS, ModelConfig, PlannerConfig
from ezm.errors import UserError
from ezm.planning import plan, rounds
from ezm.world_model import Context, Support, WorldModel

MODELS: dict[str, ModelConfig] = {
    "0.5M": replace(PRESETS["cpu"].model, latent_size=152),
    "16M": PRESETS["paper"].model,
}
"""By the parameters that they come to, about; sizes of the Medium suite: 9 tasks, 51 observations, 19 actions."""
TASKS, OBSERVATION, ACTION = 9, 51, 19
DISCOUNT = 0.99


class Row(TypedDict):
    """Medians, and the 99th percentile of ours, in milliseconds a plan."""

    parameters: int
    actions: int
    simulations: int
    batch: int
    ours_ms: float
    mctx_ms: float
    sequential_floor_ms: float
    grouped_floor_ms: float
    ours_p99_ms: float


@dataclass(frozen=True)
class Options:
    """Time the planner."""

    models: tuple[str, ...] = tuple(MODELS)
    """Of 0.5M, 16M."""
    batches: tuple[int, ...] = (1, 9, 64, 768)
    searches: tuple[str, ...] = ("16x32",)
    """Root actions x simulations."""
    calls: int = 200
    """Of each program, at most."""
    seconds: float = 20.0
    """For all calls of one row, about; never fewer than five of each program."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


class Case(NamedTuple):
    """What one row measures."""

    model: WorldModel
    actions: int
    simulations: int
    batch: int


def build(config: ModelConfig) -> WorldModel:
    """An untrained model: how long it takes does not depend on what it learned."""
    value, reward = (
        Support(*(bounds or (-299.0, 299.0)), config.bins, config.scalar_transform)
        for bounds in (config.value_range, config.reward_range)
    )
    return WorldModel(
        config,
        num_tasks=TASKS,
        observation_size=OBSERVATION,
        action_size=ACTION,
        value_support=value,
        reward_support=reward,
        key=jax.random.key(0),
    )


def programs(case: Case) -> dict[str, Callable[[], Any]]:
    """The four programs by name, compiled; each call runs one to its end."""
    model, actions, simulations, batch = case
    config = PlannerConfig(
        root_actions=actions, policy_actions=max(1, actions // 4), simulations=simulations
    )
    task = jnp.arange(batch) % TASKS
    masks = jnp.ones((TASKS, ACTION))
    latent = jax.random.normal(jax.random.key(1), (batch, model.config.latent_size))
    key = jax.random.key(2)

    def search(config: PlannerConfig, model: WorldModel, latent: Array) -> Array:
        context = model.context(task, masks)
        discount = jnp.full(batch, DISCOUNT)
        return plan(key, model, latent, context, discount, config).search.action

    def floor(sizes: list[int], model: WorldModel, latent: Array) -> Array:
        """One prediction at the root, then calls of the given widths, each fed by the one before."""
        context = model.context(task, masks)
        values, policy = model.predict(latent, context)
        total, action = model.value(values[:2]), policy.mode()
        for i, width in enumerate(sizes):

            def repeat(x: Array, width: int = width) -> Array:
                return jnp.broadcast_to(x[:, None], (batch, width, x.shape[-1])).reshape(
                    batch * width, -1
                )

            nodes: Context = jax.tree.map(repeat, context)
            z, reward = model.step(repeat(latent), repeat(action), nodes)
            values, policy = model.predict(z, nodes)
            gain = model.reward(reward) + DISCOUNT * model.value(values[:2])
            total = total + gain.reshape(batch, width).mean(1)
            if i + 1 < len(sizes):  # the last call's policy is of no use to anyone
                latent = z.reshape(batch, width, -1).mean(1)
                action = policy.mode().reshape(batch, width, -1).mean(1)
        return total

    functions: dict[str, Callable[..., Array]] = {
        "ours": partial(search, config),
        "mctx": partial(search, replace(config, backend="mctx")),
        "sequential_floor": partial(floor, [1] * simulations),
        "grouped_floor": partial(floor, rounds(actions, simulations)),
    }
    compiled = {
        name: jax.jit(function).lower(model, latent).compile()
        for name, function in functions.items()
    }
    return {name: partial(_finish, program, model, latent) for name, program in compiled.items()}


def _finish(program: Any, *arguments: Any) -> None:
    jax.block_until_ready(program(*arguments))


def times(calls: dict[str, Callable[[], Any]], most: int, seconds: float) -> dict[str, np.ndarray]:
    """Milliseconds of every call of each program, the programs taking turns; the first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = float("inf")
    for turn in range(most + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - start))
        if turn == 0:
            end = time.perf_counter() + seconds
        elif turn >= 5 and time.perf_counter() > end:
            break
    return {name: np.array(values[1:]) for name, values in taken.items()}


def measure(options: Options) -> Iterator[Row]:
    """A row for each model, search and batch.

    Raises:
        UserError: an unknown model, a search that is not of the form 16x32, or a number below 1.
    """
    for name in options.models:
        if name not in MODELS:
            raise UserError(f"--models {name}: there are {', '.join(MODELS)}")
    searches = [_search(text) for text in options.searches]
    if min(options.batches, default=0) < 1 or options.calls < 5:
        raise UserError("--batches must be at least 1 and --calls at least 5")
    for name in options.models:
        model = build(MODELS[name])
        for actions, simulations in searches:
            for batch in options.batches:
                calls = programs(Case(model, actions, simulations, batch))
                taken = times(calls, options.calls, options.seconds)
                median = {each: round(float(np.median(ms)), 3) for each, ms in taken.items()}
                yield Row(
                    parameters=model.num_parameters(),
                    actions=actions,
                    simulations=simulations,
                    batch=batch,
                    ours_ms=median["ours"],
                    mctx_ms=median["mctx"],
                    sequential_floor_ms=median["sequential_floor"],
                    grouped_floor_ms=median["grouped_floor"],
                    ours_p99_ms=round(float(np.percentile(taken["ours"], 99)), 3),
                )


def _search(text: str) -> tuple[int, int]:
    actions, _, simulations = text.partition("x")
    if not (actions.isdigit() and simulations.isdigit() and int(actions) and int(simulations)):
        raise UserError(f"--searches {text}: write root actions x simulations, as 16x32")
    return int(actions), int(simulations)


def table(rows: list[Row]) -> Table:
    """The rows with their ratios."""
    shown = Table(
        title=f"milliseconds a plan, {jax.devices()[0].device_kind}", title_justify="left"
    )
    heads = ("parameters", "K x N", "batch", "ours", "p99", "mctx", "sequential", "grouped")
    for head in (*heads, "mctx / ours", "ours / grouped"):
        shown.add_column(head, justify="right")
    for row in rows:
        shown.add_row(
            f"{row['parameters'] / 1e6:.2f}M",
            f"{row['actions']} x {row['simulations']}",
            str(row["batch"]),
            *(f"{row[key]:.3g}" for key in ("ours_ms", "ours_p99_ms", "mctx_ms")),
            f"{row['sequential_floor_ms']:.3g}",
            f"{row['grouped_floor_ms']:.3g}",
            f"{row['mctx_ms'] / row['ours_ms']:.2f}",
            f"{row['ours_ms'] / row['grouped_floor_ms']:.2f}",
        )
    return shown


def main(options: Options) -> None:
    """Print the table that ``options`` describe."""
    rows = []
    for row in measure(options):
        rows.append(row)
        if options.json:
            print(json.dumps(row), flush=True)
    if not options.json:
        Console().print(table(rows))


if __name__ == "__main__":
    command(main, Options, __doc__)
