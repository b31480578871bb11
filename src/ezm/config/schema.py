"""The typed configuration, with every choice of the method. :mod:`ezm.config.presets` gives the values."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

from ezm.config.plain import read


class Bound(NamedTuple):
    """A bound of a number or of a pair of numbers, next to the type of its field. :func:`ezm.config.validation.check` refuses other values."""

    holds: Callable[[Any], bool]
    rule: str


POSITIVE = Bound(lambda value: value > 0, "be greater than 0")
NOT_NEGATIVE = Bound(lambda value: value >= 0, "not be negative")
FRACTION = Bound(lambda value: 0 <= value <= 1, "lie in [0, 1]")
RANGE = Bound(lambda value: value[0] < value[1], "begin below its end")


@dataclass(frozen=True)
class ModelConfig:
    """The world model (paper, section "World model")."""

    latent_size: Annotated[int, POSITIVE] = 512
    """Width of the latent state s and of every trunk."""
    task_embedding: bool = True
    """Condition every part on a learned embedding of the task. Off is an ablation."""
    task_embedding_size: Annotated[int, POSITIVE] = 128
    """Size of a task's embedding."""
    task_embedding_scale: Annotated[float, POSITIVE] = 1.0
    """Factor on the embeddings, and so on how fast they learn. With a small factor all tasks begin almost alike."""
    action_code_size: Annotated[int, POSITIVE] = 64
    """Size of an action's code, the same for tasks with different action sizes."""
    blocks: Annotated[int, NOT_NEGATIVE] = 3
    """Residual blocks of the representation, dynamics and prediction trunks."""
    reward_blocks: Annotated[int, NOT_NEGATIVE] = 3
    """Residual blocks of the reward trunk."""
    head_layers: Annotated[int, NOT_NEGATIVE] = 2
    """Hidden layers of the reward, value, Q and policy heads, latent_size wide unless critic_size differs."""
    critic_size: Annotated[int | None, POSITIVE] = None
    """Width of the hidden layers of the value heads and Q heads. None means latent_size."""
    head_norm: Literal["layer", "unit", "batch"] = "layer"
    """Normalisation in the hidden layers of the reward, value, Q and policy heads. layer: LayerNorm before the relu.
    unit: weights of norm 1 for each output, and RMSNorm after the relu. batch: BatchNorm before the relu."""
    trunk: Literal["projected", "concatenated"] = "projected"
    """Input of the trunk of value and policy. projected: a linear layer of latent state and task embedding.
    concatenated: both as they are, so that the trunk is wider by the embedding."""
    projector_size: Annotated[int, NOT_NEGATIVE] = 1024
    """Hidden width of the projector and predictor, which "cosine" consistency needs. 0 leaves them out."""
    latent_norm: bool = False
    """Apply LayerNorm (no scale, no bias) to every latent that h and g return."""
    value_heads: Annotated[int, POSITIVE] = 5
    """Number of value heads. Searches and targets take the minimum of two of them, drawn at random."""
    q_heads: Annotated[int, NOT_NEGATIVE] = 0
    """Number of heads of Q(s, a). The policy gradient climbs their minimum. 0 leaves them out."""
    bins: Annotated[int, Bound(lambda value: value >= 3, "be at least 3")] = 51
    """Number of bins of the categorical reward and value distributions."""
    scalar_transform: Literal["h", "linear"] = "h"
    """Spacing of the bins: h(x) = sign(x)(sqrt(|x|+1)-1) + 0.001x, or linear."""
    value_range: Annotated[tuple[float, float] | None, RANGE] = (-299.0, 299.0)
    """Range of the value bins. None derives it from the suite's rewards and discounts."""
    reward_range: Annotated[tuple[float, float] | None, RANGE] = (-299.0, 299.0)
    """Range of the reward bins. None derives it from the ranges that the suite's tasks declare."""
    log_std_range: Annotated[tuple[float, float], RANGE] = (-10.0, 2.0)
    """Bounds of the log standard deviation of the policy's Gaussian, before the tanh."""
    initial_log_std: float | None = None
    """Log standard deviation of an untrained policy. None means the middle of its bounds."""
    neutral_start: bool = False
    """Start each task's policy mean at its neutral action, such as a robot's home pose. Off starts it at 0."""


