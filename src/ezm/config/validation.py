"""Checks that refuse a configuration that cannot work, in one line that names the option."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ezm.config.schema import POSITIVE, TrainConfig, named_values
from ezm.errors import UserError


def check(config: TrainConfig, num_tasks: int) -> None:
    """Refuses values that cannot work, before anything is built.

    Raises:
        UserError: names the option, its value and the rule that it breaks.
    """
    values = {}
    for name, value, bounds in named_values(config):
        values[name] = value
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            more = " and greater than 0" if POSITIVE in bounds else ""
            raise UserError(f"--{name} {value}: must be finite{more}")
        for bound in bounds if value is not None else ():
            if not bound.holds(value):
                raise UserError(f"--{name} {value}: must {bound.rule}")
    for name, rule in _broken(config, num_tasks):
        raise UserError(f"--{name} {values[name]}: {rule}")


def _broken(config: TrainConfig, num_tasks: int) -> Iterator[tuple[str, str]]:
    """Yields the broken rules across several options, each with the option that a message names."""
    model, planner, loss = config.model, config.planner, config.loss
    batch_size, root_actions = config.optimizer.batch_size, planner.root_actions
    window, (low, high) = loss.unroll + loss.n_step, model.log_std_range
    if config.random_steps <= window:
        why = "so that there is something to learn from"
        yield "random-steps", f"must exceed unroll + n-step = {window}, {why}"
    if config.policy_episodes and config.acting != "search":
        yield (
            "policy-episodes",
            "needs --acting search: without a search the policy acts in all episodes",
        )
    if batch_size < num_tasks:
        rule = f"is less than the {num_tasks} tasks of the suite; use at least one sample per task"
        yield "optimizer.batch-size", rule
    if batch_size % config.devices:
        rule = f"is no multiple of the {config.devices} devices, which take equal parts of it"
        yield "optimizer.batch-size", rule
    if config.replay.capacity <= 2 * window:
        yield "replay.capacity", f"must exceed twice the window of {window} steps"
    if model.projector_size <= 0 and loss.consistency == "cosine" and loss.consistency_weight:
        rule = "must be greater than 0 with --loss.consistency cosine, 64 for instance"
        yield "model.projector-size", rule
    if loss.policy_target == "prior":
        rule = "does not go with --loss.policy-target prior, which needs the density of the sampled actions"
        moved = {"mppi.rounds": planner.mppi.rounds, "refine.actions": planner.refine.actions}
        yield from ((f"planner.{name}", rule) for name, used in moved.items() if used)
    if not 0 < planner.policy_actions <= root_actions:
        rule = f"must lie between 1 and root-actions = {root_actions}"
        yield "planner.policy-actions", rule
    if planner.refine.actions > root_actions:
        yield "planner.refine.actions", f"must be at most root-actions = {root_actions}"
    if model.initial_log_std is not None and not low < model.initial_log_std < high:
        rule = f"must lie between the bounds {low} and {high} of --model.log-std-range"
        yield "model.initial-log-std", rule
    if bool(model.q_heads) != bool(loss.q.weight):
        rule = "and --loss.q.weight need each other: give both, 2 and 0.5 for instance, or neither"
        yield "model.q-heads", rule
    if (loss.actor.weight or planner.refine.actions) and not model.q_heads:
        name = "loss.actor.weight" if loss.actor.weight else "planner.refine.actions"
        yield name, "needs Q: add --model.q-heads 2 --loss.q.weight 0.5"
    if loss.actor.target_spread is not None and not loss.actor.weight:
        yield "loss.actor.target-spread", "needs the policy gradient: add --loss.actor.weight 1"
    if not 0 < loss.q.n_step <= loss.n_step:
        yield "loss.q.n-step", f"must lie between 1 and n-step = {loss.n_step}"
