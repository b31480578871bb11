"""Gymnasium environments with Box observations and actions: ``gym:Id``, and a user's own, ``module:function``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Container
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from ezm.errors import UserError, nearest
from ezm.tasks import sources
from ezm.tasks.rendering import Scene, tracked_body
from ezm.tasks.simulator import RawStep, Simulator, Undrawable, unit_to_bounds
from ezm.tasks.sources.gymnasium_state import is_exact, load, save, shared

_PICTURES = "rgb_array"  # Gymnasium's render mode that gives pictures
_WRAP = "in a factory of your own (module:function)"
_EXTRAS = {"phys2d": "jax", "tabular": "jax"}
"""Gymnasium's extra for a folder of its environments, where it has another name."""
_NAMESPACE_PACKAGES = {"ALE": "ale-py"}
_LATER = (
    "discrete actions come with a later version, until then use a continuous variant of the task"
)


class GymnasiumSimulator(Simulator):
    """A :class:`gymnasium.Env`.

    Bounded actions are rescaled from [-1, 1]. Observations of any shape are flattened.

    Args:
        name: of the task, for error messages.
        build: makes the environment. It is called again to test whether the environment can be restored.
        seed: at least 0. The first ``reset`` receives it, and later episodes continue its randomness.
        episode_limit: returns the steps of an episode of an environment, None where they are unknown.
        embodiment: name of the embodiment where the environment declares none. None: module and class of the
            environment inside all wrappers.

    Raises:
        UserError: spaces that ezm cannot use.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], gymnasium.Env],
        seed: int,
        episode_limit: Callable[[gymnasium.Env], int | None],
        embodiment: str | None = None,
    ) -> None:
        self.environment = build()
        self._name, self._build = name, build
        self._seed: int | None = seed % 2**31
        self._actions = _bounded_box(name, self.environment.action_space)
        self._scale, self._offset = unit_to_bounds(self._actions.low, self._actions.high)
        self.action_size = self._actions.low.size
        self.observation_size = _observation_size(name, self.environment.observation_space)
        self.episode_limit = _whole(name, episode_limit(self.environment))
        self.embodiment = _embodiment(name, self.environment, embodiment)
        self.reward_range = _reward_range(name, self.environment)
        self.neutral_action = _neutral_action(name, self.environment, self._actions)

    def reset(self) -> np.ndarray:
        observation, _ = self.environment.reset(seed=self._seed)
        self._seed = None
        return np.asarray(observation, np.float64).ravel()

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        space = self._actions
        action = action.reshape(space.shape) * self._scale + self._offset
        action = np.clip(action, space.low, space.high).astype(space.dtype)
        total = 0.0
        for _ in range(repeat):
            observation, reward, terminated, truncated, _ = self.environment.step(action)
            total += _single("the reward", reward)
            terminated = bool(_single("terminated", terminated))
            truncated = bool(_single("truncated", truncated))
            if terminated or truncated:
                break
        observation = np.asarray(observation, np.float64).ravel()
        return RawStep(observation, total, terminated, truncated)

    @functools.cached_property
    def can_restore(self) -> bool:  # type: ignore[override]
        return is_exact(self._build)

    def snapshot(self) -> object:
        return self._seed, save(self.environment)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, tuple)
        self._seed, saved = snapshot
        load(self.environment, saved)

    def shared(self) -> dict[str, object]:
        return shared(self.environment)

    @functools.cached_property
    def step_seconds(self) -> float:  # type: ignore[override]
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
        if self.environment.render_mode != _PICTURES:
            raise self._undrawable(
                f"it needs the render mode {_PICTURES}, with which a factory that has a parameter "
                "render_mode is called"
            )
        try:
            picture = np.asarray(self.environment.render())
        except Exception as error:
            raise self._undrawable(f"render() raised {_first_line(error)}") from error
        if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise self._undrawable(
                f"render() returned an array {picture.shape}, it must be (height, width, 3)"
            )
        if picture.dtype == np.uint8:
            return picture
        whole = 1 if picture.dtype.kind == "f" else 255  # floats are brightnesses from 0 to 1
        if picture.dtype.kind not in "fiu" or not (picture.min() >= 0 and picture.max() <= whole):
            raise self._undrawable(
                f"render() returned {picture.dtype} from {picture.min()} to {picture.max()}, it must "
                "be uint8, or floats from 0 to 1"
            )
        return np.rint(picture * (255 / whole)).astype(np.uint8)

    def _undrawable(self, why: str) -> Undrawable:
        return Undrawable(f"task {self._name} has no pictures: {why}")

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
    _look_here()

    def limit(environment: gymnasium.Env) -> int | None:
        spec = environment.spec
        return gymnasium.spec(spec.id).max_episode_steps if spec else None

    return GymnasiumSimulator(name, lambda: _make(name, pictures), seed, limit, name)


def from_factory(source: str, seed: int, pictures: bool = False) -> GymnasiumSimulator:
    """Returns the environment that a factory makes.

    The function is called with ``seed=`` if it has such a parameter, and for ``pictures`` with
    ``render_mode="rgb_array"`` if it has that parameter. Three attributes of the environment are used if they exist.
    The first, ``reward_range``, holds the bounds of one step's reward. The second, ``neutral_action``, is the action
    that asks for nothing. The third, ``embodiment``, names the robot or mechanism. Without it, tasks with the same
    class of environment share an embodiment.

    Raises:
        UserError: no such module or function, the function failed, or it returned something else.
    """
    _look_here()
    factory = _factory(source)
    wanted: dict[str, Any] = {"seed": seed}
    if pictures:
        wanted["render_mode"] = _PICTURES
    keywords = {name: value for name, value in wanted.items() if name in _parameters(factory)}

    def build() -> gymnasium.Env:
        try:
            environment = factory(**keywords)
        except Exception as error:
            raise UserError(
                f"factory {source}: it raised {type(error).__name__}: {error}; mend the factory"
            ) from error
        if not isinstance(environment, gymnasium.Env):
            raise UserError(
                f"factory {source}: it returned {type(environment).__name__}, it must return a "
                "gymnasium.Env"
            )
        return environment

    return GymnasiumSimulator(source, build, seed, _own_limit)


def _factory(source: str) -> Callable[..., Any]:
    module_name, _, function_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UserError(
                f"task {source}: there is no module {module_name!r} in the current directory or "
                f"installed; a task is {sources.forms()}"
            ) from error
        raise UserError(
            f"task {source}: importing {module_name} raised {type(error).__name__}: {error}; mend it"
        ) from error
    factory = getattr(module, function_name, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value)]
        raise UserError(
            f"task {source}: module {module_name} has no function {function_name!r}"
            f"{nearest(function_name, known)}"
        )
    return factory


def _parameters(factory: Callable[..., Any]) -> Container[str]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some builtins have no signature
        return ()


def _own_limit(environment: gymnasium.Env) -> int | None:
    """Returns the limit of a ``TimeLimit`` wrapper anywhere in the chain, else the environment's registered limit."""
    if environment.has_wrapper_attr("_max_episode_steps"):
        return environment.get_wrapper_attr("_max_episode_steps")
    return environment.spec.max_episode_steps if environment.spec else None


