"""Top rung of the ladder: a point mass is brought to its goal, by one whole training run."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from ezm.config.presets import PRESETS
from ezm.training.session import train

STEPS = 50


class PointMass(gymnasium.Env):
    """A mass on a line, pushed to 0: reward 1 there, less with the distance; starts anywhere at rest."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    reward_range = (0.0, 1.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position, self.velocity = self.np_random.uniform(-1.0, 1.0), 0.0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.velocity = 0.8 * self.velocity + 0.1 * float(np.clip(action[0], -1.0, 1.0))
        self.position = float(np.clip(self.position + self.velocity, -1.5, 1.5))
        reward = float(np.exp(-((self.position / 0.3) ** 2)))
        return self._observation(), reward, False, False, {}

    def _observation(self) -> np.ndarray:
        return np.float32([self.position, self.velocity])


def make() -> gymnasium.Env:
    """The factory that the suite names."""
    return gymnasium.wrappers.TimeLimit(PointMass(), STEPS)


def controlled(start: float, stiffness: float, damping: float) -> float:
    """Return of a PD controller from one start."""
    environment = PointMass()
    environment.reset(seed=0)
    environment.position, total = start, 0.0
    for _ in range(STEPS):
        force = -stiffness * environment.position - damping * environment.velocity
        total += environment.step(np.array([force]))[1]
    return total


def optimum() -> float:
    """Mean over the starts of what the best controller reaches there."""
    gains = [(k, d) for k in (3.0, 6.0, 10.0, 20.0) for d in (4.0, 8.0, 15.0, 30.0)]
    starts = np.linspace(-1.0, 1.0, 21)
    return float(np.mean([max(controlled(x, *gain) for gain in gains) for x in starts]))


@pytest.mark.slow
def test_point_mass_is_solved_to_95_percent_of_its_optimum(
    tmp_path: Path,
) -> None:
    cpu = PRESETS["cpu"]
    config = replace(
        cpu,
        suite=f"{__name__}:make",
        steps=2_000,
        random_steps=200,
        updates_per_step=2.0,
        evaluate_every=10_000,
        checkpoint_every=10_000,
        final_episodes=20,
        model=replace(cpu.model, latent_size=32, task_embedding_size=4),
    )
    folder = tmp_path / "run"
    before = time.process_time()
    assert train(config, folder)
    # Processor time, of two cores for two minutes: a busy machine does not make the method slower.
    assert time.process_time() - before < 2 * 120
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = {row["mode"]: row["mean"] for row in rows if row["kind"] == "eval"}
    best = optimum()
    assert final["random"] < 0.6 * best
    assert final["search"] > 0.95 * best, final
