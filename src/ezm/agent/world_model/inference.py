"""Conversion of a trained model into the layout that plans fastest for one robot."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import PRNGKeyArray

from ezm.agent.world_model.layers import Ensemble
from ezm.agent.world_model.model import WorldModel


def for_one_robot(model: WorldModel, key: PRNGKeyArray) -> WorldModel:
    """Returns the model with two value heads, drawn once, whose arrays are separate."""
    model = model.with_two_heads(key)
    if not isinstance(model.value_heads, Ensemble):
        return model
    return eqx.tree_at(lambda m: m.value_heads, model, model.value_heads.separate())
