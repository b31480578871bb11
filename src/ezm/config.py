"""Typed configuration: every choice of the method in one place, and the presets.

``PRESETS["paper"]`` holds the published settings (EfficientZero-Multitask, appendix), ``PRESETS["cpu"]``
what learns within minutes on two CPU cores; :func:`defaults` knows what a suite needs. ``docs/presets.md`` says where and
why they differ.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ezm.errors import UserError
from ezm.plain import read


@dataclass(frozen=True)
class ModelConfig:
    """The world model (paper, section "World model")."""

    latent_size: int = 512
    """Width of the latent state s and of every trunk."""
    task_embedding: bool = True
    """Condition every part on a learned embedding of the task; off is an ablation."""
    task_embedding_size: int = 128
    """Numbers in a task's embedding."""
    task_embedding_scale: float = 1.0
    """Factor on the embeddings, and so on how fast they learn: a small one lets all tasks begin almost as one."""
    action_code_size: int = 64
    """Numbers in an action's code, the same for tasks with different action sizes."""
    blocks: int = 3
    """Residual blocks of the representation, dynamics and prediction trunks."""
    reward_blocks: int = 3
    """Residual blocks of the reward trunk."""
    head_layers: int = 2
    """Hidden layers of the reward, value and policy heads, each latent_size wide."""
    projector_size: int = 1024
    """Hidden width of the projector and predictor, which "cosine" consistency needs; 0: there are none."""
    latent_norm: bool = False
    """LayerNorm (no scale, no bias) on every latent that h and g return."""
    value_heads: int = 5
    """Networks of the value; searches and targets take the minimum of two."""
    bins: int = 51
    """Of the distributions that rewards and values are predicted as."""
    scalar_transform: Literal["h", "linear"] = "h"
    """Spacing of the bins: h(x) = sign(x)(sqrt(|x|+1)-1) + 0.001x, or linear."""
    value_range: tuple[float, float] | None = (-299.0, 299.0)
    """Range of the value bins; None: what the suite's rewards and discounts allow."""
    reward_range: tuple[float, float] | None = (-299.0, 299.0)
    """Range of the reward bins; None: what the suite's tasks declare."""
    log_std_range: tuple[float, float] = (-10.0, 2.0)
    """Bounds of the policy's log standard deviation, before the tanh."""


@dataclass(frozen=True)
class PlannerConfig:
    """Gumbel search over sampled actions (Danihelka et al. 2022; paper, section "Planner")."""

    backend: Literal["ezm", "mctx"] = "ezm"
    """Our search, batched over each round of Sequential Halving; or mctx, one model call per simulation."""
    simulations: int = 32
    """Nodes added to the tree by each search (N)."""
    root_actions: int = 16
    """Actions sampled at the root (K)."""
    considered_actions: int | None = None
    """How many of them Sequential Halving begins with (m); None: all."""
    gumbel_scale: float = 0.0
    """Factor on Gumbel noise at the root, which only discrete actions need: samples are noisy by themselves."""
    policy_actions: int = 4
    """How many of them come from the policy; the others from it with a widened spread."""
    spread: float = 3.0
    """Factor on the policy's standard deviation for the widened samples."""
    evaluation_spread: float | None = None
    """Factor for all samples where nothing is to be explored, in evaluations; None: as in training."""
    include_mean: bool = False
    """Make the policy's mean the first of the sampled actions, at the root and inside the tree."""
    interior_actions: int = 2
    """Actions sampled at each node inside the tree."""
    leaf_rollout: int = 0
    """Steps along the policy's mean behind each new node before the network's value is taken."""
    c_visit: float = 50.0
    """sigma(q) = (c_visit + most visits) * c_scale * q, q rescaled to [0, 1]."""
    c_scale: float = 0.1
    """See c-visit: how much the search's Q weighs against the prior."""

    def considered(self, actions: int) -> int:
        """How many of so many actions Sequential Halving begins with."""
        most = self.considered_actions
        return actions if most is None else min(actions, most)

    def evaluating(self) -> PlannerConfig:
        """The same planner for actions that explore nothing."""
        if self.evaluation_spread is None:
            return self
        return replace(self, policy_actions=1, spread=self.evaluation_spread)


@dataclass(frozen=True)
class ReplayConfig:
    """Independent experience replay: one prioritised buffer per task."""

    capacity: int = 1_000_000
    """Rows (observations) kept per task."""
    per_task: bool = True
    """The same number of samples from every task; off draws from all tasks' data together."""
    alpha: float = 1.0
    """Exponent of the priority |value - target|; 0 samples uniformly."""
    beta: float = 1.0
    """Exponent of the importance weight."""
    device: bool = False
    """Keep the rows in the memory of the device that learns, so that batches need not travel to it."""


