"""Acting: from observations and parameters to a search, an action, and the part of the search that is learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.agent.batch import Searches
from ezm.agent.learning.normalizer import Normalizer
from ezm.agent.learning.targets import best_alone, policy_weights
from ezm.agent.planning import Plan, log_importance, plan
from ezm.agent.world_model import Context, WorldModel
from ezm.config import PlannerConfig, TrainConfig


class ActingParameters(eqx.Module):
    """All that acting reads of a learning agent, as one pytree. An actor anywhere needs nothing else.

    ``q_range`` and ``updates`` serve :meth:`SearchPolicy.search_targets`. An agent that only acts has None there.
    """

    model: WorldModel
    normalizer: Normalizer
    q_range: Float[Array, " tasks"] | None = None
    """Typical spread of Q over the root actions, per task."""
    updates: Int[Array, ""] | None = None
    """Number of updates that the learner has made."""


@dataclass(frozen=True, eq=False)
class SuiteArrays:
    """The arrays of a suite that targets and losses use."""

    action_mask: Float[Array, "tasks action"]
    discount: Float[Array, " tasks"]


@dataclass(frozen=True, eq=False)
class SearchPolicy:
    """The pure functions that act, of one configuration on one suite."""

    suite: SuiteArrays
    config: TrainConfig
    plan_from = staticmethod(plan)
    """Searches from latent states. A subclass may search in another way, as the benchmarks' oracle does."""

    def encode(
        self,
        parameters: ActingParameters,
        observation: Float[Array, "batch observation"],
        task: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch latent"], Context]:
        """Returns the latent states of raw observations, and the contexts of their tasks."""
        context = parameters.model.context(task, self.suite.action_mask)
        normalised = parameters.normalizer(observation, task)
        return parameters.model.represent(normalised, context), context

    def plan(
        self,
        key: PRNGKeyArray,
        parameters: ActingParameters,
        observation: Float[Array, "batch observation"],
        task: Int[Array, " batch"],
        config: PlannerConfig | None = None,
        **options: Any,
    ) -> Plan:
        """Searches from raw observations.

        ``config`` replaces the run's planner. :func:`ezm.agent.planning.plan` explains the ``options``.
        """
        latent, context = self.encode(parameters, observation, task)
        config = self.config.planner if config is None else config
        discount = self.suite.discount[task]
        return self.plan_from(key, parameters.model, latent, context, discount, config, **options)

    def sample(
        self,
        key: PRNGKeyArray,
        parameters: ActingParameters,
        observation: Float[Array, "batch observation"],
        task: Int[Array, " batch"],
    ) -> Float[Array, "batch action"]:
        """Returns a sample of the policy at raw observations, without a search."""
        latent, context = self.encode(parameters, observation, task)
        return parameters.model.predict(latent, context)[1].one(key)

    def search_targets(
        self, planned: Plan, parameters: ActingParameters, task: Int[Array, " batch"]
    ) -> Searches:
        """Returns the part of a search that the replay stores: the policy's target, the root's value, the spread of Q.

        Value and spread are in task units, (B,). ``parameters`` must have ``q_range`` and ``updates``.
        """
        assert parameters.q_range is not None and parameters.updates is not None
        search, normalizer = planned.search, parameters.normalizer
        kind = self.config.loss.policy_target
        weights = policy_weights(
            kind,
            search,
            log_importance(planned.policy, search.actions, self.config.planner),
            parameters.q_range[task],
            self._temperature(parameters.updates),
        )
        actions = search.actions
        if kind == "best_action":
            actions, weights = best_alone(actions, weights)
        spread = search.q_values.max(-1) - search.q_values.min(-1)
        value, spread = (normalizer.in_task_units(x, task) for x in (search.value, spread))
        return Searches(actions, weights, value, spread)

    def _temperature(self, updates: Int[Array, ""]) -> Float[Array, ""]:
        loss = self.config.loss
        first, last = loss.policy_temperature, loss.final_policy_temperature
        done = jnp.minimum(updates / self.config.schedule_updates, 1.0)
        return first + done * ((first if last is None else last) - first)
