"""The presets: values for every option of :mod:`ezm.config`.

The preset ``paper`` holds the published settings (EfficientZero-Multitask, appendix). The preset ``cpu`` holds settings
that learn within minutes on two CPU cores. The table :data:`KINDS` adapts them to a kind of suite, and
:func:`defaults` looks it up. The page ``docs/presets.md`` gives each difference and its reason.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ezm.config.schema import (
    ActorConfig,
    LossConfig,
    ModelConfig,
    MppiConfig,
    MveConfig,
    OptimizerConfig,
    PlannerConfig,
    QConfig,
    ReplayConfig,
    TrainConfig,
)

PRESETS: dict[str, TrainConfig] = {
    "cpu": TrainConfig(
        preset="cpu",
        steps=10_000,
        updates_per_step=4.0,
        random_steps=200,
        cross_task_episodes=0.3,
        evaluate_every=500,
        checkpoint_every=1_000,
        model=ModelConfig(
            latent_size=64,
            task_embedding_size=32,
            action_code_size=32,
            blocks=1,
            reward_blocks=0,
            head_layers=1,
            projector_size=0,
            latent_norm=True,
            value_heads=2,
            bins=31,
            scalar_transform="linear",
            value_range=None,
            reward_range=None,
            log_std_range=(-2.0, 0.5),
        ),
        planner=PlannerConfig(
            simulations=16, evaluation_spread=0.3, include_mean=True, leaf_rollout=2
        ),
        replay=ReplayConfig(alpha=0.0),
        loss=LossConfig(
            unroll=3,
            discount=None,
            value_target="n_step",
            mve=MveConfig(weight=0.5),
            reanalyze_ratio=0.1,
            policy_target="scaled",
            final_policy_temperature=16.0,
            consistency="mse",
            consistency_weight=20.0,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            final_learning_rate=0.1,
            weight_decay=1e-5,
            batch_size=64,
            batch_uses=2,
            ema=0.05,
        ),
    ),
    "paper": TrainConfig(
        preset="paper",
        steps=850_000,
        random_steps=5_000,
        evaluate_every=10_000,
        # The published 1 reanalyses all states of all batches, which takes five times as long as the gradient step.
        loss=LossConfig(reanalyze_ratio=0.03),
    ),
}


def _with(options: Any, **changes: Any) -> Any:
    """Returns the options with other values. A dictionary has the other values of a group of options."""
    values = {
        name: _with(getattr(options, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(options, **values)


_CPU = PRESETS["cpu"]
_WIDE = _with(_CPU, evaluate_every=1_000, model=dict(latent_size=128))
# How each value was found: docs/lab-notes.md, "Policy improvement by gradient on h1-stand".
_HUMANOID = _with(
    _WIDE,
    steps=100_000,
    updates_per_step=1.0,
    random_steps=1_000,
    action_repeat=4,
    evaluate_every=2_500,
    evaluation_episodes=10,
    checkpoint_every=5_000,
    model=dict(bins=51, log_std_range=(-1.8, -1.4), neutral_start=True, q_heads=2),
    # In 19 dimensions the best of 16 samples goes a short way from the policy. MPPI goes further.
    planner=dict(
        mppi=MppiConfig(rounds=3, samples=32), leaf_rollout=1, policy_actions=1, spread=0.5
    ),
    loss=dict(
        unroll=5,
        reanalyze_ratio=0.02,
        entropy_weight=0.0,
        policy_weight=0.1,
        q=QConfig(weight=0.5),
        actor=ActorConfig(weight=1.0),
    ),
    optimizer=dict(schedule_steps=200_000),
)
# Rewards of the maze and of reach are hundreds of times larger than the other tasks' rewards.
_RANGE = (-299.0, 299.0)
_ALL_HUMANOIDS = _with(
    _HUMANOID, model=dict(scalar_transform="h", value_range=_RANGE, reward_range=_RANGE)
)


def _for_tasks(config: TrainConfig, tasks: int) -> TrainConfig:
    """Returns the configuration with ``tasks`` times the batch size: each task keeps its number of windows.

    It sets a plain batch size because ``windows_per_task`` would override the size that a user gives.
    """
    size = tasks * config.optimizer.batch_size
    return replace(config, optimizer=replace(config.optimizer, batch_size=size))


class Kind(NamedTuple):
    """A kind of suite, and its configuration in the preset ``cpu``."""

    suites: tuple[str, ...]
    """Its suites' names, or how they begin: ``hb:*``."""
    title: str
    config: TrainConfig
    reason: str
    """Why it differs from the other kinds, in a few words."""
    batch_of_each: bool = False
    """Whether ``config`` holds the batch size of one task, which grows with the number of tasks in the name."""


KINDS = (
    Kind(
        ("cartpole",),
        "the suite cartpole",
        _with(_CPU, steps=3_000, model=dict(task_embedding_scale=0.01)),
        "its tasks begin almost as one task",
    ),
    Kind(
        ("walker",),
        "the suite walker",
        _with(_WIDE, steps=20_000),
        "with a latent of 64 its returns stop rising",
    ),
    Kind(("mixed",), "the suite mixed", _WIDE, "a wide latent, as for walker"),
    Kind(
        ("h1",),
        "the suite h1",
        _for_tasks(_ALL_HUMANOIDS, 9),
        "humanoids, and the large rewards of the maze",
    ),
    Kind(
        ("h1hand",),
        "the suite h1hand",
        _for_tasks(_ALL_HUMANOIDS, 14),
        "humanoids, and the large rewards of maze and reach",
    ),
    Kind(
        ("h1*-maze*", "hb:h1*-maze*", "h1*-reach*", "hb:h1*-reach*"),
        "lists with the maze or reach",
        _ALL_HUMANOIDS,
        "humanoids, and the large rewards of maze and reach",
        batch_of_each=True,
    ),
    Kind(
        ("h1*", "hb:h1*"),
        "HumanoidBench's tasks",
        _HUMANOID,
        "humanoids move in 19 dimensions and more",
        batch_of_each=True,
    ),
    Kind(("*",), "a suite without its own", _CPU, "sizes that learn within minutes on two cores"),
)
"""The kinds of suites in the preset ``cpu``. The first that fits a suite's name holds, and the last fits all."""


def kind_of(suite: str) -> Kind:
    """Returns the kind of a suite, from its name or its list of tasks."""
    return next(
        kind for kind in KINDS if any(fnmatchcase(suite, pattern) for pattern in kind.suites)
    )


def defaults(preset: str, suite: str = "") -> TrainConfig:
    """Returns the defaults of all options but the suite."""
    if preset != "cpu":
        return PRESETS[preset]
    kind = kind_of(suite)
    return _for_tasks(kind.config, suite.count(",") + 1) if kind.batch_of_each else kind.config


def origin(preset: str, suite: str) -> str:
    """Returns where :func:`defaults` come from, in one line."""
    if preset != "cpu":
        return f"preset {preset} for every suite, docs/presets.md"
    kind = kind_of(suite)
    return f"preset cpu for {kind.title} ({kind.reason}), docs/presets.md"
