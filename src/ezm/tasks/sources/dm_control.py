"""Tasks of the dm_control suite, ``dmc:domain-task``.

The environment's task and physics are driven directly instead of through ``Environment.step``: within
an action repeat the observation is computed once, not at every simulator step. Rewards, observations
and terminations are those of ``Environment.step`` to the last bit.
"""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
from dm_control import suite

from ezm.errors import UserError
from ezm.tasks.simulator import RawStep, unit_to_bounds
from ezm.tasks.spec import nearest

# Everything that mj_step reads and writes from one step to the next, the solver's warm start included.
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# Parts of a model that no task changes after compilation, and that can be large.
_CONSTANT_FIELDS = ("mesh_", "tex_", "skin_", "bvh_", "flex_", "oct_", "text_", "name", "paths")
_UNBOUNDED = 1e9


class DmControlSimulator:
    """One environment of the dm_control suite (see :class:`ezm.tasks.simulator.Simulator`).

    Args:
        name: ``domain-task``, e.g. ``cartpole-swingup`` or ``ball_in_cup-catch``.
        seed: at least 0.

    Raises:
        UserError: no such task, or one without bounds on its actions.
    """

    can_restore = True

    def __init__(self, name: str, seed: int) -> None:
        domain, _, task = name.partition("-")
        if (domain, task) not in suite.ALL_TASKS:
            raise UserError(
                f"dm_control has no task {name!r}{nearest(name, task_names())}; "
                "`ezm tasks dmc` lists them"
            )
        random = np.random.RandomState(seed % 2**32)
        environment = suite.load(domain, task, task_kwargs={"random": random})
        self.environment = environment
        self._task, self._physics = environment.task, environment.physics
        self._substeps = round(environment.control_timestep() / self._physics.timestep())
        bounds = environment.action_spec()
        if np.any(np.abs([bounds.minimum, bounds.maximum]) > _UNBOUNDED):
            raise UserError(f"dm_control task {name}: its actions have no bounds; choose another")
        self._rescale = unit_to_bounds(bounds.minimum, bounds.maximum)
        self.action_size = int(np.prod(bounds.shape))
        self.observation_size = _flatten(self._task.get_observation(self._physics)).size
        limit = environment._step_limit  # the only place where dm_control keeps it
        self.episode_limit = None if limit == float("inf") else int(np.ceil(limit))
        self.reward_range = (0.0, 1.0)
        self._model_arrays = _changeable_arrays(self._physics.model.ptr)

    def reset(self) -> np.ndarray:
        return _flatten(self.environment.reset().observation)

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        task, physics, substeps = self._task, self._physics, self._substeps
        if self._rescale is not None:
            scale, offset = self._rescale
            action = action * scale + offset
        total = 0.0
        discount = None
        for _ in range(repeat):
            task.before_step(action, physics)
            physics.step(substeps)
            task.after_step(physics)
            total += task.get_reward(physics)
            discount = task.get_termination(physics)
            if discount is not None:
                break
        observation = _flatten(task.get_observation(physics))
        ended = discount is not None
        return RawStep(observation, total, ended and discount == 0, ended and discount != 0)

    def snapshot(self) -> object:
        # Some tasks place their targets in the model and keep values of their own, with their
        # randomness, in attributes; neither is part of MuJoCo's state.
        return (
            self._physics.get_state(_STATE),
            [array.copy() for array in self._model_arrays],
            copy.deepcopy(self._task.__dict__),
        )

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, tuple)
        state, arrays, attributes = snapshot
        for array, saved in zip(self._model_arrays, arrays, strict=True):
            array[...] = saved
        self._task.__dict__.update(copy.deepcopy(attributes))
        self._physics.set_state(state, _STATE)
        # dm_control steps with positions and velocities that are already up to date.
        mujoco.mj_step1(self._physics.model.ptr, self._physics.data.ptr)

    def close(self) -> None:
        self.environment.close()


def task_names() -> list[str]:
    """The names of all tasks of the dm_control suite."""
    return [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]


def _flatten(observation: dict[str, Any]) -> np.ndarray:
    parts = [np.ravel(part) for part in observation.values()]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _changeable_arrays(model: mujoco.MjModel) -> list[np.ndarray]:
    arrays = []
    for name in dir(model):
        if name.startswith(_CONSTANT_FIELDS):
            continue
        value = getattr(model, name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.flags.writeable:
            arrays.append(value)
    return arrays
