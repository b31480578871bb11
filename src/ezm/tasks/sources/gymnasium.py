"""Gymnasium environments with Box observations and actions, ``gym:Id``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from ezm.errors import UserError, nearest
from ezm.tasks.rendering import Scene, tracked_body
from ezm.tasks.simulator import RawStep, Undrawable, unit_to_bounds
from ezm.tasks.sources.gymnasium_state import is_exact, load, save, shared

PICTURES = "rgb_array"
"""Gymnasium's render mode that gives pictures."""
_WRAP = "in a factory of your own (module:function)"
_EXTRAS = {
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.toy_text": "toy-text",
    "gymnasium.envs.phys2d": "jax",
    "gymnasium.envs.tabular": "jax",
    "gymnasium.envs.classic_control": "classic-control",
}
_NAMESPACE_PACKAGES = {"ALE": "ale-py"}


def _own_class(environment: gymnasium.Env) -> str:
    """Returns module and class of the environment inside all wrappers."""
    kind = type(environment.unwrapped)
    return f"{kind.__module__}.{kind.__qualname__}"


class GymnasiumSimulator:
    """A :class:`gymnasium.Env` (see :class:`ezm.tasks.simulator.Simulator`).

    Bounded actions are rescaled from [-1, 1]. Observations of any shape are flattened.

    Args:
        name: of the task, for error messages.
        build: makes the environment. It is called again to test whether the environment can be restored.
        seed: at least 0. The first ``reset`` receives it, and later episodes continue its randomness.
        episode_limit: returns the steps of an episode of an environment, None where they are unknown.
        embodiment: returns the name of an environment's embodiment, where the environment declares none. Default: its
            module and class.

    Raises:
        UserError: spaces that ezm cannot use.
    """

    threads_pay = False

    def __init__(
        self,
        name: str,
        build: Callable[[], gymnasium.Env],
        seed: int,
        episode_limit: Callable[[gymnasium.Env], int | None],
        embodiment: Callable[[gymnasium.Env], str] = _own_class,
    ) -> None:
        self.environment = build()
        self._name, self._build = name, build
        self._seed: int | None = seed % 2**31
        self._restores: bool | None = None
        self._actions = _bounded_box(name, self.environment.action_space)
        self._rescale = unit_to_bounds(self._actions.low, self._actions.high)
        self.action_size = self._actions.low.size
        self.observation_size = _observation_size(name, self.environment.observation_space)
        self.episode_limit = _whole(name, episode_limit(self.environment))
        self.embodiment = _declared_embodiment(name, self.environment) or embodiment(
            self.environment
        )
        self.reward_range = _reward_range(name, self.environment)
        self.neutral_action = _neutral_action(name, self.environment, self._actions)

    def reset(self) -> np.ndarray:
        observation, _ = self.environment.reset(seed=self._seed)
        self._seed = None
        return _flat(observation)

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        space = self._actions
        action = action.reshape(space.shape)
        if self._rescale is not None:
            scale, offset = self._rescale
            action = np.clip(action * scale + offset, space.low, space.high)
        action = action.astype(space.dtype)
        total = 0.0
        for _ in range(repeat):
            observation, reward, terminated, truncated, _ = self.environment.step(action)
            total += _single("the reward", reward)
            terminated = bool(_single("terminated", terminated))
            truncated = bool(_single("truncated", truncated))
            if terminated or truncated:
                break
        return RawStep(_flat(observation), total, terminated, truncated)

    @property
    def can_restore(self) -> bool:
        if self._restores is None:
            self._restores = is_exact(self._build)
        return self._restores

    def snapshot(self) -> object:
        return self._seed, save(self.environment)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, tuple)
        self._seed, saved = snapshot
        load(self.environment, saved)

    def shared(self) -> dict[str, object]:
        return shared(self.environment)

    @property
    def step_seconds(self) -> float:
        """The environment's ``dt``, else the inverse of its ``render_fps``, else 1/30 s."""
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            if 0 < (seconds := float(self.environment.get_wrapper_attr("dt"))) < math.inf:
                return seconds
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if 0 < (rate := float(self.environment.metadata["render_fps"])) < math.inf:
                return 1 / rate
        return 1 / 30

    def view(self) -> Scene | np.ndarray:
        inner = self.environment.unwrapped
        model, data = getattr(inner, "model", None), getattr(inner, "data", None)
        if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
            return Scene(model, data, _camera(model), tracked_body(model))
        if self.environment.render_mode != PICTURES:
            raise Undrawable(
                f"task {self._name} has no pictures: it needs the render mode {PICTURES}, with which "
                "a factory that has a parameter render_mode is called"
            )
        try:
            picture = np.asarray(self.environment.render())
        except Exception as error:
            raise Undrawable(
                f"task {self._name} has no pictures: render() raised {_first_line(error)}"
            ) from error
        if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise Undrawable(
                f"task {self._name} has no pictures: render() returned an array {picture.shape}, it "
                "must be (height, width, 3)"
            )
        return _colours(self._name, picture)

    def close(self) -> None:
        # A failure to close must not end a run that goes well.
        with contextlib.suppress(Exception):
            self.environment.close()


def from_id(name: str, seed: int, pictures: bool = False) -> GymnasiumSimulator:
    """Returns the environment that Gymnasium has registered as ``name`` (``Id`` or ``module:Id``).

    Args:
        pictures: use the render mode ``rgb_array`` if the environment has it.

    Raises:
        UserError: no such id, a missing package, or spaces that ezm cannot use.
    """
    return GymnasiumSimulator(
        name, lambda: _make(name, pictures), seed, _registered_limit, lambda environment: name
    )


def _make(name: str, pictures: bool = False) -> gymnasium.Env:
    try:
        # ezm.tasks.Task keeps the limit and can lengthen it. The checker costs time.
        environment = gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True)
        if not pictures or PICTURES not in (environment.metadata.get("render_modes") or ()):
            return environment
        environment.close()
        return gymnasium.make(
            name, max_episode_steps=-1, disable_env_checker=True, render_mode=PICTURES
        )
    except gymnasium.error.UnregisteredEnv as error:
        package = _NAMESPACE_PACKAGES.get(name.partition("/")[0])
        hint = f"; pip install {package}" if package else nearest(name, gymnasium.registry)
        raise UserError(
            f"Gymnasium has no environment {name!r}{hint}; a package that registers it is named as "
            "gym:package:Id"
        ) from error
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        spec = gymnasium.registry.get(name)
        entry = spec.entry_point if spec else None
        package = entry.rpartition(":")[0].rpartition(".")[0] if isinstance(entry, str) else ""
        extra = _EXTRAS.get(package)
        fix = (
            f'pip install "gymnasium[{extra}]"'
            if extra
            else "install the package it needs, or choose another version"
        )
        raise UserError(
            f"Gymnasium environment {name!r} is not installed ({_first_line(error)}): {fix}"
        ) from error
    except Exception as error:
        raise UserError(
            f"Gymnasium environment {name!r} cannot be made: {_first_line(error)}"
        ) from error


def _camera(model: mujoco.MjModel) -> int | mujoco.MjvCamera:
    """Returns the model's first camera, or a free camera that sees the whole model."""
    if model.ncam:
        return 0
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    return camera


def _registered_limit(environment: gymnasium.Env) -> int | None:
    spec = environment.spec
    return gymnasium.spec(spec.id).max_episode_steps if spec else None


def _observation_size(name: str, space: spaces.Space) -> int:
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"task {name}: its observations are {space}, ezm needs a Box; "
            f"wrap it with gymnasium.wrappers.FlattenObservation {_WRAP}"
        )
    if space.dtype == np.uint8 and len(space.shape) >= 2:
        raise UserError(
            f"task {name}: its observations are pixels {space.shape}, which come with a later "
            f"version; use a variant with state observations, or wrap an encoder around it {_WRAP}"
        )
    if not math.prod(space.shape):
        raise UserError(
            f"task {name}: its observations {space} hold no number; return at least one"
        )
    return math.prod(space.shape)


