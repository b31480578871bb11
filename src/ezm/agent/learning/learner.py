"""The learner: pure functions from a batch to targets and to new parameters (paper, sections 5 and 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.agent.batch import BATCH_AXIS, WHOLE, Batch, Searches
from ezm.agent.learning.losses import TARGET_AXIS, Targets, unrolled_loss
from ezm.agent.learning.normalizer import LARGEST_RETURN, Normalizer
from ezm.agent.learning.sharding import split
from ezm.agent.learning.targets import mixed_value, n_step_value, task_means
from ezm.agent.planning import expanded_value
from ezm.agent.search_policy import ActingParameters, SearchPolicy, SuiteArrays
from ezm.agent.world_model import Support, WorldModel, moments
from ezm.agent.world_model.batch_norm import training, with_statistics, without_statistics
from ezm.agent.world_model.precision import fast_precision, with_products
from ezm.config import TrainConfig

if TYPE_CHECKING:
    import optax

_Q_RANGE_RATE = 0.02
_TEMPERATURE_RATE = 3e-3
_FIRST_TEMPERATURE = 0.01  # FlashSAC's
# Folded into the key of the actor's samples. Batch numbers start at 0 and never reach it.
_ACTOR_KEY = 2**32 - 1


class LearnerState(eqx.Module):
    """Everything that an update changes, and the key."""

    model: WorldModel
    ema: WorldModel
    """Slow copy of the model, from which all targets come."""
    optimizer: optax.OptState
    """State of the optimizer. None where only targets are made or actions chosen, because an update overwrites it."""
    q_range: Float[Array, " tasks"]
    """Moving average of each task's range of Q over the root actions, in the networks' units."""
    log_temperature: Float[Array, " tasks"] | None
    """Logarithm of the weight of each task's entropy. None without ``loss.actor.target_spread``."""
    updates: Int[Array, ""]
    key: PRNGKeyArray


