"""HumanoidBench's tasks, ``hb:h1-walk``. The name may end in ``?protocol=paper`` and ``&meshes=DIR``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np

from ezm.tasks.humanoid_bench import catalog
from ezm.tasks.humanoid_bench.batch import Batch
from ezm.tasks.humanoid_bench.environment import Environment
from ezm.tasks.humanoid_bench.models import PHYSICS_STEPS, hold_action
from ezm.tasks.humanoid_bench.views import following
from ezm.tasks.rendering import Scene
from ezm.tasks.simulator import RawStep


def with_options(name: str, protocol: str, meshes: str | None) -> str:
    """Appends the options that differ from the defaults to ``name``.

    Raises:
        UserError: an unknown protocol.
    """
    options = {}
    if catalog.check_protocol(protocol) != catalog.PROTOCOLS[0]:
        options["protocol"] = protocol
    if meshes is not None:
        options["meshes"] = str(Path(meshes).resolve())
    return f"{name}?{urlencode(options)}" if options else name


def under_protocol(name: str, protocol: str) -> str:
    """Replaces the protocol in ``name`` and keeps its other options.

    Raises:
        UserError: an unknown protocol.
    """
    bare, _, query = name.partition("?")
    return with_options(bare, protocol, dict(parse_qsl(query)).get("meshes"))


def protocol_of(name: str) -> str:
    """Returns the protocol of a name with its options."""
    return dict(parse_qsl(name.partition("?")[2])).get("protocol", catalog.PROTOCOLS[0])


class HumanoidBenchSimulator:
    """One environment of HumanoidBench (see :class:`ezm.tasks.simulator.Simulator`).

    Args:
        source: as above, without the prefix.
        seed: at least 0.

    Raises:
        UserError: an unknown task or protocol, or missing meshes.
    """

    can_restore = True
    episode_limit: int | None = catalog.EPISODE_STEPS
    threads_pay = True

    def __init__(self, source: str, seed: int) -> None:
        name, _, query = source.partition("?")
        options = dict(parse_qsl(query))
        protocol = protocol_of(source)
        meshes = Path(options["meshes"]) if "meshes" in options else None
        self.environment = Environment(name, seed, protocol, meshes)
        self._alone = Batch([self.environment])
        layout = self.environment.layout
        self.action_size = layout.action_size
        self.observation_size = layout.observation_size
        self.step_seconds = PHYSICS_STEPS * float(layout.model.opt.timestep)
        self.reward_range: tuple[float, float] | None = catalog.ENTRIES[layout.task].reward_range
        self.neutral_action: tuple[float, ...] | None = tuple(map(float, hold_action(layout.model)))

    def reset(self) -> np.ndarray:
        return self._alone.reset()[0].copy()

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        return step_together([self], [action], [repeat], self._alone)[0]

    def snapshot(self) -> object:
        return self.environment.snapshot()

    def restore(self, snapshot: object) -> None:
        self.environment.restore(snapshot)

    def shared(self) -> dict[str, object]:
        return {}

    def view(self) -> Scene:
        here, layout = self.environment, self.environment.layout
        camera = following(layout.task, here.data.xpos[layout.pelvis])
        goal = here.goal if layout.is_reach else None
        return Scene(here.model, here.data, camera, layout.torso, goal)

    def close(self) -> None:
        self._alone.close()


def step_together(
    simulators: Sequence[HumanoidBenchSimulator],
    actions: Sequence[np.ndarray],
    repeats: Sequence[int],
    batch: Batch,
) -> list[RawStep]:
    """Returns each simulator's outcome of :meth:`HumanoidBenchSimulator.step`, with one batched call for each
    repetition.

    Args:
        batch: the batch of exactly these simulators' environments.
    """
    padded = np.zeros((len(simulators), batch.action_size), np.float32)
    for row, action in zip(padded, actions, strict=True):
        row[: len(action)] = action
    rewards = np.zeros(len(simulators))
    running = np.ones(len(simulators), bool)
    for repetition in range(max(repeats)):
        running &= np.array(repeats) > repetition
        batch.step(padded, running)
        rewards[running] += batch.reward[running]
        running &= ~batch.terminated
    return [
        RawStep(
            batch.observation[index, : simulator.observation_size].copy(),
            float(rewards[index]),
            bool(batch.terminated[index]),
            False,
        )
        for index, simulator in enumerate(simulators)
    ]
