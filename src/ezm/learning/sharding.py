"""Several devices of one machine for the learner: each takes an equal part of every batch.

Parameters lie on every device, so that only sums over the batch, and the few states that are searched anew, travel
between them. XLA splits the programs; what is said here is where their arguments and results lie.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ezm.errors import UserError
from ezm.learning.losses import TARGET_AXIS, Targets
from ezm.replay import BATCH_AXIS, WHOLE, Batch

_AXIS = "batch"


def mesh(devices: int) -> Mesh:
    """The first so many devices, in a row.

    Raises:
        UserError: JAX has fewer.
    """
    have = jax.devices()
    if devices > len(have):
        fix = f"ask for at most {len(have)}"
        if have[0].platform == "cpu":
            fix += f", or set XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
        raise UserError(f"--devices {devices}: JAX has {len(have)} ({have[0].platform}); {fix}")
    return Mesh(np.asarray(have[:devices]), (_AXIS,))


def split(devices: int, axis: int = 0) -> NamedSharding:
    """An equal part of an array's ``axis``, its batch axis, on each device."""
    return NamedSharding(mesh(devices), PartitionSpec(*[None] * axis, _AXIS))


class Layout(NamedTuple):
    """A sharding for each array that the learner's programs take or return."""

    whole: NamedSharding
    """A copy on each device: the learner's state, the normaliser, figures."""
    batch: Batch
    targets: Targets
    priority: NamedSharding


def layout(devices: int) -> Layout:
    """Split every array along its batch axis; an array without one is whole on each device."""
    whole = NamedSharding(mesh(devices), PartitionSpec())
    places: dict[Any, Any] = {WHOLE: whole, 0: split(devices), 1: split(devices, axis=1)}
    batch = Batch(*(places[axis] for axis in BATCH_AXIS))
    targets = Targets(*(places[axis] for axis in TARGET_AXIS))
    return Layout(whole, batch, targets, priority=places[0])


def first(tree: Any) -> Any:
    """What the first device holds of each array, without a copy."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