def _bounded_box(name: str, space: spaces.Space) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise UserError(
            f"task {name}: its actions are {space}, ezm needs a Box; discrete actions come with a "
            "later version, until then use a continuous variant of the task"
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise UserError(
            f"task {name}: its actions {space} are whole numbers; discrete actions come with a "
            "later version, until then use a continuous variant of the task"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(
            f"task {name}: its actions {space} have no bounds; give them bounds with "
            f"gymnasium.wrappers.TransformAction {_WRAP}"
        )
    if not math.prod(space.shape):
        raise UserError(f"task {name}: its actions {space} hold no number; take at least one")
    return space


def _reward_range(name: str, environment: gymnasium.Env) -> tuple[float, float] | None:
    """Returns the environment's ``reward_range`` attribute, or None without finite bounds."""
    try:
        low, high = map(float, environment.get_wrapper_attr("reward_range"))
    except (AttributeError, TypeError, ValueError):
        return None
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    if low > high:
        raise UserError(f"task {name}: its reward_range ({low:g}, {high:g}) begins above its end")
    return low, high


def _whole(name: str, limit: Any) -> int | None:
    """Returns a limit of steps as a whole number. Some environments write it as a float, such as 2e1."""
    if limit is None:
        return None
    if not isinstance(limit, int | float | np.integer | np.floating) or limit < 1 or limit % 1:
        raise UserError(f"task {name}: its max_episode_steps {limit!r} is no whole number above 0")
    return int(limit)


def _single(what: str, value: Any) -> float:
    """Returns a number that an environment returned, perhaps as an array without dimensions."""
    if isinstance(value, float | bool):
        return value
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "biuf":
        raise TypeError(f"{what} {value!r} is not a single number")
    return number.item()


def _colours(name: str, picture: np.ndarray) -> np.ndarray:
    """Returns a picture as uint8. Floats are brightnesses from 0 to 1."""
    if picture.dtype == np.uint8:
        return picture
    whole = 1 if picture.dtype.kind == "f" else 255
    if picture.dtype.kind not in "fiu" or not (picture.min() >= 0 and picture.max() <= whole):
        raise Undrawable(
            f"task {name} has no pictures: render() returned {picture.dtype} from {picture.min()} to "
            f"{picture.max()}, it must be uint8, or floats from 0 to 1"
        )
    return np.rint(picture * (255 / whole)).astype(np.uint8)


def _declared_embodiment(name: str, environment: gymnasium.Env) -> str | None:
    """Returns the environment's ``embodiment`` attribute, or None without one.

    Raises:
        UserError: it is no name.
    """
    try:
        declared = environment.get_wrapper_attr("embodiment")
    except AttributeError:
        return None
    if not isinstance(declared, str) or not declared:
        raise UserError(
            f"task {name}: its embodiment {declared!r} is no name; give a text, or leave it out"
        )
    return declared


def _neutral_action(
    name: str, environment: gymnasium.Env, space: gymnasium.spaces.Box
) -> tuple[float, ...] | None:
    """Returns the environment's ``neutral_action`` attribute, rescaled from its own units to [-1, 1], or None without
    one.

    Raises:
        UserError: it is no action of the environment.
    """
    try:
        declared = environment.get_wrapper_attr("neutral_action")
    except AttributeError:
        return None
    try:
        action = np.asarray(declared, np.float64)
        fits = action.shape == space.shape and bool(
            np.all((action >= space.low) & (action <= space.high))
        )
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(
            f"task {name}: its neutral_action {declared} is no action of {space}; "
            "give one number within the bounds for each dimension, or leave it out"
        )
    rescale = unit_to_bounds(space.low, space.high)
    if rescale is not None:
        scale, offset = rescale
        action = np.divide(action - offset, scale, out=np.zeros_like(action), where=scale > 0)
    return tuple(map(float, action.ravel()))


def _flat(observation: Any) -> np.ndarray:
    return np.asarray(observation, np.float64).ravel()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
