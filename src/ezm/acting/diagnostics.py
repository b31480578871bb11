"""The decisive diagnostic: does the agent rank the actions of a state as the simulator does?

Planning helps only if the order of Q over the sampled actions agrees with the order of their true returns. The
diagnostic restores states from play in the simulator and tries the planner's own root actions in each. The rank
correlations show which part of the model is the weak link.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.agent.search_policy import ActingParameters, SearchPolicy
from ezm.tasks import Suite, Task
from ezm.tasks.watchdog import guarded

PLAY_STEPS = 100
"""The most steps of an episode after which a state is taken. Shorter episodes allow fewer."""


class Predictions(NamedTuple):
    """The agent's predictions at S states, for K sampled actions each, as JAX or numpy arrays."""

    choice: Any
    """(S,) index of the action that the search chose."""
    actions: Any
    """(S, K, A)."""
    search_q: Any
    """(S, K)."""
    model_q: Any
    """(S, K) r + discount * V(g(s, a)): one step of the model."""
    reward: Any
    """(S, K)."""
    q: Any
    """(S, K) of the Q heads, None where there are none."""


class Outcomes(NamedTuple):
    """The simulator's outcomes of the same actions."""

    reward: Float[np.ndarray, "S K"]
    value: Float[np.ndarray, "S K"]
    """r + discount * V(h(o')): the true step, valued by the agent."""
    returns: Float[np.ndarray, "S K"]
    """Discounted rewards of the action and of the policy's mean after it, over the horizon."""
    tail: Float[np.ndarray, "S K"]
    """Discounted V of the state where the rollout stopped, 0 after a termination."""


Predict = Callable[[np.ndarray], Predictions]
"""``predict(observation (S, O))``."""
React = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``react(observation (S, O)) -> the policy's mean action (S, A), value (S,)``."""