@dataclass(frozen=True)
class MppiConfig:
    """Rounds of MPPI that move the root's policy before the root's actions are drawn from it."""

    rounds: Annotated[int, NOT_NEGATIVE] = 0
    """Rounds of sampling, weighing and fitting. 0 leaves MPPI out."""
    samples: Annotated[int, Bound(lambda value: value >= 2, "be at least 2")] = 64
    """Samples of each round."""
    temperature: Annotated[float, POSITIVE] = 8.0
    """Factor on Q, rescaled to [0, 1], in the softmax that weighs the samples."""
    least_std: Annotated[float, POSITIVE] = 0.5
    """Lower bound on the standard deviation afterwards, as a fraction of the policy's."""


@dataclass(frozen=True)
class RefineConfig:
    """Root actions that climb the gradient of Q before the search."""

    actions: Annotated[int, NOT_NEGATIVE] = 0
    """Number of root actions that climb. 0 leaves the climb out."""
    step: Annotated[float, POSITIVE] = 1.0
    """Length of the step, in standard deviations of the policy per dimension."""


@dataclass(frozen=True)
class PlannerConfig:
    """Gumbel search over sampled actions (Danihelka et al. 2022, and paper, section "Planner")."""

    simulations: Annotated[int, POSITIVE] = 32
    """Nodes added to the tree by each search (N)."""
    root_actions: Annotated[int, POSITIVE] = 16
    """Actions sampled at the root (K)."""
    considered_actions: Annotated[int | None, POSITIVE] = None
    """Number of root actions that Sequential Halving starts with (m). None means all."""
    gumbel_scale: Annotated[float, NOT_NEGATIVE] = 0.0
    """Factor on Gumbel noise at the root. Only discrete actions need it, because sampled actions are random already."""
    policy_actions: int = 4
    """Number of root actions sampled from the policy itself. The others are sampled with ``spread``."""
    spread: Annotated[float, POSITIVE] = 3.0
    """Factor on the policy's standard deviation for the other samples of the root."""
    evaluation_spread: Annotated[float | None, NOT_NEGATIVE] = None
    """Factor on the policy's standard deviation for all root samples but the first, in evaluations.
    None samples as in training."""
    include_mean: bool = False
    """Replace the first sampled action by the policy's mean, at the root and inside the tree."""
    interior_actions: Annotated[int, POSITIVE] = 2
    """Actions sampled at each node inside the tree."""
    interior_spread: Annotated[float, POSITIVE] = 1.0
    """Factor on the policy's standard deviation for the second half of the samples at each node inside the tree."""
    leaf_rollout: Annotated[int, NOT_NEGATIVE] = 0
    """Steps imagined along the policy's mean from each new node, before the network's value is taken."""
    c_visit: float = 50.0
    """The constant c_visit in sigma(q) = (c_visit + most visits) * c_scale * q, with q rescaled to [0, 1]."""
    c_scale: float = 0.1
    """Weight of the search's Q against the prior: see c-visit."""
    mppi: MppiConfig = field(default_factory=MppiConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)

    def considered(self, actions: int) -> int:
        """Returns how many of ``actions`` root actions Sequential Halving starts with."""
        most = self.considered_actions
        return actions if most is None else min(actions, most)

    def evaluating(self) -> PlannerConfig:
        """Returns the planner of evaluations, which samples with ``evaluation_spread``."""
        if self.evaluation_spread is None:
            return self
        return replace(self, policy_actions=1, spread=self.evaluation_spread)


