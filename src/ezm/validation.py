"""Checks that refuse a configuration that cannot work, in one line that names the option."""

from __future__ import annotations

import math

from ezm.config import TrainConfig
from ezm.errors import UserError


def check(config: TrainConfig, num_tasks: int) -> None:
    """Refuses values that cannot work, before anything is built.

    Raises:
        UserError: names the option, its value and the rule that it breaks.
    """

    def optional(value: float | None) -> float:
        return 1.0 if value is None else value

    positive = {
        "optimizer.windows-per-task": optional(config.optimizer.windows_per_task),
        "steps": config.steps,
        "devices": config.devices,
        "updates-per-step": config.updates_per_step,
        "evaluation-episodes": config.evaluation_episodes,
        "final-episodes": config.final_episodes,
        "evaluate-every": config.evaluate_every,
        "checkpoint-every": config.checkpoint_every,
        "planner.simulations": config.planner.simulations,
        "planner.root-actions": config.planner.root_actions,
        "planner.considered-actions": config.planner.considered(config.planner.root_actions),
        "planner.interior-actions": config.planner.interior_actions,
        "planner.spread": config.planner.spread,
        "planner.interior-spread": config.planner.interior_spread,
        "early-episode-steps": optional(config.early_episode_steps),
        "replay.capacity": config.replay.capacity,
        "loss.n-step": config.loss.n_step,
        "optimizer.batch-size": config.optimizer.batch_size,
        "optimizer.batch-uses": config.optimizer.batch_uses,
        "optimizer.learning-rate": config.optimizer.learning_rate,
        "model.latent-size": config.model.latent_size,
        "model.task-embedding-scale": config.model.task_embedding_scale,
        "model.value-heads": config.model.value_heads,
        "model.critic-size": optional(config.model.critic_size),
        "planner.refine-step": config.planner.refine_step,
        "planner.mppi-temperature": config.planner.mppi_temperature,
        "planner.mppi-least-std": config.planner.mppi_least_std,
        "loss.target-spread": optional(config.loss.target_spread),
        "optimizer.schedule-steps": optional(config.optimizer.schedule_steps),
    }
    for name, value in positive.items():
        if not 0 < value < math.inf:
            finite = "finite and " if value > 0 else ""
            raise UserError(f"--{name} {value}: must be {finite}greater than 0")
    not_negative = {
        "planner.gumbel-scale": config.planner.gumbel_scale,
        "planner.evaluation-spread": config.planner.evaluation_spread or 0.0,
        "step-limit": config.step_limit,
        "diagnose-every": config.diagnose_every,
        "seed": config.seed,
        "loss.unroll": config.loss.unroll,
        "loss.q-weight": config.loss.q_weight,
        "loss.actor-weight": config.loss.actor_weight,
        "model.q-heads": config.model.q_heads,
        "planner.refined-actions": config.planner.refined_actions,
        "planner.mppi-rounds": config.planner.mppi_rounds,
        "noise": config.noise,
    }
    for name, value in not_negative.items():
        if not 0 <= value < math.inf:
            finite = "be finite" if value > 0 else "not be negative"
            raise UserError(f"--{name} {value}: must {finite}")
    window = config.loss.unroll + config.loss.n_step
    limits: list[tuple[str, float, bool, str]] = [
        (
            "random-steps",
            config.random_steps,
            config.random_steps > window,
            f"must exceed unroll + n-step = {window}, so that there is something to learn from",
        ),
        (
            "optimizer.batch-size",
            config.optimizer.batch_size,
            config.optimizer.batch_size >= num_tasks,
            f"is less than the {num_tasks} tasks of the suite; use at least one sample per task",
        ),
        (
            "optimizer.batch-size",
            config.optimizer.batch_size,
            config.optimizer.batch_size % config.devices == 0,
            f"is no multiple of the {config.devices} devices, which take equal parts of it",
        ),
        (
            "replay.capacity",
            config.replay.capacity,
            config.replay.capacity > 2 * window,
            f"must exceed twice the window of {window} steps",
        ),
        ("model.bins", config.model.bins, config.model.bins >= 3, "must be at least 3"),
        (
            "model.projector-size",
            config.model.projector_size,
            config.model.projector_size > 0 or config.loss.consistency != "cosine",
            "must be greater than 0 with --loss.consistency cosine, 64 for instance",
        ),
        (
            "loss.reanalyze-ratio",
            config.loss.reanalyze_ratio,
            0 <= config.loss.reanalyze_ratio <= 1,
            "must lie in [0, 1]",
        ),
        (
            "planner.mppi-samples",
            config.planner.mppi_samples,
            config.planner.mppi_samples > 1,
            "must be at least 2",
        ),
        (
            "planner.mppi-rounds",
            config.planner.mppi_rounds,
            not config.planner.mppi_rounds or config.loss.policy_target != "prior",
            "does not go with --loss.policy-target prior, which needs the density of the sampled actions",
        ),
        (
            "planner.policy-actions",
            config.planner.policy_actions,
            0 < config.planner.policy_actions <= config.planner.root_actions,
            f"must lie between 1 and root-actions = {config.planner.root_actions}",
        ),
        (
            "borrowed-episodes",
            config.borrowed_episodes,
            0 <= config.borrowed_episodes <= 1,
            "must lie in [0, 1]",
        ),
        (
            "loss.imagined-share",
            config.loss.imagined_share,
            0 <= config.loss.imagined_share <= 1,
            "must lie in [0, 1]",
        ),
        (
            "optimizer.ema",
            config.optimizer.ema,
            0 < config.optimizer.ema <= 1,
            "must lie in (0, 1]",
        ),
    ]
    low, high = config.model.log_std_range
    uses_q = config.loss.actor_weight or config.planner.refined_actions
    limits += [
        (
            "planner.refined-actions",
            config.planner.refined_actions,
            config.planner.refined_actions <= config.planner.root_actions,
            f"must be at most root-actions = {config.planner.root_actions}",
        ),
        (
            "model.initial-log-std",
            optional(config.model.initial_log_std),
            config.model.initial_log_std is None or low < config.model.initial_log_std < high,
            f"must lie between the bounds {low} and {high} of --model.log-std-range",
        ),
        (
            "model.q-heads",
            config.model.q_heads,
            bool(config.model.q_heads) == bool(config.loss.q_weight),
            "and --loss.q-weight need each other: give both, 2 and 0.5 for instance, or neither",
        ),
        (
            "loss.actor-weight" if config.loss.actor_weight else "planner.refined-actions",
            uses_q,
            not uses_q or config.model.q_heads > 0,
            "needs Q: add --model.q-heads 2 --loss.q-weight 0.5",
        ),
        (
            "loss.target-spread",
            optional(config.loss.target_spread),
            config.loss.target_spread is None or config.loss.actor_weight > 0,
            "needs the policy gradient: add --loss.actor-weight 1",
        ),
        (
            "loss.q-n-step",
            config.loss.q_n_step,
            0 < config.loss.q_n_step <= config.loss.n_step,
            f"must lie between 1 and n-step = {config.loss.n_step}",
        ),
    ]
    if config.loss.discount is not None:
        limits.append(
            (
                "loss.discount",
                config.loss.discount,
                0 < config.loss.discount < 1,
                "must lie between 0 and 1",
            )
        )
    for name, value, fine, rule in limits:
        if not fine:
            raise UserError(f"--{name} {value}: {rule}")
