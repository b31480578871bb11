"""A user's own environments: ``module:function``, which returns a :class:`gymnasium.Env`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Container
from typing import Any

import gymnasium

from ezm.errors import UserError, nearest
from ezm.tasks import sources
from ezm.tasks.sources.gymnasium import PICTURES, GymnasiumSimulator


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
    factory = _find(source)
    wanted: dict[str, Any] = {"seed": seed}
    if pictures:
        wanted["render_mode"] = PICTURES
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


def _find(source: str) -> Callable[..., Any]:
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
