"""Model-free agents from sbx on the tasks of a suite: SAC, TQC and CrossQ, each with plain networks or with SimBa's.

On one task an agent is as it comes. On several it is one agent that sees a one-hot of the task after the padded
observation, and steps one environment of each task at a time: the plainest way to learn many tasks, and the baseline of most
multi-task work. An action of 0 is each task's neutral action, so that an untrained agent begins at a humanoid's home
pose, as an untrained EZ-M does.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from ezm.acting.evaluate import Evaluator
from ezm.tasks import Suite


@dataclass(frozen=True)
class Settings:
    """The defaults are sbx's own SAC, with two critics, tau 0.005 and a learned entropy coefficient."""

    algorithm: Literal["SAC", "TQC", "CrossQ"] = "SAC"
    policy: Literal["MlpPolicy", "SimbaPolicy"] = "MlpPolicy"
    discount: float = 0.99
    """Per agent step."""
    learning_rate: float = 3e-4
    actor: tuple[int, ...] = (256, 256)
    """Hidden units of each layer, or of each residual block of SimBa."""
    critic: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    learning_starts: int = 100
    """Random steps per task before the first update."""
    normalize_observations: bool = False
    """Running mean and standard deviation of each observation, over all tasks."""


_SIMBA: dict[str, Any] = {
    "policy": "SimbaPolicy",
    "actor": (128,),
    "critic": (128, 128),
    "normalize_observations": True,
}
"""SimBa's blocks (Lee et al. 2024: one of 128 units for the actor, two for the critic) and its normalised observations.
The critic has 128 units instead of 512: with 256, SAC makes 5 steps per second on half a core (AMD EPYC, h1-stand), and
29 with plain networks."""

SETTINGS: dict[str, Settings] = {
    "sac": Settings(),
    "sac-tuned": Settings(learning_rate=1e-3, actor=(128, 128), critic=(128, 128), batch_size=128),
    "sac-simba": Settings(**_SIMBA),
    "tqc": Settings("TQC"),
    "tqc-simba": Settings("TQC", **_SIMBA),
    "crossq": Settings("CrossQ", learning_rate=1e-3, critic=(512, 512)),
    "crossq-simba": Settings("CrossQ", learning_rate=1e-3, **_SIMBA),
}
"""By the name of a method.

``sac-tuned`` has the settings that learned fastest on cartpole swing-up with action repeat 8. Two seeds, return at 4,000 and 6,000 steps,
width 128, batch 256: learning rate 3e-4 310 to 435 and 738 to 778, 1e-3 508 to 715 and 794 to 856. Discounts 0.95, 0.97 and
0.99 were within the spread over seeds. Normalised observations were lower (discount 0.95, at 6,000 steps 741 to 804
instead of 830 to 844). Batch 128 halves the time. Nothing was tuned on walker or on humanoids.

``crossq`` has critics of 512 units where sbx has 1,024, for the time of a step: 11 steps per second on half a core with 512.
"""


class Evaluation(NamedTuple):
    """Where a run stands after ``steps`` agent steps per task."""

    steps: int
    seconds: float
    """Wall clock since the start of the run, compilation and evaluations included."""
    returns: list[list[float]]
    """One list per task of the suite: undiscounted returns of the deterministic policy."""


def from_neutral(action: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """Returns the task's action: 0 becomes the neutral one, -1 and 1 stay, and it is linear in between."""
    return neutral + action * (1.0 - np.sign(action) * neutral)


class TaskEnvironment(gymnasium.Env):
    """A task as sbx wants it; its one-hot is appended if the suite has several."""

    def __init__(self, suite: Suite, task: int, seed: int) -> None:
        self._task = suite.make(task, seed)
        self._one_hot = one_hot(suite)[task]
        self._neutral = suite.neutral_action[task]
        size = suite.observation_size + len(self._one_hot)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (suite.action_size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        # The seed given to the constructor governs all episodes.
        return np.append(self._task.reset(), self._one_hot), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self._task.step(from_neutral(action, self._neutral))
        observation = np.append(step.observation, self._one_hot)
        return observation, step.reward, step.terminated, step.truncated, {}

    def close(self) -> None:
        self._task.close()


def one_hot(suite: Suite) -> np.ndarray:
    """(K, K) float32: what is appended to each task's observations; (1, 0) for a single task."""
    count = suite.num_tasks
    return np.eye(count, dtype=np.float32) if count > 1 else np.zeros((1, 0), np.float32)


def train(
    suite: Suite, seed: int, steps: int, every: int, episodes: int, settings: Settings
) -> Iterator[Evaluation]:
    """Train one agent on all tasks of ``suite``, with one update for each environment step.

    Args:
        suite: the tasks.
        seed: of the agent, its environments and those of the evaluation.
        steps: agent steps per task.
        every: agent steps per task between two evaluations.
        episodes: per task and evaluation, in environments apart from those of the training.
        settings: of the agent.
    """
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    start = time.perf_counter()
    *seeds, evaluation_seed = np.random.SeedSequence(seed).generate_state(suite.num_tasks + 1)
    environments: list[Callable[[], gymnasium.Env]] = [
        partial(TaskEnvironment, suite, task, int(seed)) for task, seed in enumerate(seeds)
    ]
    environment = VecNormalize(
        DummyVecEnv(environments),
        norm_obs=settings.normalize_observations,
        norm_reward=False,
    )
    layers = {"pi": list(settings.actor), "qf": list(settings.critic)}
    agent = getattr(importlib.import_module("sbx"), settings.algorithm)(
        settings.policy,
        environment,
        gamma=settings.discount,
        learning_rate=settings.learning_rate,
        policy_kwargs={"net_arch": layers},
        batch_size=settings.batch_size,
        learning_starts=settings.learning_starts * suite.num_tasks,
        buffer_size=steps * suite.num_tasks,
        train_freq=1,
        gradient_steps=-1,  # as many as environments were stepped
        seed=seed,
    )
    task_codes, neutral = one_hot(suite), suite.neutral_action

    def act(observation: np.ndarray, task: np.ndarray) -> np.ndarray:
        observation = np.concatenate([observation, task_codes[task]], axis=1)
        action = agent.predict(environment.normalize_obs(observation), deterministic=True)[0]
        return from_neutral(action, neutral[task])

    evaluator = Evaluator(suite, episodes, int(evaluation_seed))
    try:
        for done in range(every, steps + 1, every):
            agent.learn(
                every * suite.num_tasks, log_interval=sys.maxsize, reset_num_timesteps=False
            )
            returns = evaluator.run(act, episodes)
            yield Evaluation(done, time.perf_counter() - start, returns)
    finally:
        evaluator.close()
        environment.close()
