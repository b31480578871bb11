"""Shardings for a learner on several devices of one machine, each of which takes an equal part of every batch.

Every device holds all parameters. Only sums over the batch, and the few reanalysed states, move between devices. XLA
splits the programs. This module defines where their arguments and results lie.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ezm.agent.batch import BATCH_AXIS, WHOLE, Batch
from ezm.agent.learning.losses import TARGET_AXIS, Targets
from ezm.errors import UserError

_AXIS = "batch"


def mesh(devices: int) -> Mesh:
    """Returns a one-dimensional mesh of the first ``devices`` devices.

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
    """Returns the sharding that splits an array's batch axis, ``axis``, equally over the devices."""
    return NamedSharding(mesh(devices), PartitionSpec(*[None] * axis, _AXIS))


class Layout(NamedTuple):
    """The shardings of all arrays that the learner's programs take or return."""

    whole: NamedSharding
    """Sharding with a copy on each device: the learner's state, the normaliser, figures."""
    batch: Batch
    targets: Targets
    priority: NamedSharding


def layout(devices: int) -> Layout:
    """Returns shardings that split every array along its batch axis. Arrays without one are whole on each device."""
    whole = NamedSharding(mesh(devices), PartitionSpec())
    places: dict[Any, Any] = {WHOLE: whole, 0: split(devices), 1: split(devices, axis=1)}
    batch = Batch(*(places[axis] for axis in BATCH_AXIS))
    targets = Targets(*(places[axis] for axis in TARGET_AXIS))
    return Layout(whole, batch, targets, priority=places[0])


def first(tree: Any) -> Any:
    """Returns the first device's part of each array, without a copy."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
