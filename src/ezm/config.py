"""Typed configuration: every choice of the method in one place. :mod:`ezm.presets` gives the values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
    critic_size: int | None = None
    """Width of the hidden layers of the value heads and Q heads; None: latent_size."""
    critic_norm: Literal["layer", "unit"] = "layer"
    """Hidden layers of these heads: LayerNorm before the relu (layer), or rows of norm 1 and an RMSNorm after it (unit)."""
    projector_size: int = 1024
    """Hidden width of the projector and predictor, which "cosine" consistency needs; 0: there are none."""
    latent_norm: bool = False
    """LayerNorm (no scale, no bias) on every latent that h and g return."""
    value_heads: int = 5
    """Networks of the value; searches and targets take the minimum of two."""
    q_heads: int = 0
    """Networks Q(s, a), whose minimum the policy climbs; 0: there are none."""
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
    initial_log_std: float | None = None
    """Where an untrained policy's log standard deviation begins; None: in the middle of its bounds."""
    neutral_start: bool = False
    """An untrained policy's mean is each task's neutral action, such as a robot's home pose; off: it is 0."""


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
    mppi_rounds: int = 0
    """Rounds of MPPI that move the root's policy before the root's actions are drawn from it."""
    mppi_samples: int = 64
    """Samples of each round of MPPI."""
    mppi_temperature: float = 8.0
    """Factor on Q, rescaled to [0, 1], in the softmax that weighs these samples."""
    mppi_least_std: float = 0.5
    """Least standard deviation of the moved policy, in standard deviations of the policy."""
    refined_actions: int = 0
    """How many of the root's actions climb the gradient of Q before the search."""
    refine_step: float = 1.0
    """Length of that climb, in standard deviations of the policy in each dimension."""
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
    """What it grows to, linearly, over the schedule; None: it stays."""
    consistency: Literal["cosine", "mse", "off"] = "cosine"
    """Temporal consistency: projected cosine (paper) or distance to the EMA encoder's latent."""
    path_consistency: bool = True
    """Draw V(s) towards reward + discount * V(s') along the imagined rollout."""
    reward_weight: float = 1.0
    """Of the reward's cross-entropy."""
    value_weight: float = 0.5
    """Of the value's cross-entropy, mean over the heads."""
    policy_weight: float = 1.0
    """Of -log pi(what the search found), the imitation of the search."""
    q_weight: float = 0.0
    """Of the cross-entropy of Q(s, a), mean over the heads; 0: Q is not trained."""
    q_target: Literal["value", "q"] = "value"
    """Bootstrap of Q: the EMA model's V of the later state (value), or its Q of an action of its policy there (q)."""
    q_n_step: int = 1
    """Rewards in the target of Q before the bootstrap; at most n_step."""
    actor_weight: float = 0.0
    """Of the policy gradient: -Q(s, a) of a sampled action, in units of Q's range; 0: the policy imitates alone."""
    actor_scale: Literal["batch", "task"] = "batch"
    """Q's range (5th to 95th percentile) over the whole batch, or over each task's part of it."""
    actor_shapes_latent: bool = True
    """Let the policy gradient pass into the latent state, and so into the encoder and the dynamics."""
    target_spread: float | None = None
    """Standard deviation that a learned entropy bonus of each task holds the policy to; None: there is no such bonus."""
    consistency_weight: float = 5.0
    """Of the temporal consistency."""
    path_weight: float = 0.5
    """Of the path consistency."""
    entropy_weight: float = 0.005
    """Of the policy's entropy, as a bonus."""
    latent_gradient: float = 0.5
    """Factor on the latent's gradient at each unrolled step."""
    reward_scaling: bool = False
    """Divide the rewards of each task by a running scale of its discounted returns, so that one support fits all tasks.
    The supports are then linear from -5 to 5, whatever the model's ranges say."""

    @property
    def weights(self) -> dict[str, float]:
        """The factor on each term of the loss, by the term's name; Q and actor only where they are trained."""
        weights = {
            "reward": self.reward_weight,
            "value": self.value_weight,
            "policy": self.policy_weight,
            "consistency": self.consistency_weight,
            "path": self.path_weight,
            "entropy": -self.entropy_weight,
        }
        if self.q_weight:
            weights["q"] = self.q_weight
        if self.actor_weight:
            weights["actor"] = self.actor_weight
        return weights

    def renewed(self, batch_size: int) -> int:
        """How many states of a batch are searched anew."""
        return round(self.reanalyze_ratio * batch_size * (self.unroll + 1))


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with decoupled weight decay."""

    learning_rate: float = 1e-4
    """At the first update."""
    final_learning_rate: float = 1.0
    """Fraction of the learning rate that a cosine leads down to over the schedule; 1: constant."""
    schedule_steps: int | None = None
    """Steps per task over which learning rate and policy temperature change; None: those of the run."""
    weight_decay: float = 2e-5
    """Decoupled, times the learning rate."""
    gradient_clip: float = 5.0
    """Largest norm of a gradient."""
    batch_size: int = 512
    """Windows in each batch, of all tasks together."""
    windows_per_task: int | None = None
    """Windows of each task that pass through a gradient at each agent step (W): sets the batch size, whatever the
    number of tasks. None: the batch size is as given."""
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
    acting: Literal["search", "policy"] = "search"
    """What training acts with: the search's best action, or a sample of the policy without any search."""
    noise: float = 0.0
    """Largest standard deviation of noise on training's actions. Each episode of a task draws its own, uniformly."""
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

    @property
    def schedule_updates(self) -> int:
        """Updates over which learning rate and policy temperature change."""
        return max(1, self.updates_by(self.optimizer.schedule_steps or self.steps))

    def windows(self, num_tasks: int) -> float:
        """W, the windows of each task that pass through a gradient at each agent step."""
        return self.optimizer.batch_size * self.updates_per_step / num_tasks

    def for_tasks(self, num_tasks: int) -> TrainConfig:
        """The same with the batch size that ``optimizer.windows_per_task`` asks for."""
        wanted = self.optimizer.windows_per_task
        if wanted is None:
            return self
        size = round(wanted * num_tasks / self.updates_per_step)
        return replace(self, optimizer=replace(self.optimizer, batch_size=size))


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
