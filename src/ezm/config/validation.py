"""Checks that refuse a configuration that cannot work, in one line that names the option."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ezm.config.schema import POSITIVE, Bound, TrainConfig, named_values
from ezm.errors import UserError


def check(config: TrainConfig, num_tasks: int) -> None:
    """Refuses values that cannot work, before anything is built.

    Raises:
        UserError: names the option, its value and the rule that it breaks.
    """
    values = {}
    for name, value, marks in named_values(config):
        values[name] = value
        numbers = value if isinstance(value, tuple) else (value,)
        for bound in (mark for mark in marks if isinstance(mark, Bound) and value is not None):
            if not bound.holds(value):
                raise UserError(f"--{name} {value}: must {bound.rule}")
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            more = " and greater than 0" if POSITIVE in marks else ""
            raise UserError(f"--{name} {value}: must be finite{more}")
    for name, fine, rule in _across(config, num_tasks):
        if not fine:
            raise UserError(f"--{name} {values[name]}: {rule}")


def _across(config: TrainConfig, num_tasks: int) -> Iterator[tuple[str, bool, str]]:
    """Yields the rules across several options: the option that a message names, whether the rule holds, the rule."""
    model, planner, loss = config.model, config.planner, config.loss
    batch_size, root_actions = config.optimizer.batch_size, planner.root_actions
    window = loss.unroll + loss.n_step
    yield (
        "random-steps",
        config.random_steps > window,
        f"must exceed unroll + n-step = {window}, so that there is something to learn from",
    )
    yield (
        "optimizer.batch-size",
        batch_size >= num_tasks,
        f"is less than the {num_tasks} tasks of the suite; use at least one sample per task",
    )
    yield (
        "optimizer.batch-size",
        batch_size % config.devices == 0,
        f"is no multiple of the {config.devices} devices, which take equal parts of it",
    )
    yield (
        "replay.capacity",
        config.replay.capacity > 2 * window,
        f"must exceed twice the window of {window} steps",
    )
    yield (
        "model.projector-size",
        model.projector_size > 0 or loss.consistency != "cosine" or not loss.consistency_weight,
        "must be greater than 0 with --loss.consistency cosine, 64 for instance",
    )
    yield (
        "planner.mppi.rounds",
        not planner.mppi.rounds or loss.policy_target != "prior",
        "does not go with --loss.policy-target prior, which needs the density of the sampled actions",
    )
    yield (
        "planner.policy-actions",
        0 < planner.policy_actions <= root_actions,
        f"must lie between 1 and root-actions = {root_actions}",
    )
    yield (
        "planner.refine.actions",
        planner.refine.actions <= root_actions,
        f"must be at most root-actions = {root_actions}",
    )
    low, high = model.log_std_range
    yield (
        "model.initial-log-std",
        model.initial_log_std is None or low < model.initial_log_std < high,
        f"must lie between the bounds {low} and {high} of --model.log-std-range",
    )
    yield (
        "model.q-heads",
        bool(model.q_heads) == bool(loss.q.weight),
        "and --loss.q.weight need each other: give both, 2 and 0.5 for instance, or neither",
    )
    yield (
        "loss.actor.weight" if loss.actor.weight else "planner.refine.actions",
        not (loss.actor.weight or planner.refine.actions) or model.q_heads > 0,
        "needs Q: add --model.q-heads 2 --loss.q.weight 0.5",
    )
    yield (
        "loss.actor.target-spread",
        loss.actor.target_spread is None or loss.actor.weight > 0,
        "needs the policy gradient: add --loss.actor.weight 1",
    )
    yield (
        "loss.q.n-step",
        0 < loss.q.n_step <= loss.n_step,
        f"must lie between 1 and n-step = {loss.n_step}",
    )