@dataclass(frozen=True)
class LossConfig:
    """Targets and loss weights (paper, sections "Targets" and "Loss")."""

    unroll: int = 5
    """Steps through the dynamics in each loss."""
    n_step: int = 5
    """Rewards in the value target before the bootstrap."""
    discount: float | None = 0.99
    """Per agent step; None: 1 - 10 / episode length of each task, kept within [0.95, 0.995]."""
    value_target: Literal["n_step", "search", "mixed"] = "mixed"
    """n-step return; the search's value; or the first for fresh data and the second for old (mixed)."""
    mixed_after_updates: int = 50_000
    """Mixed target: updates with n-step returns alone at first."""
    mixed_older_than: int = 200_000
    """Mixed target: samples older than this many transitions take the search's value."""
    imagined_share: float = 0.0
    """Weight, in the value target, of the return that the model imagines along the policy's mean."""
    imagined_steps: int = 3
    """Imagined steps before the network's value is taken."""
    imagined_after_updates: int = 500
    """Updates without imagined targets, until the model knows the first data."""
    reanalyze_ratio: float = 1.0
    """Share of a batch's states that are searched anew, those with the oldest searches first. 1: all (paper), 0: none.
    The others take the search that is stored with them, at first the one they were acted on with."""
    policy_target: Literal["best_action", "improved", "scaled", "prior"] = "best_action"
    """The best action; the search's improved policy; a softmax of Q in units of the task's usual range (scaled);
    or the same corrected for how the candidates were drawn (prior)."""
    policy_temperature: float = 4.0
    """Factor on Q in units of its range, for the "scaled" target."""
    final_policy_temperature: float | None = None
    """What it grows to, linearly, over the run; None: it stays."""
    consistency: Literal["cosine", "mse", "off"] = "cosine"
    """Temporal consistency: projected cosine (paper) or distance to the EMA encoder's latent."""
    path_consistency: bool = True
    """Draw V(s) towards reward + discount * V(s') along the imagined rollout."""
    reward_weight: float = 1.0
    """Of the reward's cross-entropy."""
    value_weight: float = 0.5
    """Of the value's cross-entropy, mean over the heads."""
    policy_weight: float = 1.0
    """Of -log pi(what the search found)."""
    consistency_weight: float = 5.0
    """Of the temporal consistency."""
    path_weight: float = 0.5
    """Of the path consistency."""
    entropy_weight: float = 0.005
    """Of the policy's entropy, as a bonus."""
    latent_gradient: float = 0.5
    """Factor on the latent's gradient at each unrolled step."""

    def renewed(self, batch_size: int) -> int:
        """How many states of a batch are searched anew."""
        return round(self.reanalyze_ratio * batch_size * (self.unroll + 1))


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with decoupled weight decay."""

    learning_rate: float = 1e-4
    """At the first update."""
    final_learning_rate: float = 1.0
    """Fraction of the learning rate that a cosine leads down to over the run; 1: constant."""
    weight_decay: float = 2e-5
    """Decoupled, times the learning rate."""
    gradient_clip: float = 5.0
    """Largest norm of a gradient."""
    batch_size: int = 512
    """Windows in each batch, of all tasks together."""
    batch_uses: int = 1
    """Gradient steps with each batch and its targets, among those that a step of the environments owes."""
    ema: float = 0.01
    """Fraction of the new parameters that enters the EMA copy at each update."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    suite: str = "cartpole"
    preset: str = "cpu"
    steps: int = 9_000
    """Environment (agent) steps per task."""
    seed: int = 0
    """Of everything that is random: the same seed gives the same run on the same kind of processor."""
    devices: int = 1
    """Devices of the learner: each takes an equal part of every batch. Acting needs one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the factors of matrix products while learning; weights and sums are float32.
    auto: bfloat16 where the device multiplies it in hardware."""
    updates_per_step: float = 1.0
    """Learner updates for each step of all tasks together: the fixed ratio of the run."""
    random_steps: int = 1_000
    """Uniformly random actions at first, per task; learning starts after them."""
    borrowed_episodes: float = 0.0
    """Fraction of training episodes in which a task acts with the policy of another task of the same body."""
    action_repeat: int | None = None
    """Simulator steps for each action; None: the suite's own."""
    protocol: Literal["benchmark", "paper"] = "benchmark"
    """HumanoidBench's tasks: falls end an episode (benchmark), or it goes on to its last step (paper)."""
    meshes: str | None = None
    """HumanoidBench's robots: a folder with their meshes, to collide as these do; None: as primitives."""
    step_limit: float = 120.0
    """Seconds after which environments that have not finished their step count as hanging.
    The run is then saved and ends. 0: never."""
    evaluate_every: int = 1_000
    """Steps per task between two evaluations."""
    evaluation_episodes: int = 4
    """Episodes per task of each evaluation on the way."""
    final_episodes: int = 10
    """Episodes per task of the evaluation at the end."""
    diagnose_every: int = 0
    """Steps per task between two rank-correlation diagnostics; 0: never."""
    checkpoint_every: int = 2_000
    """Steps per task between two checkpoints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @property
    def kept_actions(self) -> int:
        """R, the root actions of each search that the replay keeps."""
        return 1 if self.loss.policy_target == "best_action" else self.planner.root_actions

    def updates_by(self, step: int) -> int:
        """Updates that the fixed ratio owes after ``step`` steps per task."""
        return int((step - self.random_steps) * self.updates_per_step)


PRESETS: dict[str, TrainConfig] = {
    "cpu": TrainConfig(
        preset="cpu",
        steps=10_000,
        updates_per_step=4.0,
        random_steps=200,
        borrowed_episodes=0.3,
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
            imagined_share=0.5,
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
        # The published 1 searches all states of all batches anew, five times the gradient step's time.
        loss=LossConfig(reanalyze_ratio=0.03),
    ),
}


_CPU = PRESETS["cpu"]
_WIDE = replace(
    _CPU,
    evaluate_every=1_000,
    model=replace(_CPU.model, latent_size=128),
)
_HUMANOID = replace(
    _WIDE,
    steps=100_000,
    updates_per_step=1.0,
    random_steps=1_000,
    action_repeat=4,
    evaluate_every=10_000,
    checkpoint_every=5_000,
    model=replace(_WIDE.model, bins=51, log_std_range=(-3.0, -0.5)),
    # Wide candidates make a robot of 19 servos fall whatever they are (docs/lab-notes.md).
    planner=replace(_WIDE.planner, spread=1.0, include_mean=False),
    loss=replace(_WIDE.loss, unroll=5, entropy_weight=0.0),
)
# Rewards of the maze and of reach are hundreds of times those of the other tasks.
_ALL_HUMANOIDS = replace(
    _HUMANOID,
    model=replace(
        _HUMANOID.model,
        scalar_transform="h",
        value_range=(-299.0, 299.0),
        reward_range=(-299.0, 299.0),
    ),
)
CPU_SIZES: dict[str, TrainConfig] = {
    "cartpole": replace(_CPU, steps=3_000, model=replace(_CPU.model, task_embedding_scale=0.01)),
    "walker": replace(_WIDE, steps=20_000),
    "mixed": _WIDE,
    "h1": _ALL_HUMANOIDS,
    "h1hand": _ALL_HUMANOIDS,
}
"""The preset "cpu" for named suites that need another size than its own."""


def defaults(preset: str, suite: str = "") -> TrainConfig:
    """Defaults of all options but the suite."""
    if preset != "cpu":
        return PRESETS[preset]
    other = _HUMANOID if suite.removeprefix("hb:").startswith("h1") else _CPU
    return CPU_SIZES.get(suite, other)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of :func:`to_dict`. What an older version did not write has its default.

    Raises:
        UserError: a key that this version does not know, one that every version wrote is missing, or a value of another type.
    """
    always = ("suite", "steps", "seed", "model", "planner", "replay", "loss", "optimizer")
    return read(TrainConfig, values, required=always)


def check(config: TrainConfig, num_tasks: int) -> None:
    """Refuse values that cannot work, before anything is built.

    Raises:
        UserError: naming the option, its value and what would do.
    """
    positive = {
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
        "replay.capacity": config.replay.capacity,
        "loss.unroll": config.loss.unroll,
        "loss.n-step": config.loss.n_step,
        "optimizer.batch-size": config.optimizer.batch_size,
        "optimizer.batch-uses": config.optimizer.batch_uses,
        "optimizer.learning-rate": config.optimizer.learning_rate,
        "model.latent-size": config.model.latent_size,
        "model.task-embedding-scale": config.model.task_embedding_scale,
        "model.value-heads": config.model.value_heads,
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
    }
    for name, value in not_negative.items():
        if not value >= 0:
            raise UserError(f"--{name} {value}: must not be negative")
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