@dataclass(frozen=True, eq=False)
class Learner:
    """The pure functions that learn, of one configuration on one suite."""

    suite: SuiteArrays
    config: TrainConfig

    @property
    def policy(self) -> SearchPolicy:
        """Acting with the same configuration on the same suite."""
        return SearchPolicy(self.suite, self.config)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with decoupled weight decay, after a clip of the gradient's norm."""
        import optax  # only training needs it

        config = self.config.optimizer
        rate = optax.cosine_decay_schedule(
            config.learning_rate, self.config.schedule_updates, alpha=config.final_learning_rate
        )
        return optax.chain(
            optax.clip_by_global_norm(config.gradient_clip),
            optax.adamw(rate, weight_decay=config.weight_decay),
        )

    def init(self, model: WorldModel, key: PRNGKeyArray) -> LearnerState:
        """Returns the initial state of a learner with an untrained model."""
        return LearnerState(
            model=model,
            ema=jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, model),
            optimizer=self.optimizer.init(eqx.filter(model, eqx.is_inexact_array)),
            q_range=jnp.ones_like(self.suite.discount),
            log_temperature=None
            if self.config.loss.actor.target_spread is None
            else jnp.full_like(self.suite.discount, np.log(_FIRST_TEMPERATURE)),
            updates=jnp.zeros((), jnp.int32),
            key=key,
        )

    def make_targets(
        self, state: LearnerState, normalizer: Normalizer, batch: Batch, index: Int[Array, ""]
    ) -> Targets:
        """Returns all targets of a batch, computed with the EMA model ("reanalyze").

        ``index`` is the batch's number. It makes the search's samples differ from batch to batch.
        """
        config = self.config.loss
        k_heads, k_plan, k_q = jax.random.split(jax.random.fold_in(state.key, index), 3)
        model = with_products(state.ema, fast_precision(self.config.precision))
        ema = model.with_two_heads(k_heads)
        context = ema.context(batch.task, self.suite.action_mask)
        discount = self.suite.discount[batch.task]
        observation = normalizer(batch.observation, batch.task)
        latents = ema.represent(observation, context.repeated(len(observation)))

        states = config.unroll + 1
        reward = normalizer.scaled(batch.reward, batch.task)

        def returns(n_step: int, of: Literal["value", "q"]) -> Float[Array, "states batch"]:
            """Computes ``n_step`` returns, bootstrapped by V, or by Q of an action of the EMA policy."""
            last, everywhere = latents[n_step : n_step + states], context.repeated(states)
            values, policy = ema.predict(last, everywhere)
            bootstrap = ema.value(values)
            if of == "q":
                action = policy.one(k_q)
                bootstrap = ema.q(last, action, everywhere)
            return n_step_value(reward, bootstrap, batch.length, batch.terminated, discount, n_step)

        value = returns(config.n_step, "value")
        stored = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch.searches)
        searched = batch.searched.reshape(-1)
        reanalysed = jax.tree.map(lambda x: x[batch.reanalyse].astype(jnp.float32), stored)
        if len(batch.reanalyse):
            task = jnp.tile(batch.task, states)[batch.reanalyse]
            planned = self.policy.plan_from(
                k_plan,
                model,
                latents[:states].reshape(-1, latents.shape[-1])[batch.reanalyse],
                ema.context(task, self.suite.action_mask),
                self.suite.discount[task],
                self.config.planner,
                sharding=split(self.config.devices) if self.config.devices > 1 else None,
            )
            parameters = ActingParameters(model, normalizer, state.q_range, state.updates)
            reanalysed = self.policy.search_targets(planned, parameters, task)
            searched = searched.at[batch.reanalyse].set(True)

        def with_reanalysed(old: Array, new: Array) -> Array:
            renewed = old.astype(new.dtype).at[batch.reanalyse].set(new)
            return renewed.reshape(states, -1, *old.shape[1:])

        searches: Searches = jax.tree.map(with_reanalysed, stored, reanalysed)
        searched = searched.reshape(states, -1)
        search_value = normalizer.scaled(searches.value, batch.task)
        q_spread = normalizer.scaled(searches.q_spread, batch.task)
        best_known = jnp.where(searched, search_value, value)
        if config.value_target == "search":
            value = best_known
        elif config.value_target == "mixed":
            value = mixed_value(
                value,
                best_known,
                batch.age,
                state.updates,
                after_updates=config.mixed.after_updates,
                older_than=config.mixed.older_than,
            )
        if config.mve.weight:
            imagined = expanded_value(ema, latents[:states], context, discount, config.mve.horizon)
            share = config.mve.weight * (state.updates >= config.mve.after_updates)
            value = (1.0 - share) * value + share * imagined
        over = batch.terminated & (jnp.arange(len(value))[:, None] >= batch.length)
        return Targets(
            value=jnp.where(over, 0.0, value),
            policy=moments(searches.actions, searches.weights),
            peak=searches.weights.max(-1),
            searched=searched,
            latent=latents[1:states],
            q=returns(config.q.n_step, config.q.target) if config.q.weight else None,
            q_spread=task_means(q_spread, searched, batch.task, state.q_range),
            reanalysed=reanalysed,
        )

    def updates(
        self,
        state: LearnerState,
        normalizer: Normalizer,
        batches: Batch,
        targets: Targets,
        times: int,
    ) -> tuple[LearnerState, dict[str, Array], Float[Array, " samples"]]:
        """Takes ``times`` gradient steps with the batches in turn. ``batches`` concatenates them along the batch axis.

        Returns the state, each step's figures, and new priorities of all samples. If any loss or gradient is not
        finite, the given state is returned and no step counts.
        """
        size = self.config.optimizer.batch_size
        drawn = batches.task.shape[0] // size
        turn = np.arange(times) % drawn

        def in_turn(axis: int, arrays: Any) -> Any:
            """Maps (..., drawn * size, ...) to (times, ..., size, ...). Arrays without a batch axis are repeated."""

            def part(x: Array) -> Array:
                if axis == WHOLE:
                    return jnp.broadcast_to(x, (times, *x.shape))
                parts = x.reshape(*x.shape[:axis], drawn, size, *x.shape[axis + 1 :])
                return jnp.moveaxis(parts, axis, 0)[turn]

            return jax.tree.map(part, arrays)

        def step(state: LearnerState, parts: tuple[Batch, Targets]) -> tuple[LearnerState, Any]:
            state, figures, priority = self.update(state, normalizer, *parts)
            return state, (figures, priority)

        turns = (
            Batch(*map(in_turn, BATCH_AXIS, batches)),
            Targets(*map(in_turn, TARGET_AXIS, targets)),
        )
        after, (figures, priority) = jax.lax.scan(step, state, turns)
        finite = jnp.isfinite(figures["loss/total"]) & jnp.isfinite(figures["gradient_norm"])
        good = finite.all()
        kept = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), _numbers(after), _numbers(state)
        )
        last = times - 1 - (times - 1 - np.arange(drawn)) % drawn  # of each batch's turns
        return eqx.combine(kept, state), figures, priority[last].reshape(-1)

    def update(
        self, state: LearnerState, normalizer: Normalizer, batch: Batch, targets: Targets
    ) -> tuple[LearnerState, dict[str, Array], Float[Array, " batch"]]:
        """Takes one gradient step and returns the new state, logged figures and new priorities of the batch."""
        import optax

        config = self.config
        observation = normalizer(batch.observation[: config.loss.unroll + 1], batch.task)
        discount = self.suite.discount[batch.task]
        precision = fast_precision(config.precision)
        reward = normalizer.scaled(batch.reward, batch.task)
        log_temperature = state.log_temperature
        temperature = None if log_temperature is None else jnp.exp(log_temperature)

        def loss(model: WorldModel) -> Any:
            model = with_products(training(model), precision)
            return unrolled_loss(
                model,
                observation,
                batch._replace(reward=reward),
                targets,
                model.context(batch.task, self.suite.action_mask),
                discount,
                config.loss,
                jax.random.fold_in(jax.random.fold_in(state.key, _ACTOR_KEY), state.updates),
                temperature,
            )

        (_, aux), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(state.model)
        of_parameters = without_statistics(gradient)
        trained = eqx.filter(state.model, eqx.is_inexact_array)
        change, optimizer = self.optimizer.update(of_parameters, state.optimizer, trained)
        model = with_statistics(eqx.apply_updates(state.model, change), state.model, gradient)
        ema = optax.incremental_update(model, state.ema, config.optimizer.ema)
        # A plain mean over the first updates, then a moving average.
        rate = jnp.maximum(1.0 / (state.updates + 1), _Q_RANGE_RATE)
        q_range = state.q_range + rate * (targets.q_spread - state.q_range)
        real = aux.decides
        figures = {
            **{f"loss/{name}": part for name, part in aux.parts.items()},
            "gradient_norm": optax.tree.norm(of_parameters),
            "target/value": normalizer.in_task_units(targets.value, batch.task).mean(where=real),
            "target/searched": targets.searched.mean(where=real),
            "target/policy_peak": targets.peak.mean(where=targets.searched),
            "target/q_range": normalizer.in_task_units(q_range, jnp.arange(len(q_range))).mean(),
        }
        if targets.q is not None:
            q = normalizer.in_task_units(targets.q, batch.task)
            figures["target/q"] = q.mean(where=real)
        if config.loss.reward_scaling:
            figures["clipped/value"] = _clipped(targets.value, model.value_support)
            figures["clipped/reward"] = _clipped(reward, model.reward_support)
        if log_temperature is not None and temperature is not None:
            assert config.loss.actor.target_spread is not None
            target = jnp.log(config.loss.actor.target_spread)
            otherwise = jnp.full_like(temperature, target)
            log_std = task_means(aux.log_std, aux.decides, batch.task, otherwise)
            short = jnp.clip(target - log_std, -1.0, 1.0)
            log_temperature = log_temperature + _TEMPERATURE_RATE * short
            figures["temperature"] = temperature.mean()
        if config.loss.actor.weight:
            figures["policy_std"] = jnp.exp(aux.log_std.mean(where=aux.decides))
        after = LearnerState(
            model, ema, optimizer, q_range, log_temperature, state.updates + 1, state.key
        )
        return after, figures, normalizer.in_task_units(aux.priority, batch.task)


