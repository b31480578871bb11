"""A trained model in the layout that plans fastest for one robot: the same function, other arrays."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ezm.world_model.layers import Ensemble, Linear
from ezm.world_model.model import WorldModel

Precision = Literal["float32", "bfloat16"]


def for_one_robot(model: WorldModel, key: PRNGKeyArray) -> WorldModel:
    """With two value heads, drawn once, that are called one by one: faster than a batched call for a few rows."""
    model = model.with_two_heads(key)
    if not isinstance(model.value_heads, Ensemble):
        return model
    return eqx.tree_at(lambda m: m.value_heads, model, model.value_heads.separate())


def with_precision(model: WorldModel, precision: Precision) -> WorldModel:
    """The weight matrices in another precision; sums, biases and activations keep theirs."""

    def convert(layer: object) -> object:
        if not isinstance(layer, Linear):
            return layer
        return eqx.tree_at(lambda x: x.weight, layer, layer.weight.astype(precision))

    return jax.tree.map(convert, model, is_leaf=lambda x: isinstance(x, Linear))
