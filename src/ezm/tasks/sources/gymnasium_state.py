"""Snapshots of a Gymnasium environment: the attributes of it and its wrappers, its MuJoCo data and models.

Gymnasium's interface has no way to save an environment. For many environments (all of its MuJoCo tasks)
``copy.deepcopy`` silently gives a new one at its start. So the attributes are saved one by one, and :func:`is_exact`
tests whether that suffices.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Space

from ezm.tasks.simulator import changeable_arrays

_TRIAL_STEPS = 5


def save(environment: gymnasium.Env) -> object:
    """Returns the state of ``environment``, for :func:`load`."""
    layers, memo, simulations = _parts(environment)
    attributes = copy.deepcopy([vars(layer) for layer in layers], memo)
    models = [[array.copy() for array in changeable_arrays(data.model)] for data in simulations]
    return attributes, models, [copy.copy(data) for data in simulations]


def load(environment: gymnasium.Env, saved: object) -> None:
    """Puts ``environment`` into a state that :func:`save` took of it or of its like, any number of times."""
    assert isinstance(saved, tuple)
    attributes, saved_models, saved_data = saved
    layers, memo, simulations = _parts(environment)
    for data, arrays, values in zip(simulations, saved_models, saved_data, strict=True):
        for array, saved_array in zip(changeable_arrays(data.model), arrays, strict=True):
            array[...] = saved_array
        mujoco.mj_copyData(data, data.model, values)
    for layer, own in zip(layers, copy.deepcopy(attributes, memo), strict=True):
        vars(layer).clear()
        vars(layer).update(own)


def shared(environment: gymnasium.Env) -> dict[str, object]:
    """Objects that pickles of :func:`save` refer to by name: wrappers, registration, MuJoCo's objects, local
    functions.

    Local functions, such as those that Gymnasium's wrappers keep, cannot be pickled. Their names contain their line
    in the source, so that no function is taken for another.
    """
    found: dict[str, object] = {}
    for number, layer in enumerate(_layers(environment)):
        found[f"{number}"] = layer
        for name, value in vars(layer).items():
            if isinstance(value, FunctionType) and "<" in value.__qualname__:
                code = value.__code__
                found[f"{number}.{name}={value.__qualname__}:{code.co_firstlineno}"] = value
            elif isinstance(value, EnvSpec | mujoco.MjModel | mujoco.MjData):
                found[f"{number}.{name}"] = value
    return found


def is_exact(build: Callable[[], gymnasium.Env]) -> bool:
    """Tests whether an environment of this kind repeats its steps exactly after :func:`load`."""
    same = False
    # Building, saving and closing fail in many ways, depending on the environment.
    with contextlib.suppress(Exception), contextlib.closing(build()) as environment:
        environment.reset(seed=0)
        environment.action_space.seed(0)
        actions = [environment.action_space.sample() for _ in range(_TRIAL_STEPS)]
        for action in actions:
            environment.step(action)
        saved, paths = save(environment), []
        for _ in range(3):
            paths.append([environment.step(action)[:4] for action in actions])
            load(environment, saved)
        same = all(
            np.array_equal(step[0], expected[0]) and step[1:] == expected[1:]
            for again in paths[1:]
            for step, expected in zip(again, paths[0], strict=True)
        )
    return same


def _parts(environment: gymnasium.Env) -> tuple[list[Any], dict[int, Any], list[mujoco.MjData]]:
    """Returns the environment with its wrappers, the objects that a copy shares, by id, and the MuJoCo data among
    them.

    Copies share spaces, which stay constant within an episode, and the objects of :func:`shared`. The content of MuJoCo's
    data and models is copied separately.
    """
    layers = _layers(environment)
    objects = [*shared(environment).values()]
    objects += [
        each for layer in layers for each in vars(layer).values() if isinstance(each, Space)
    ]
    simulations = [each for each in objects if isinstance(each, mujoco.MjData)]
    return layers, {id(each): each for each in objects}, simulations


def _layers(environment: gymnasium.Env) -> list[Any]:
    layers: list[Any] = [environment]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers
