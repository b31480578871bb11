"""A trained model in the layout that plans fastest for one robot: the same function, other arrays."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import PRNGKeyArray

from ezm.world_model.layers import Ensemble
from ezm.world_model.model import WorldModel


def for_one_robot(model: WorldModel, key: PRNGKeyArray) -> WorldModel:
    """With two value heads, drawn once, their arrays apart."""
    model = model.with_two_heads(key)
    if not isinstance(model.value_heads, Ensemble):
        return model
    return eqx.tree_at(lambda m: m.value_heads, model, model.value_heads.separate())
