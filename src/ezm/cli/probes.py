"""Probes of ``ezm doctor``, each in a process of its own: a broken driver or library can end or hang a process.

``python -m ezm.cli.probes NAME`` prints its result as its last line, one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

PATIENCE = 30.0
"""Seconds after which a probe counts as hanging. On an idle machine each takes one or two."""


class Answer(NamedTuple):
    """The result of a probe."""

    found: dict[str, Any] | None
    """The probe's JSON object, None where it failed."""
    said: str
    """The last line on its standard error, or how it ended."""


def probe(name: str, **environment: str) -> Answer:
    """Runs a probe in a process of its own, with some environment variables changed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ezm.cli.probes", name],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"no answer within {PATIENCE:.0f} s")
    except OSError as error:
        return Answer(None, str(error))
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    if done.returncode < 0:
        return Answer(None, f"killed by signal {-done.returncode}" + (f": {said}" if said else ""))
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return Answer(None, said or f"exit code {done.returncode}")
    return Answer(found, said) if done.returncode == 0 else Answer(None, said)


def _jax() -> dict[str, Any]:
    """Prepares JAX as a training does, and computes with it. A setting that breaks either is the answer."""
    from ezm.platform import BrokenSetting, check_settings

    try:
        without_effect = check_settings()
    except BrokenSetting as error:
        return {"broken": [error.said, error.fix]}
    import jax
    import jax.numpy as jnp

    total = float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((8, 8))))
    if total != 8**3:
        raise ArithmeticError(f"the sum of a product is {total}, not {8**3}")
    devices = jax.devices()
    return {
        "version": jax.__version__,
        "platform": devices[0].platform,
        "devices": [each.device_kind for each in devices],
        "without_effect": without_effect,
    }


def _mujoco() -> dict[str, Any]:
    import mujoco
    import numpy as np

    from ezm.tasks import sources

    model, data = _scene()
    mujoco.mj_step(model, data, 10)
    if not np.isfinite(data.qpos).all() or data.qpos[2] >= 1:
        raise ArithmeticError(f"a ball does not fall: {data.qpos[:3]}")
    if sources.lacks_dm_control() is None:
        sources.build("dmc:cartpole-balance", seed=0).reset()
    return {"version": mujoco.__version__}


def _draw() -> dict[str, Any]:
    """Draws a picture with the backend that the environment variable MUJOCO_GL names."""
    import mujoco

    model, data = _scene()
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 64, 64) as renderer:
        renderer.update_scene(data)
        picture = renderer.render()
    if picture.max() == picture.min():
        raise RuntimeError("it draws an empty picture")
    return {}


def _scene() -> tuple[Any, Any]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='0 0 3'/><geom type='plane' size='2 2 .1'/>"
        "<body pos='0 0 1'><freejoint/><geom size='.2'/></body></worldbody></mujoco>"
    )
    return model, mujoco.MjData(model)


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "jax": _jax,
    "mujoco": _mujoco,
    "draw": _draw,
}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))