@dataclass(frozen=True)
class ReplayConfig:
    """Independent experience replay: one prioritised buffer per task."""

    capacity: Annotated[int, POSITIVE] = 1_000_000
    """Rows (observations) kept per task."""
    per_task: bool = True
    """Draw the same number of samples from every task. Off draws from all tasks' data together."""
    alpha: float = 1.0
    """Exponent of the priority |value - target|. 0 samples uniformly."""
    beta: float = 1.0
    """Exponent of the importance weight."""
    device: bool = False
    """Keep the rows in the memory of the device that learns, so that no batch is copied to it."""


@dataclass(frozen=True)
class MixedConfig:
    """When the value target "mixed" takes the search's value instead of the n-step return."""

    after_updates: int = 50_000
    """Number of updates that use n-step returns alone at first."""
    older_than: int = 200_000
    """Age in replay rows of the task beyond which a sample takes the search's value."""


@dataclass(frozen=True)
class MveConfig:
    """Model-based value expansion: a return that the model imagines along the policy's mean, in the value target."""

    weight: Annotated[float, FRACTION] = 0.0
    """Weight in the value target. 0 leaves it out."""
    horizon: Annotated[int, NOT_NEGATIVE] = 3
    """Number of imagined steps before the network's value is taken."""
    after_updates: int = 500
    """Number of updates without imagined targets at first, while the model fits the first data."""


@dataclass(frozen=True)
class QConfig:
    """The loss of Q(s, a), whose heads are ``model.q_heads``."""

    weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the cross-entropy, mean over the heads. 0 does not train Q."""
    target: Literal["value", "q"] = "value"
    """Bootstrap: the EMA model's V of the later state (value), or its Q of an action of its policy there (q)."""
    n_step: int = 1
    """Rewards in the target before the bootstrap, at most loss.n-step."""


@dataclass(frozen=True)
class ActorConfig:
    """The policy gradient: the policy climbs the minimum of the Q heads."""

    weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of -Q(s, a) of a sampled action, in units of Q's range. 0 leaves imitation alone."""
    scale: Literal["batch", "task"] = "batch"
    """Samples that give Q's range (5th to 95th percentile): the whole batch, or each task's part of it."""
    shapes_latent: bool = True
    """Let the policy gradient pass into the latent state, and so into the encoder and the dynamics."""
    target_spread: Annotated[float | None, POSITIVE] = None
    """Policy standard deviation that a learned entropy bonus of each task aims at. None leaves the bonus out."""


