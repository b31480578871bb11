"""Snapshots of a Gymnasium environment: its attributes, its wrappers' and its MuJoCo data.

Nothing in Gymnasium's interface saves an environment, and ``copy.deepcopy`` of many of them (all of its
MuJoCo tasks) silently gives a new one at its start. So the attributes are saved one by one, and
:func:`is_exact` tries out whether that is all there is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

_TRIAL_STEPS = 5


def save(environment: gymnasium.Env) -> object:
    """The state of ``environment``, for :func:`load`."""
    layers, fixed, simulations = _parts(environment)
    attributes = copy.deepcopy([vars(layer) for layer in layers], fixed)
    return attributes, [copy.copy(data) for data in simulations]


def load(environment: gymnasium.Env, saved: object) -> None:
    """Put ``environment`` back into a state that :func:`save` took of it, any number of times."""
    assert isinstance(saved, tuple)
    attributes, saved_data = saved
    layers, fixed, simulations = _parts(environment)
    for layer, values in zip(layers, copy.deepcopy(attributes, fixed), strict=True):
        vars(layer).clear()
        vars(layer).update(values)
    if simulations:
        import mujoco

        for data, values in zip(simulations, saved_data, strict=True):
            mujoco.mj_copyData(data, data.model, values)


def is_exact(build: Callable[[], gymnasium.Env]) -> bool:
    """Whether an environment of this kind does the same again after :func:`load`, by trial."""
    environment = build()

    def path() -> list[tuple]:
        return [environment.step(action)[:4] for action in actions]

    try:
        environment.reset(seed=0)
        environment.action_space.seed(0)
        actions = [environment.action_space.sample() for _ in range(_TRIAL_STEPS)]
        path()
        saved = save(environment)
        first = path()
        load(environment, saved)
        second = path()
        load(environment, saved)
        third = path()
    except Exception:  # noqa: BLE001 - saving fails in as many ways as there are environments
        return False
    finally:
        environment.close()
    return all(
        np.array_equal(step[0], expected[0]) and step[1:] == expected[1:]
        for again in (second, third)
        for step, expected in zip(again, first, strict=True)
    )


def _parts(environment: gymnasium.Env) -> tuple[list[Any], dict[int, object], list[Any]]:
    """The environment with its wrappers; what a copy shares, by id; the MuJoCo data among it.

    Shared is what does not change within an episode (spaces, registration, the MuJoCo model), the
    layers themselves, which refer to each other, and the MuJoCo data, whose content is copied apart.
    """
    layers: list[Any] = [environment]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    values = [value for layer in layers for value in vars(layer).values()]
    simulations = [value for value in values if type(value).__name__ == "MjData"]
    models = [value for value in values if type(value).__name__ == "MjModel"]
    fixed = [value for value in values if isinstance(value, spaces.Space | EnvSpec)]
    shared = [*layers, *simulations, *models, *fixed]
    return layers, {id(value): value for value in shared}, simulations
