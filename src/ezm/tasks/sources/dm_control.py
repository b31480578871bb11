"""Tasks of the dm_control suite, ``dmc:domain-task``.

The environment's task and physics are driven directly instead of through ``Environment.step``. Within an action
repeat, the observation is computed once and physics is checked once, not at every simulator step. The outcome is the
same as from ``Environment.step``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping

import mujoco
import numpy as np
from dm_control import suite
from dm_control.rl.control import PhysicsError

from ezm.errors import UserError, nearest
from ezm.tasks.rendering import Scene, tracked_body
from ezm.tasks.simulator import RawStep, Simulator, changeable_arrays, unit_to_bounds
from ezm.tasks.sources.dm_rewards import closed_form

# Everything that mj_step reads and writes from one step to the next, including the solver's warm start.
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_UNUSABLE = {
    "lqr": "its actions have no bounds",
    "quadruped-escape": "it draws its terrain with a renderer",
}
# Domains whose first camera is too far away.
_CAMERAS: dict[str, str | int] = {"quadruped": "x"}
# From about this many degrees of freedom on, physics outweighs Python and threads are faster.
_HEAVY_FREEDOMS = 50

# Some of dm_control's own models make MuJoCo 3.17 log a deprecation at every load.
logging.getLogger("absl").addFilter(lambda record: "settotalmass" not in record.getMessage())


class DmControlSimulator(Simulator):
    """One environment of the dm_control suite.

    Args:
        name: ``domain-task``, e.g. ``cartpole-swingup`` or ``ball_in_cup-catch``.
        seed: at least 0.
        pictures: whether it will be drawn, which MuJoCo need not know.

    Raises:
        UserError: an unknown task, or a task that cannot be used.
    """

    reward_range = (0.0, 1.0)  # a rule of the suite. The exception, lqr, cannot be used here.

    def __init__(self, name: str, seed: int, pictures: bool = False) -> None:
        domain, _, task = name.partition("-")
        if (domain, task) not in suite.ALL_TASKS:
            raise UserError(
                f"dm_control has no task {name!r}{nearest(name, task_names())}; "
                "`ezm tasks dmc` lists them"
            )
        if unusable := _UNUSABLE.get(domain) or _UNUSABLE.get(name):
            raise UserError(f"dm_control task {name} cannot be used, {unusable}; choose another")
        self.embodiment = domain
        random = np.random.RandomState(seed % 2**32)
        self.environment = suite.load(domain, task, task_kwargs={"random": random})
        self._task, self._physics = self.environment.task, self.environment.physics
        self._model, self._data = self._physics.model.ptr, self._physics.data.ptr
        self._substeps = round(self.environment.control_timestep() / self._physics.timestep())
        self._reward = closed_form(domain, task, self._model, self._data)
        bounds = self.environment.action_spec()
        self._scale, self._offset = unit_to_bounds(bounds.minimum, bounds.maximum)
        self.action_size = bounds.minimum.size
        self.observation_size = _flatten(self._task.get_observation(self._physics)).size
        limit = self.environment._step_limit  # dm_control has no public name for it
        self.episode_limit = None if limit == float("inf") else int(np.ceil(limit))
        self.threads_pay = self._model.nv >= _HEAVY_FREEDOMS
        self.step_seconds = float(self.environment.control_timestep())
        self._body, self._camera = tracked_body(self._model), _CAMERAS.get(domain, 0)
        self._changeable = changeable_arrays(self._model)

    def reset(self) -> np.ndarray:
        return _flatten(self.environment.reset().observation)

    def step(self, action: np.ndarray, repeat: int) -> RawStep:
        task, physics = self._task, self._physics
        warnings = self._data.warning.number
        before = warnings.tobytes()
        task.before_step(action * self._scale + self._offset, physics)
        total = 0.0
        for _ in range(repeat):
            self._advance()
            task.after_step(physics)
            total += self._reward() if self._reward else task.get_reward(physics)
            discount = task.get_termination(physics)
            if discount is not None:
                break
        if warnings.tobytes() != before:
            counts = dict(zip(mujoco.mjtWarning.__members__, warnings.tolist(), strict=False))
            raised = [name for name, count in counts.items() if count]
            raise PhysicsError(f"the physics diverged ({', '.join(raised)})")
        observation = _flatten(task.get_observation(physics))
        return RawStep(observation, total, discount == 0, discount not in (None, 0))

    def _advance(self) -> None:
        """Takes one control step and updates the positions and velocities that derive from the state.

        This is dm_control's "legacy step": when the step begins, the state's derived quantities already exist, unless
        the integrator computes its own.
        """
        model, data, substeps = self._model, self._data, self._substeps
        if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
            mujoco.mj_step(model, data, substeps)
        else:
            mujoco.mj_step2(model, data)
            if substeps > 1:
                mujoco.mj_step(model, data, substeps - 1)
        mujoco.mj_step1(model, data)

    def snapshot(self) -> object:
        # Some tasks place their targets in the model, and keep values and their randomness in attributes.
        # Neither is part of MuJoCo's state.
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        arrays = [array.copy() for array in self._changeable]
        return state, arrays, copy.deepcopy(self._task.__dict__)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, tuple)
        state, arrays, attributes = snapshot
        for array, saved in zip(self._changeable, arrays, strict=True):
            array[...] = saved
        self._task.__dict__.update(copy.deepcopy(attributes))
        mujoco.mj_setState(self._model, self._data, state, _STATE)
        mujoco.mj_step1(self._model, self._data)

    def view(self) -> Scene:
        return Scene(self._model, self._data, self._camera, self._body)

    def close(self) -> None:
        self.environment.close()


def task_names() -> list[str]:
    """Returns the names of all usable tasks of the dm_control suite."""
    return [
        f"{domain}-{task}"
        for domain, task in suite.ALL_TASKS
        if domain not in _UNUSABLE and f"{domain}-{task}" not in _UNUSABLE
    ]


def _flatten(observation: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in observation.values()])