def _look_here() -> None:
    """Lets imports find modules in the current folder, where an installed command does not look by itself."""
    with contextlib.suppress(FileNotFoundError):  # the current folder may be gone
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)


def _make(name: str, pictures: bool = False) -> gymnasium.Env:
    # ezm.tasks.Task keeps the limit and can lengthen it. The checker costs time.
    make = functools.partial(gymnasium.make, name, max_episode_steps=-1, disable_env_checker=True)
    try:
        environment = make()
        if pictures and _PICTURES in (environment.metadata.get("render_modes") or ()):
            environment.close()
            environment = make(render_mode=_PICTURES)
        return environment
    except gymnasium.error.UnregisteredEnv as error:
        package = _NAMESPACE_PACKAGES.get(name.partition("/")[0])
        hint = f"; pip install {package}" if package else nearest(name, gymnasium.registry)
        raise UserError(
            f"Gymnasium has no environment {name!r}{hint}; a package that registers it is named as "
            "gym:package:Id"
        ) from error
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        entry = str(getattr(gymnasium.registry.get(name), "entry_point", ""))
        fix = "install the package it needs, or choose another version"
        if entry.startswith("gymnasium.envs."):
            folder = entry.split(".")[2].partition(":")[0]
            fix = f'pip install "gymnasium[{_EXTRAS.get(folder, folder.replace("_", "-"))}]"'
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
        raise UserError(f"task {name}: its actions are {space}, ezm needs a Box; {_LATER}")
    if not np.issubdtype(space.dtype, np.floating):
        raise UserError(f"task {name}: its actions {space} are whole numbers; {_LATER}")
    if not space.is_bounded():
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


def _embodiment(name: str, environment: gymnasium.Env, default: str | None) -> str:
    """Returns the environment's ``embodiment`` attribute, else the default, else module and class without wrappers.

    Raises:
        UserError: it is no name.
    """
    if not environment.has_wrapper_attr("embodiment"):
        kind = type(environment.unwrapped)
        return default or f"{kind.__module__}.{kind.__qualname__}"
    declared = environment.get_wrapper_attr("embodiment")
    if not isinstance(declared, str) or not declared:
        raise UserError(
            f"task {name}: its embodiment {declared!r} is no name; give a text, or leave it out"
        )
    return declared


def _neutral_action(
    name: str, environment: gymnasium.Env, space: spaces.Box
) -> tuple[float, ...] | None:
    """Returns the environment's ``neutral_action``, rescaled from its own units to [-1, 1], or None without one.

    Raises:
        UserError: it is no action of the environment.
    """
    if not environment.has_wrapper_attr("neutral_action"):
        return None
    declared = environment.get_wrapper_attr("neutral_action")
    action = np.zeros(0)
    with contextlib.suppress(TypeError, ValueError):
        action = np.asarray(declared, np.float64)
    if action.shape != space.shape or not ((action >= space.low) & (action <= space.high)).all():
        raise UserError(
            f"task {name}: its neutral_action {declared} is no action of {space}; "
            "give one number within the bounds for each dimension, or leave it out"
        )
    scale, offset = unit_to_bounds(space.low, space.high)
    action = np.divide(action - offset, scale, out=np.zeros_like(action), where=scale > 0)
    return tuple(map(float, action.ravel()))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
