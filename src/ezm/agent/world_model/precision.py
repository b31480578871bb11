"""Lower precision for the products that training computes, or for the weights that a planner reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax

from ezm.agent.world_model.layers import Linear, Precision, Rounded
from ezm.agent.world_model.model import WorldModel
from ezm.platform import multiplies_bfloat16


def fast_precision(precision: Precision | Literal["auto"]) -> Precision:
    """Returns the precision that "auto" stands for on this machine, or ``precision`` itself.

    "auto" is bfloat16 on accelerators, and on processors that multiply bfloat16 matrices in hardware (AMX).
    """
    if precision != "auto":
        return precision
    if jax.default_backend() != "cpu":
        return "bfloat16"
    return "bfloat16" if multiplies_bfloat16() else "float32"


def with_products(model: WorldModel, precision: Precision) -> WorldModel:
    """Returns the model with the factors of all matrix products in ``precision``, forward and backward.

    Weights, their gradients, sums, biases and activations stay float32.
    """
    if precision == "float32":
        return model
    return _each_linear(model, lambda layer: Rounded(layer, precision))


def with_weights(model: WorldModel, precision: Precision) -> WorldModel:
    """Returns the model with its weight matrices, and so the products' factors, in ``precision``.

    Such a model must not be trained.
    """
    return _each_linear(
        model, lambda x: eqx.tree_at(lambda y: y.weight, x, x.weight.astype(precision))
    )


def _each_linear(model: WorldModel, change: Callable[[Linear], Linear | Rounded]) -> WorldModel:
    def changed(layer: object) -> object:
        return change(layer) if isinstance(layer, Linear) else layer

    return jax.tree.map(changed, model, is_leaf=lambda x: isinstance(x, Linear))