def _clipped(x: Array, support: Support) -> Float[Array, ""]:
    """Returns the share of numbers outside of a support."""
    return ((x < support.low) | (x > support.high)).mean()


def _numbers(state: LearnerState) -> LearnerState:
    """Returns the numeric arrays of a state, without the key, which no update changes."""
    return eqx.filter(state, lambda x: eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.number))


def discounts(
    discount: float | None, episode_steps: list[int | None]
) -> Float[np.ndarray, " tasks"]:
    """Returns each task's discount: the given discount, or 1 - 10 / episode length within [0.95, 0.995].

    A task with episodes of unknown length gets 0.99.
    """
    if discount is not None:
        return np.full(len(episode_steps), discount, np.float32)
    lengths = [steps or 1_000 for steps in episode_steps]
    return np.clip([1.0 - 10.0 / n for n in lengths], 0.95, 0.995).astype(np.float32)


def supports(
    config: TrainConfig,
    reward_ranges: list[tuple[float, float] | None],
    discount: Float[np.ndarray, " tasks"],
) -> tuple[Support, Support]:
    """Returns the value and reward supports, from the configured ranges or the tasks' rewards and discounts.

    With ``loss.reward_scaling`` both are linear and fixed, see :class:`ezm.agent.learning.normalizer.ReturnScale`.

    A derived range of the value has the bounds reward / (1 - discount). Derived ranges are widened by a tenth at both
    ends. If any task does not declare its rewards, the published range [-299, 299] replaces derived ranges.
    """
    model = config.model
    if config.loss.reward_scaling:
        fixed = Support(-LARGEST_RETURN, LARGEST_RETURN, model.bins, "linear")
        return fixed, fixed
    known = [r for r in reward_ranges if r is not None]
    value, reward = model.value_range, model.reward_range
    if len(known) < len(reward_ranges):
        value, reward = value or (-299.0, 299.0), reward or (-299.0, 299.0)
    if reward is None:
        reward = _padded(min(r[0] for r in known), max(r[1] for r in known))
    if value is None:
        horizon = 1.0 / (1.0 - discount)
        low = min(r[0] * n for r, n in zip(known, horizon, strict=True))
        high = max(r[1] * n for r, n in zip(known, horizon, strict=True))
        value = _padded(float(low), float(high))
    return (
        Support(*value, model.bins, model.scalar_transform),
        Support(*reward, model.bins, model.scalar_transform),
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.1 * (high - low) or 1.0  # a reward that never changes still needs bins
    return low - margin, high + margin