@dataclass(frozen=True)
class LossConfig:
    """Targets and loss weights (paper, sections "Targets" and "Loss")."""

    unroll: Annotated[int, NOT_NEGATIVE] = 5
    """Steps through the dynamics in each loss."""
    n_step: Annotated[int, POSITIVE] = 5
    """Rewards in the value target before the bootstrap."""
    discount: Annotated[float | None, Bound(lambda value: 0 < value < 1, "lie between 0 and 1")] = (
        0.99
    )
    """Discount per agent step. None means 1 - 10 / episode length of each task, kept within [0.95, 0.995]."""
    value_target: Literal["n_step", "search", "mixed"] = "mixed"
    """Value target: the n-step return, the search's value, or the n-step return for fresh data and the search's value
    for old data (mixed)."""
    reanalyze_ratio: Annotated[float, FRACTION] = 1.0
    """Share of a batch's states that are reanalysed, those with the oldest searches first. 1: all (paper), 0: none.
    The others take the search that is stored with them, at first the search that chose the action."""
    policy_target: Literal["best_action", "improved", "scaled", "prior"] = "best_action"
    """Policy target: the best action, the search's improved policy, or a softmax of Q.
    scaled: Q in units of the task's usual range. prior: the same, corrected for how the candidates were drawn."""
    policy_temperature: float = 4.0
    """Factor on Q in units of its range, for the "scaled" and "prior" targets."""
    final_policy_temperature: float | None = None
    """Policy temperature at the end of the schedule, reached linearly. None keeps it constant."""
    consistency: Literal["cosine", "mse"] = "cosine"
    """Temporal consistency: projected cosine (paper) or squared distance to the EMA encoder's latent."""
    reward_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the reward's cross-entropy."""
    value_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the value's cross-entropy, mean over the heads."""
    policy_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of -log pi(policy target), the imitation of the search."""
    consistency_weight: Annotated[float, NOT_NEGATIVE] = 5.0
    """Weight of the temporal consistency. 0 leaves it out."""
    path_weight: Annotated[float, NOT_NEGATIVE] = 0.5
    """Weight of the path consistency, which draws V(s) towards reward + discount * V(s') along the imagined rollout.
    0 leaves it out."""
    entropy_weight: float = 0.005
    """Weight of the policy's entropy, as a bonus."""
    latent_gradient: float = 0.5
    """Factor on the latent's gradient at each unrolled step."""
    reward_scaling: bool = False
    """Divide the rewards of each task by a running scale of its discounted returns, so that one support fits all tasks.
    The supports are then linear from -5 to 5, whatever the model's ranges say."""
    mixed: MixedConfig = field(default_factory=MixedConfig)
    mve: MveConfig = field(default_factory=MveConfig)
    q: QConfig = field(default_factory=QConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)

    @property
    def weights(self) -> dict[str, float]:
        """Returns the factor on each term of the loss, by the term's name. Q and actor are left out at weight 0."""
        weights = {
            "reward": self.reward_weight,
            "value": self.value_weight,
            "policy": self.policy_weight,
            "consistency": self.consistency_weight,
            "path": self.path_weight,
            "entropy": -self.entropy_weight,
            "q": self.q.weight,
            "actor": self.actor.weight,
        }
        return {name: each for name, each in weights.items() if each or name not in ("q", "actor")}

    def reanalysed(self, batch_size: int) -> int:
        """Returns how many states of a batch are reanalysed."""
        return round(self.reanalyze_ratio * batch_size * (self.unroll + 1))


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with decoupled weight decay."""

    learning_rate: Annotated[float, POSITIVE] = 1e-4
    """Learning rate at the first update."""
    final_learning_rate: float = 1.0
    """Learning rate at the end of its cosine schedule, as a fraction of the first. 1 keeps it constant."""
    schedule_steps: Annotated[int | None, POSITIVE] = None
    """Steps per task over which learning rate and policy temperature change. None means the whole run."""
    weight_decay: float = 2e-5
    """Decoupled weight decay, times the learning rate."""
    gradient_clip: Annotated[float, POSITIVE] = 5.0
    """Largest norm of a gradient."""
    windows_per_task: Annotated[int | None, POSITIVE] = None
    """Windows of each task that pass through a gradient at each agent step (W). It sets the batch size, whatever the
    number of tasks. None keeps the given batch size."""
    batch_size: Annotated[int, POSITIVE] = 512
    """Windows in each batch, of all tasks together."""
    batch_uses: Annotated[int, POSITIVE] = 1
    """Gradient steps with each batch and its targets, within the updates of one environment step."""
    ema: Annotated[float, Bound(lambda value: 0 < value <= 1, "lie in (0, 1]")] = 0.01
    """Fraction of the new parameters that enters the EMA copy at each update."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    suite: str = "cartpole"
    preset: str = "cpu"
    steps: Annotated[int, POSITIVE] = 9_000
    """Environment (agent) steps per task."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of all random numbers. The same seed gives the same run on the same kind of processor."""
    devices: Annotated[int, POSITIVE] = 1
    """Number of the learner's devices. Each takes an equal part of every batch. Acting uses one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the factors of matrix products while learning. Weights and sums are float32.
    auto: bfloat16 where the device multiplies it in hardware."""
    updates_per_step: Annotated[float, POSITIVE] = 1.0
    """Learner updates for each environment step, in which every task takes one step: the fixed ratio of the run."""
    random_steps: int = 1_000
    """Steps per task with uniformly random actions at first. Learning starts after them."""
    acting: Literal["search", "policy"] = "search"
    """Source of training's actions: the search's best action, or a sample of the policy without any search."""
    noise: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest standard deviation of noise on training's actions. Each episode draws its own, uniformly."""
    early_episode_steps: Annotated[int | None, POSITIVE] = None
    """Agent steps that training's episodes last at most in the first two fifths of the run. None sets no such limit."""
    cross_task_episodes: Annotated[float, FRACTION] = 0.0
    """Fraction of training episodes in which a task acts with the policy of another task of the same embodiment."""
    policy_episodes: Annotated[float, FRACTION] = 0.0
    """Fraction of training episodes in which the policy's mean acts, and the search only gives the policy's targets.
    The policy then learns in the states that it visits itself (DAgger, Ross et al. 2011)."""
    action_repeat: int | None = None
    """Simulator steps for each action. None means the suite's own number."""
    protocol: Literal["benchmark", "paper"] = "benchmark"
    """HumanoidBench's tasks: a fall ends the episode (benchmark), or the episode goes on to its last step (paper)."""
    meshes: str | None = None
    """HumanoidBench's robots: a folder with their collision meshes. None means primitives."""
    step_limit: Annotated[float, NOT_NEGATIVE] = 120.0
    """Seconds without any environment finishing its step, after which one counts as hanging.
    The run is then saved and ends. 0 sets no limit."""
    evaluate_every: Annotated[int, POSITIVE] = 1_000
    """Steps per task between two evaluations."""
    evaluation_episodes: Annotated[int, POSITIVE] = 4
    """Episodes per task of each evaluation during training."""
    final_episodes: Annotated[int, POSITIVE] = 10
    """Episodes per task of the evaluation at the end."""
    diagnose_every: Annotated[int, NOT_NEGATIVE] = 0
    """Steps per task between two rank-correlation diagnostics. 0 means never."""
    checkpoint_every: Annotated[int, POSITIVE] = 2_000
    """Steps per task between two checkpoints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @property
    def kept_actions(self) -> int:
        """R, the number of root actions of each search that the replay keeps."""
        return 1 if self.loss.policy_target == "best_action" else self.planner.root_actions

    def updates_by(self, step: int) -> int:
        """Returns the number of updates due after ``step`` steps per task."""
        return int((step - self.random_steps) * self.updates_per_step)

    @property
    def schedule_updates(self) -> int:
        """Number of updates over which learning rate and policy temperature change."""
        return max(1, self.updates_by(self.optimizer.schedule_steps or self.steps))

    def windows(self, num_tasks: int) -> float:
        """Returns W, the windows of each task that pass through a gradient at each agent step."""
        return self.optimizer.batch_size * self.updates_per_step / num_tasks

    def for_tasks(self, num_tasks: int) -> TrainConfig:
        """Returns the configuration with the batch size that ``optimizer.windows_per_task`` asks for."""
        wanted = self.optimizer.windows_per_task
        if wanted is None or self.updates_per_step <= 0:  # which a check refuses later
            return self
        size = round(wanted * num_tasks / self.updates_per_step)
        return replace(self, optimizer=replace(self.optimizer, batch_size=size))


def named_values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yields each option's name on the command line, such as ``planner.root-actions``, its value and its bounds."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for each in dataclasses.fields(config):
        name, value = prefix + each.name.replace("_", "-"), getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            yield from named_values(value, f"{name}.")
        else:
            yield name, value, getattr(hints[each.name], "__metadata__", ())


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as nested dictionaries of plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """Returns the configuration that :func:`to_dict` wrote. Options that an older version did not write get defaults.

    Raises:
        UserError: a key is unknown to this version, a key that every version wrote is missing, or a value has another
            type.
    """
    always = ("suite", "steps", "seed", "model", "planner", "replay", "loss", "optimizer")
    return read(TrainConfig, values, required=always)
