"""The agent's view of a state: the search's values of its candidates, and the paths that the world model imagines."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.agent import Agent
from ezm.agent.search_policy import ActingParameters

Mode = Literal["search", "policy"]


class PlanTrace(NamedTuple):
    """The search's result at one observation, with K candidates, as numpy arrays."""

    action: Float[np.ndarray, " A"]
    """The action that the agent will take."""
    value: float
    """The search's value of the state: the discounted return that it expects from here."""
    actions: Float[np.ndarray, "K A"]
    q: Float[np.ndarray, " K"]
    """The search's value of each candidate."""
    visits: Int[np.ndarray, " K"]


class Paths(NamedTuple):
    """K imagined paths of T steps, as numpy arrays."""

    actions: Float[np.ndarray, "K T A"]
    rewards: Float[np.ndarray, "K T"]


class PlanInspector:
    """Runs an agent's search and its world model at single states. Compiled at the first call, once for all tasks.

    Args:
        agent: a trained agent.
        mode: act on the search's best action, or on the policy's mean. The search runs in both modes.
        seed: of the search's samples, at least 0.
    """

    def __init__(self, agent: Agent, mode: Mode = "search", seed: int = 0) -> None:
        self.agent, self.mode = agent, mode
        self._key = jax.random.key(seed)
        self._parameters = agent.parameters
        self.steps = 0
        acting = agent.learner.policy
        config = acting.config.planner.evaluating()

        def think(
            key: PRNGKeyArray,
            step: Int[Array, ""],
            parameters: ActingParameters,
            observation: Float[Array, "1 observation"],
            task: Int[Array, " 1"],
        ) -> tuple[Array, ...]:
            key = jax.random.fold_in(key, step)
            search, policy, _ = acting.plan(key, parameters, observation, task, config)
            action = search.action if mode == "search" else policy.mode()
            units = parameters.normalizer.in_task_units
            value, q = units(search.value, task), units(search.q_values.T, task).T
            return action, value, search.actions, q, search.visits

        def imagine(
            steps: int,
            key: PRNGKeyArray,
            parameters: ActingParameters,
            observation: Float[Array, "1 observation"],
            task: Int[Array, " 1"],
            actions: Float[Array, "K action"],
        ) -> tuple[Array, Array]:
            state = task, *acting.encode(parameters, observation, task)
            tasks, latents, context = jax.tree.map(lambda x: x.repeat(len(actions), 0), state)
            model, normalizer = parameters.model, parameters.normalizer
            heads = model.with_two_heads(key)

            def step(now: tuple[Array, Array], nothing: None) -> tuple[tuple[Array, Array], Any]:
                latents, action = now
                latents, logits = model.step(latents, action, context)
                _, policy = heads.predict(latents, context)
                reward = normalizer.in_task_units(model.reward(logits), tasks)
                return (latents, policy.mode()), (action, reward)

            taken, rewards = jax.lax.scan(step, (latents, actions), None, steps)[1]
            return taken.swapaxes(0, 1), rewards.swapaxes(0, 1)

        self._inspect = jax.jit(think)
        self._imagine = jax.jit(imagine, static_argnums=0)

    def inspect(self, observation: np.ndarray, task: int) -> PlanTrace:
        """Searches at an observation (O,) of a task of the agent's suite."""
        self.steps += 1
        found = self._inspect(self._key, np.int32(self.steps), *self._state(observation, task))
        action, value, actions, q, visits = (np.asarray(each)[0] for each in found)
        return PlanTrace(action, float(value), actions, q, visits)

    def imagine(self, observation: np.ndarray, task: int, actions: np.ndarray, steps: int) -> Paths:
        """Imagines ``steps`` steps in the world model: first each of the actions (K, A), then the policy's mean."""
        state = self._state(observation, task)
        found = self._imagine(steps, self._key, *state, np.asarray(actions, np.float32))
        return Paths(*map(np.asarray, found))

    def _state(self, observation: np.ndarray, task: int) -> tuple[Any, ...]:
        return (self._parameters, observation[None], np.array([task], np.int32))
