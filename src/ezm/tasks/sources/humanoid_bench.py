"""HumanoidBench's tasks, ``hb:h1-walk``. The name may end in ``?protocol=paper`` and ``&meshes=DIR``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.humanoid_bench.batch import Batch
from ezm.tasks.humanoid_bench.environment import Environment
from ezm.tasks.humanoid_bench.models import PHYSICS_STEPS, hold_action
from ezm.tasks.humanoid_bench.views import following
from ezm.tasks.rendering import Scene
from ezm.tasks.simulator import RawStep, Simulator


class HumanoidBenchSimulator(Simulator):
    """One environment of HumanoidBench.

    Args:
        source: as above, without the prefix.
        seed: at least 0.
        pictures: whether it will be drawn, which MuJoCo need not know.

    Raises:
        UserError: an unknown task or protocol, or missing meshes.
    """

    episode_limit = catalog.EPISODE_STEPS
    threads_pay = True

    def __init__(self, source: str, seed: int, pictures: bool = False) -> None:
        name, _, query = source.partition("?")
        options = dict(parse_qsl(query))
        protocol, meshes = options.get("protocol", catalog.PROTOCOLS[0]), options.get("meshes")
        self.environment = Environment(name, seed, protocol, Path(meshes) if meshes else None)
        layout = self.environment.layout
        self.embodiment = catalog.parse(name)[0]
        self.action_size, self.observation_size = layout.action_size, layout.observation_size
        self.step_seconds = PHYSICS_STEPS * float(layout.model.opt.timestep)
        self.reward_range = catalog.ENTRIES[layout.task].reward_range
        self.neutral_action = tuple(map(float, hold_action(layout.model)))
        self._alone = HumanoidBenchStepper([self])

    def reset(self) -> np.ndarray:
        return self._alone.batch.reset()[0].copy()

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        return self._alone.step([action], [repeat])[0]

    def snapshot(self) -> object:
        return self.environment.snapshot()

    def restore(self, snapshot: object) -> None:
        self.environment.restore(snapshot)

    def view(self) -> Scene:
        here, layout = self.environment, self.environment.layout
        camera = following(layout.task, here.data.xpos[layout.pelvis])
        goal = here.goal if layout.is_reach else None
        return Scene(here.model, here.data, camera, layout.torso, goal)

    def close(self) -> None:
        self._alone.close()


class HumanoidBenchStepper:
    """Steps HumanoidBench's simulators, with one batched call for each repetition of their actions.

    Args:
        simulators: all of HumanoidBench.
        threads: at least 1.
    """

    def __init__(self, simulators: Sequence[HumanoidBenchSimulator], threads: int = 1) -> None:
        self._sizes = [simulator.observation_size for simulator in simulators]
        self.batch = Batch([simulator.environment for simulator in simulators], threads)

    def step(self, actions: Sequence[np.ndarray], repeats: Sequence[int]) -> list[RawStep]:
        batch, count = self.batch, len(self._sizes)
        padded = np.zeros((count, batch.action_size), np.float32)
        for row, action in zip(padded, actions, strict=True):
            row[: len(action)] = action
        rewards = np.zeros(count)
        running = np.ones(count, bool)
        for repetition in range(max(repeats)):
            running &= np.array(repeats) > repetition
            batch.step(padded, running)
            rewards[running] += batch.reward[running]
            running &= ~batch.terminated
        outcomes = zip(self._sizes, rewards.tolist(), batch.terminated.tolist(), strict=True)
        return [
            RawStep(batch.observation[index, :size].copy(), reward, ended, False)
            for index, (size, reward, ended) in enumerate(outcomes)
        ]

    def close(self) -> None:
        self.batch.close()
