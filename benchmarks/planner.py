"""Duration of one plan: our search, mctx, and the network calls that each needs at least.

``python -m benchmarks.planner`` times four programs in turn, call by call, so that all of them meet
the same state of the machine:

- our search,
- mctx on the same roots,
- the *sequential floor*: one model call for each simulation, one after the other,
- the *grouped floor*: one model call for each round of Sequential Halving.

The floors contain no search at all.

With ``--precision bfloat16``, our search and the grouped floor have the weights inside the tree in that precision, as
``ezm.control.Planner`` offers. The sequential floor and mctx keep float32, because bfloat16 is slower with one row at a
time.
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
from benchmarks.mctx_search import mctx_plan
from ezm.agent.planning import Plan, plan, rounds
from ezm.agent.world_model import Context, Support, WorldModel
from ezm.agent.world_model.layers import Precision
from ezm.agent.world_model.precision import with_weights
from ezm.config import ModelConfig, PlannerConfig
from ezm.config.presets import PRESETS
from ezm.errors import UserError

MODELS: dict[str, ModelConfig] = {
    "0.5M": replace(PRESETS["cpu"].model, latent_size=152),
    "16M": PRESETS["paper"].model,
}
"""Models by their approximate number of parameters, for the Medium suite: 9 tasks, 51 observations, 19 actions."""
TASKS, OBSERVATION, ACTION = 9, 51, 19
DISCOUNT = 0.99


class Row(TypedDict):
    """Median milliseconds of a plan, and the 99th percentile of our search."""

    parameters: int
    actions: int
    simulations: int
    batch: int
    ours_ms: float
    mctx_ms: float
    sequential_floor_ms: float
    grouped_floor_ms: float
    ours_p99_ms: float
    precision: str
    """Precision of our search and of the grouped floor."""


@dataclass(frozen=True)
class Options:
    """Time the planner."""

    models: tuple[str, ...] = tuple(MODELS)
    """Models to time, of 0.5M and 16M."""
    batches: tuple[int, ...] = (1, 9, 64, 768)
    searches: tuple[str, ...] = ("16x32",)
    """Root actions x simulations."""
    precision: Precision = "float32"
    """Precision of the weights inside the tree, for our search and the grouped floor."""
    calls: int = 200
    """Calls of each program, at most."""
    seconds: float = 20.0
    """Approximate seconds for all calls of one row. At least five calls of each program are made."""
    json: Flag = False
    """Print rows, one JSON object a line, instead of a table."""


class Case(NamedTuple):
    """The settings of one row."""

    model: WorldModel
    actions: int
    simulations: int
    batch: int
    precision: Precision = "float32"


def build(config: ModelConfig) -> WorldModel:
    """Returns an untrained model, because training does not change the model's speed."""
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
    """Returns the four compiled programs by name. Each call runs a program to its end."""
    model, actions, simulations, batch, precision = case
    config = PlannerConfig(
        root_actions=actions, policy_actions=max(1, actions // 4), simulations=simulations
    )
    task = jnp.arange(batch) % TASKS
    masks = jnp.ones((TASKS, ACTION))
    latent = jax.random.normal(jax.random.key(1), (batch, model.config.latent_size))
    key = jax.random.key(2)
    if batch == 1:
        model = model.for_one_robot(key)
    cast = model if precision == "float32" else with_weights(model, precision)

    def search(
        plan: Callable[..., Plan], model: WorldModel, tree: WorldModel, latent: Array
    ) -> Array:
        context = model.context(task, masks)
        discount = jnp.full(batch, DISCOUNT)
        found = plan(key, model, latent, context, discount, config, tree_model=tree)
        return found.search.action

    def floor(sizes: list[int], model: WorldModel, tree: WorldModel, latent: Array) -> Array:
        """Makes one prediction at the root, then calls of the given widths, each with inputs from the call before."""
        model, tree = model.with_two_heads(key), tree.with_two_heads(key)
        context = model.context(task, masks)
        values, policy = model.predict(latent, context)
        total, action = model.value(values), policy.mode()
        for i, width in enumerate(sizes):

            def repeat(x: Array, width: int = width) -> Array:
                return jnp.broadcast_to(x[:, None], (batch, width, x.shape[-1])).reshape(
                    batch * width, -1
                )

            nodes: Context = jax.tree.map(repeat, context)
            z, reward = tree.step(repeat(latent), repeat(action), nodes)
            values, policy = tree.predict(z, nodes)
            gain = tree.reward(reward) + DISCOUNT * tree.value(values)
            total = total + gain.reshape(batch, width).mean(1)
            if i + 1 < len(sizes):  # the last call's policy has no use
                latent = z.reshape(batch, width, -1).mean(1)
                action = policy.mode().reshape(batch, width, -1).mean(1)
        return total

    functions: dict[str, tuple[Callable[..., Array], WorldModel]] = {
        "ours": (partial(search, plan), cast),
        "mctx": (partial(search, mctx_plan), model),
        "sequential_floor": (partial(floor, [1] * simulations), model),
        "grouped_floor": (partial(floor, rounds(actions, simulations)), cast),
    }
    return {
        name: _compiled(function, model, tree, latent)
        for name, (function, tree) in functions.items()
    }


def _compiled(
    function: Callable[..., Array], model: WorldModel, tree: WorldModel, latent: Array
) -> Callable[[], Any]:
    """Returns a call without arguments. The models are passed as one flat list, as in ``ezm.control.Planner``."""
    arrays, structure = jax.tree.flatten((model, tree))

    def flat(arrays: list[Array], latent: Array) -> Array:
        return function(*jax.tree.unflatten(structure, arrays), latent)

    return partial(_finish, jax.jit(flat).lower(arrays, latent).compile(), arrays, latent)


def _finish(program: Any, *arguments: Any) -> None:
    jax.block_until_ready(program(*arguments))


def times(calls: dict[str, Callable[[], Any]], most: int, seconds: float) -> dict[str, np.ndarray]:
    """Returns the milliseconds of every call of each program. Programs take turns. The first turn is not counted."""
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
    """Yields a row for each model, search and batch.

    Raises:
        UserError: a model is unknown, a search is not of the form 16x32, or a number is below 1.
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
                calls = programs(Case(model, actions, simulations, batch, options.precision))
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
                    precision=options.precision,
                )


def _search(text: str) -> tuple[int, int]:
    actions, _, simulations = text.partition("x")
    if not (actions.isdigit() and simulations.isdigit() and int(actions) and int(simulations)):
        raise UserError(f"--searches {text}: write root actions x simulations, as 16x32")
    return int(actions), int(simulations)


def table(rows: list[Row]) -> Table:
    """Makes a table of the rows with their ratios."""
    shown = Table(
        title=f"milliseconds a plan, {jax.devices()[0].device_kind}", title_justify="left"
    )
    heads = ("model", "K x N", "batch", "ours", "p99", "mctx", "sequential", "grouped")
    for head in (*heads, "mctx / ours", "ours / grouped"):
        shown.add_column(head, justify="right")
    for row in rows:
        shown.add_row(
            f"{row['parameters'] / 1e6:.2f}M {row['precision']}",
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
    """Prints the table that ``options`` describe."""
    rows = []
    for row in measure(options):
        rows.append(row)
        if options.json:
            print(json.dumps(row), flush=True)
    if not options.json:
        Console().print(table(rows))


if __name__ == "__main__":
    command(main, Options, __doc__)
