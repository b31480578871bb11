"""The tasks as Gymnasium environments, one (``gymnasium.make``) or many (``gymnasium.make_vec``).

>>> import gymnasium, ezm
>>> environment = gymnasium.make("ezm/h1-walk-v0")
>>> many = gymnasium.make_vec("ezm/h1-walk-v0", num_envs=16, threads=2)

A process that has not imported ezm, such as a spawned worker of ``AsyncVectorEnv``, uses the name
``ezm:ezm/h1-walk-v0``, which imports ezm. Copies and pickles continue from the state in which they were made.
"""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ezm.errors import UserError
from ezm.tasks.humanoid_bench.batch import Batch
from ezm.tasks.humanoid_bench.catalog import EPISODE_STEPS, parse
from ezm.tasks.humanoid_bench.environment import Environment, Layout
from ezm.tasks.rendering import Renderer, check_size

_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}


class _Drawn:
    """Draws environments of one model. A copy draws with a renderer of its own."""

    _size = (640, 480)
    _camera: str | None = None
    _renderer: Renderer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_renderer": None}

    def _picture(self, environment: Environment) -> np.ndarray:
        if self._renderer is None:
            self._renderer = Renderer(environment.model, *self._size)
        return environment.picture(self._renderer, self._camera)

    def _free(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class HumanoidEnv(_Drawn, gymnasium.Env):
    """One environment. ``info`` holds the terms of the reward by name.

    Args:
        task: robot and task, e.g. ``h1-walk``.
        protocol: ``benchmark``: falls end an episode. ``paper``: they do not.
        meshes: a folder with the robots' meshes, which the robots then collide as. None: they collide as primitives.
        render_mode: None, or ``rgb_array``.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        camera: name of a camera in the model. None: the task's own.

    Raises:
        UserError: an unknown task, protocol or render mode, missing meshes, or a size below 1.
    """

    metadata = _METADATA

    def __init__(
        self,
        task: str,
        protocol: str = "benchmark",
        meshes: str | None = None,
        render_mode: str | None = None,
        width: int = 640,
        height: int = 480,
        camera: str | None = None,
    ) -> None:
        self._batch = Batch.of([task], protocol=protocol, meshes=meshes)
        self._environment = self._batch.environments[0]
        self.embodiment = parse(task)[0]
        self.render_mode = _checked_mode(render_mode)
        self.observation_space, self.action_space = _spaces(self._environment.layout)
        check_size(width, height)
        self._size, self._camera = (width, height), camera

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode. A seed fixes all randomness from here on, including goals and poses."""
        super().reset(seed=None if seed is None else operator.index(seed))
        self._environment.random = self.np_random
        return self._batch.reset()[0].copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one control step, 20 ms. It never truncates: ``gymnasium.make`` adds the limit of 1000 steps.

        Raises:
            UserError: an action of another size, or an action that is not finite.
        """
        self._batch.step(np.asarray(action)[None])
        info = {name: float(values[0]) for name, values in self._batch.terms[0].items()}
        ended = bool(self._batch.terminated[0])
        return self._batch.observation[0].copy(), float(self._batch.reward[0]), ended, False, info

    def render(self) -> np.ndarray | None:
        """Returns a picture, (height, width, 3) uint8, or None without a render mode.

        Raises:
            UserError: no library can draw.
        """
        return self._picture(self._environment) if self.render_mode else None

    def close(self) -> None:
        """Frees the renderer."""
        self._free()


class HumanoidVectorEnv(_Drawn, VectorEnv):
    """N environments of one task, stepped together. When an episode ends, the next one begins by itself.

    In the mode ``SameStep`` the next episode begins in the same step. The entries ``info["final_obs"]`` and
    ``info["final_info"]`` then hold the last observation and info of the old episode. In the mode ``NextStep`` the
    next step begins the episode, ignores its action and returns reward 0. Gymnasium's ``NormalizeObservation`` needs
    this mode. The terms of the reward are arrays (N,) in ``info``. Each has a mask, named like the term with an
    underscore in front.

    Args:
        task: as for :class:`HumanoidEnv`.
        num_envs: N.
        protocol: as for :class:`HumanoidEnv`.
        meshes: as for :class:`HumanoidEnv`.
        render_mode: as for :class:`HumanoidEnv`.
        threads: number of threads that step the environments.
        max_episode_steps: control steps until truncation.
        autoreset_mode: ``SameStep`` or ``NextStep``.

    Raises:
        UserError: as for :class:`HumanoidEnv`, a number below 1, or another mode.
    """

    metadata = _METADATA

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        protocol: str = "benchmark",
        meshes: str | None = None,
        render_mode: str | None = None,
        threads: int = 1,
        max_episode_steps: int = EPISODE_STEPS,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> None:
        for option, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if value < 1:
                raise UserError(f"{option}={value}: must be at least 1")
        modes = {AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP}
        mode = next((mode for mode in modes if autoreset_mode in (mode, mode.value)), None)
        if mode is None:
            raise UserError(f"autoreset_mode={autoreset_mode!r}: choose 'SameStep' or 'NextStep'")
        self._at_once = mode is AutoresetMode.SAME_STEP
        self.metadata = _METADATA | {"autoreset_mode": mode}
        self.num_envs = num_envs
        self.render_mode = _checked_mode(render_mode)
        self._batch = Batch.of([task] * num_envs, protocol=protocol, meshes=meshes, threads=threads)
        layout = self._batch.environments[0].layout
        self.single_observation_space, self.single_action_space = _spaces(layout)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._limit = max_episode_steps
        self._lengths = np.zeros(num_envs, int)
        self._waiting = np.zeros(num_envs, bool)
        """(N,) bool: whether the next step begins an episode."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins episodes everywhere. If ``seed`` is a number, environment i gets the seed ``seed + i``."""
        if seed is None:
            seed = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seed = [int(seed) + index for index in range(self.num_envs)]
        for environment, own in zip(self._batch.environments, seed, strict=True):
            if own is not None:
                environment.random = gymnasium.utils.seeding.np_random(operator.index(own))[0]
        self._lengths[:], self._waiting[:] = 0, False
        return self._batch.reset().copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one control step, 20 ms, everywhere.

        Raises:
            UserError: actions of another shape, or actions that are not finite.
        """
        moving = ~self._waiting
        self._batch.step(np.asarray(actions), moving)
        self._begin(self._waiting)
        self._lengths += moving
        reward, terminated = self._batch.reward * moving, self._batch.terminated & moving
        truncated = (self._lengths >= self._limit) & ~terminated
        ended = terminated | truncated
        terms = self._batch.terms[0]
        info = _with_masks(terms, ~ended if self._at_once else moving)
        if not self._at_once:
            self._waiting = ended
        elif ended.any():
            final = np.empty(self.num_envs, object)
            for index in np.flatnonzero(ended):
                final[index] = self._batch.observation[index].copy()
            last = {"final_obs": final, "final_info": _with_masks(terms, ended)}
            info |= _with_masks(last, ended)
            self._begin(ended)
        return self._batch.observation.copy(), reward, terminated, truncated, info

    def _begin(self, which: np.ndarray) -> None:
        self._batch.reset(np.flatnonzero(which))
        self._lengths[which] = 0

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns N pictures (480, 640, 3) uint8, or None without a render mode.

        Raises:
            UserError: no library can draw.
        """
        environments = self._batch.environments
        return tuple(map(self._picture, environments)) if self.render_mode else None

    def close_extras(self, **kwargs: Any) -> None:
        """Stops the threads and frees the renderer."""
        self._batch.close()
        self._free()


def _spaces(layout: Layout) -> tuple[spaces.Box, spaces.Box]:
    return (
        spaces.Box(-np.inf, np.inf, (layout.observation_size,), np.float64),
        spaces.Box(-1, 1, (layout.action_size,), np.float32),
    )


def _with_masks(values: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Adds a mask to each entry: the rows that it is about, as in Gymnasium's vector environments."""
    return {**values, **{f"_{name}": rows.copy() for name in values}}


def _checked_mode(render_mode: str | None) -> str | None:
    if render_mode not in (None, "rgb_array"):
        raise UserError(f"render_mode {render_mode!r}: unknown; choose None or 'rgb_array'")
    return render_mode
