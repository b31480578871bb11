"""Arrays of a compiled MuJoCo model that tasks may change: some tasks place their targets in them."""

from __future__ import annotations

from typing import Any

import numpy as np

# Parts of a model that no task changes after compilation and that can be large.
_CONSTANT_FIELDS = ("mesh_", "tex_", "skin_", "bvh_", "flex_", "oct_", "plugin_")


def changeable_arrays(model: Any) -> list[np.ndarray]:
    """Returns views of a :class:`mujoco.MjModel`'s float arrays, in the same order for the same model."""
    arrays = []
    for name in dir(model):
        if name.startswith(_CONSTANT_FIELDS):
            continue
        value = getattr(model, name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
            arrays.append(value)
    return arrays