class Diagnostic:
    """Compares an agent's predictions with rollouts in the simulator.

    Args:
        policy: the functions that act.
        suite: the tasks.
        states: S, taken from play with the search, at random times of S episodes.
        horizon: agent steps of a rollout.
        on_hang: called where an environment hangs for the configured ``step_limit``, before the process ends.

    Compiled at the first call, once for all tasks.
    """

    def __init__(
        self,
        policy: SearchPolicy,
        suite: Suite,
        *,
        states: int = 8,
        horizon: int = 60,
        on_hang: Callable[[], None] | None = None,
    ):
        self.suite, self.states, self.horizon = suite, states, horizon
        self._step_limit, self._on_hang = policy.config.step_limit or None, on_hang
        self._discount = np.asarray(policy.suite.discount)

        def predict(
            key: PRNGKeyArray,
            number: Int[Array, ""],
            parameters: ActingParameters,
            observation: Float[Array, "S observation"],
            task: Int[Array, " S"],
        ) -> Predictions:
            k_plan, k_heads = jax.random.split(jax.random.fold_in(key, number))
            search = policy.plan(k_plan, parameters, observation, task).search
            state = (task, *policy.encode(parameters, observation, task))
            tasks, start, context = jax.tree.map(
                lambda x: jnp.broadcast_to(x[:, None], (*search.q_values.shape, *x.shape[1:])),
                state,
            )
            model, normalizer = parameters.model, parameters.normalizer
            latents, logits = model.step(start, search.actions, context)
            reward = model.reward(logits)
            values, _ = model.with_two_heads(k_heads).predict(latents, context)
            value = model.value(values)
            discount = policy.suite.discount[tasks]

            def units(x: Float[Array, "S K"]) -> Float[Array, "S K"]:
                return normalizer.in_task_units(x.T, task).T

            return Predictions(
                choice=(search.actions == search.action[:, None]).all(-1).argmax(-1),
                actions=search.actions,
                search_q=units(search.q_values),
                model_q=units(reward + discount * value),
                reward=units(reward),
                q=None if model.q_heads is None else units(model.q(start, search.actions, context)),
            )

        def react(
            key: PRNGKeyArray,
            parameters: ActingParameters,
            observation: Float[Array, "S observation"],
            task: Int[Array, " S"],
        ) -> tuple[Float[Array, "S action"], Float[Array, " S"]]:
            latent, context = policy.encode(parameters, observation, task)
            model = parameters.model
            values, actions = model.with_two_heads(key).predict(latent, context)
            return actions.mode(), parameters.normalizer.in_task_units(model.value(values), task)

        self._predict, self._react = jax.jit(predict), jax.jit(react)

    def __call__(self, parameters: ActingParameters, task: int, seed: int) -> dict[str, float]:
        """Returns the metrics of one task by name, each a mean over the states, or no metrics if the task cannot be
        restored.

        Rank correlations (Spearman) over the K actions of a state. They are nan where all outcomes of every state are
        equal, as with a sparse reward:

        - ``spearman/search_q``: the search's Q against true returns. Planning rests on it.
        - ``spearman/model_q``: the model's one-step Q against true returns.
        - ``spearman/dynamics``: the model's one-step Q against r + discount * V(h(o')) of the true step. It shows the
          error of reward and dynamics alone.
        - ``spearman/value``: r + discount * V(h(o')) of the true step against true returns. It shows the error of the
          value alone.
        - ``spearman/reward``: predicted against true reward.
        - ``spearman/q``: the Q heads' Q(s, a) against true returns, if there are Q heads.

        Metrics in units of reward and return:

        - ``error/reward``: mean absolute error of the reward.
        - ``bias/search_q``, and ``bias/q`` with Q heads: mean of predicted less true return, including the value at
          the horizon.
        - ``regret/search``: true return of the best sampled action less the return of the search's choice.
        - ``regret/average``: true return of the best sampled action less the return of the average sampled action.

        Args:
            parameters: the agent to examine.
            task: index in the suite.
            seed: of environments and planner, at least 0.
        """
        tasks = [self.suite.make(task, seed + number) for number in range(self.states)]
        index = np.full(self.states, task, np.int32)
        key, numbers = jax.random.key(seed), itertools.count()

        def predict(observation: np.ndarray) -> Predictions:
            number = np.int32(next(numbers))
            return jax.device_get(self._predict(key, number, parameters, observation, index))

        def react(observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return jax.device_get(self._react(key, parameters, observation, index))

        try:
            if not all(each.can_restore for each in tasks):
                return {}
            with guarded(tasks, self._step_limit, self._on_hang):
                observation = self._play(tasks, predict, np.random.default_rng(seed))
                predictions = predict(observation)
                discount = float(self._discount[task])
                outcomes = self._try(tasks, predictions.actions, react, discount)
        finally:
            for each in tasks:
                each.close()
        return summarise(predictions, outcomes)

    def _play(self, tasks: list[Task], predict: Predict, rng: np.random.Generator) -> np.ndarray:
        """Acts with the search, in each environment until its own random time, and returns the observations (S, O)."""
        length = tasks[0].spec.episode_steps or PLAY_STEPS
        latest = max(1, min(PLAY_STEPS, length - self.horizon))
        until = rng.integers(0, latest, self.states)
        observation = np.stack([task.reset() for task in tasks])
        for now in range(until.max()):
            predictions = predict(observation)
            chosen = predictions.actions[np.arange(self.states), predictions.choice]
            for i in np.flatnonzero(until > now):
                step = tasks[i].step(chosen[i])
                over = step.terminated or step.truncated
                observation[i] = tasks[i].reset() if over else step.observation
        return observation

    def _try(
        self, tasks: list[Task], actions: np.ndarray, react: React, discount: float
    ) -> Outcomes:
        """Takes every action in every state, then follows the policy's mean."""
        snapshots = [task.snapshot() for task in tasks]
        outcomes = Outcomes(*(np.zeros(actions.shape[:2]) for _ in Outcomes._fields))
        for k in range(actions.shape[1]):
            for task, snapshot in zip(tasks, snapshots, strict=True):
                task.restore(snapshot)
            action, running = actions[:, k], np.ones(self.states, bool)
            observation = np.zeros((self.states, tasks[0].observation_size), np.float32)
            for t in range(self.horizon):
                acted, bootstrap = running.copy(), np.ones(self.states)
                for i in np.flatnonzero(acted):
                    step = tasks[i].step(action[i])
                    observation[i] = step.observation
                    outcomes.returns[i, k] += discount**t * step.reward
                    bootstrap[i] = not step.terminated
                    running[i] = not (step.terminated or step.truncated)
                action, value = react(observation)
                outcomes.tail[acted, k] = (discount ** (t + 1) * bootstrap * value)[acted]
                if t == 0:
                    outcomes.reward[:, k] = outcomes.returns[:, k]
                    outcomes.value[:, k] = outcomes.reward[:, k] + outcomes.tail[:, k]
                if not running.any():
                    break
        return outcomes


def summarise(predictions: Predictions, outcomes: Outcomes) -> dict[str, float]:
    """Computes the metrics of :class:`Diagnostic` from predictions and outcomes."""
    returns = outcomes.returns
    correlations = {
        "search_q": (predictions.search_q, returns),
        "model_q": (predictions.model_q, returns),
        "dynamics": (predictions.model_q, outcomes.value),
        "value": (outcomes.value, returns),
        "reward": (predictions.reward, outcomes.reward),
    }
    biases = {"search_q": predictions.search_q}
    if predictions.q is not None:
        correlations["q"] = predictions.q, returns
        biases["q"] = predictions.q
    best = returns.max(1)
    chosen = returns[np.arange(len(returns)), predictions.choice]
    found = {f"spearman/{name}": spearman(*pair) for name, pair in correlations.items()}
    found["error/reward"] = np.abs(predictions.reward - outcomes.reward).mean()
    found |= {f"bias/{name}": (q - returns - outcomes.tail).mean() for name, q in biases.items()}
    found["regret/search"] = (best - chosen).mean()
    found["regret/average"] = (best - returns.mean(1)).mean()
    return {name: float(value) for name, value in found.items()}


def spearman(predicted: Float[np.ndarray, "S K"], true: Float[np.ndarray, "S K"]) -> float:
    """Returns Spearman's rank correlation of each row, averaged over rows. Ties share their mean rank.

    A constant prediction ranks nothing and counts as 0. Rows with constant truth have nothing to rank and are left
    out. Without any other row the result is nan.
    """
    from scipy.stats import rankdata

    rows = np.ptp(true, axis=1) > 0
    if not rows.any():
        return float("nan")
    ranks = [rankdata(each[rows], axis=1) for each in (predicted, true)]
    a, b = (each - each.mean(1, keepdims=True) for each in ranks)
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return float(((a * b).sum(1) / np.where(spread > 0, spread, 1.0)).mean())
