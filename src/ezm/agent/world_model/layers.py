"""The layers of the world model. All act on the last axis, with any batch shape before it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ezm.agent.world_model.batch_norm import BatchNorm, batch_norm

Precision = Literal["float32", "bfloat16"]
Norm = Literal["layer", "unit", "batch"]


@jax.custom_vjp
def layer_norm(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """LayerNorm without scale and bias, because the linear layer that follows has its own."""
    return _normalized(x)[0]


def _normalized(x: Array) -> tuple[Array, tuple[Array, Array]]:
    mean = x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-5)
    y = (x - mean) * scale
    return y, (y, scale)


def _normalized_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    # This takes two means of the incoming gradient. The derivative by jax.grad takes more passes.
    y, scale = saved
    along = (g * y).mean(-1, keepdims=True)
    return (scale * (g - g.mean(-1, keepdims=True) - y * along),)


layer_norm.defvjp(_normalized, _normalized_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "inputs outputs"], precision: Any
) -> Float[Array, "*batch outputs"]:
    """Returns x @ weight. Forward and backward, the factors have ``precision`` and the sums are float32."""
    return _dot(x.astype(precision), weight.astype(precision))


def _dot(x: Array, y: Array) -> Array:
    return jnp.dot(x, y, preferred_element_type=jnp.float32)


def _matmul_forward(x: Array, weight: Array, precision: Any) -> tuple[Array, tuple[Array, Array]]:
    saved = x.astype(precision), weight.astype(precision)
    return _dot(*saved), saved


def _matmul_backward(precision: Any, saved: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    x, weight = saved
    rows, g = x.reshape(-1, x.shape[-1]), out.astype(precision)
    columns = g.reshape(-1, g.shape[-1])
    if weight.dtype == jnp.bfloat16:
        of_weight = jax.lax.platform_dependent(
            rows, columns, cpu=_rows_by_rows, default=lambda x, y: _dot(x.T, y)
        )
    else:
        of_weight = _dot(rows.T, columns)
    return _dot(g, weight.T), of_weight


def _rows_by_rows(x: Array, y: Array) -> Array:
    """Returns x.T @ y with x.T laid out row by row.

    This layout makes XLA's bfloat16 product on a CPU four times as fast (JAX 0.10).
    """
    transposed = jax.lax.optimization_barrier(x.T)
    return _dot(with_layout_constraint(transposed, Layout((0, 1))), y)


matmul.defvjp(_matmul_forward, _matmul_backward)


class Linear(eqx.Module):
    """Linear layer x @ weight + bias, with truncated-normal weights of variance 1 / fan-in (or zeros) and zero bias.

    With ``unit`` the weights of each output are scaled to norm 1 before the product. An update's effect then does not
    shrink as the weights grow (SimbaV2, Lee et al. 2025, and FlashSAC).
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]
    unit: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        key: PRNGKeyArray,
        *,
        zero: bool = False,
        unit: bool = False,
    ):
        normal = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs))
        self.weight = jnp.zeros((inputs, outputs)) if zero else normal / jnp.sqrt(inputs)
        self.bias = jnp.zeros(outputs)
        self.unit = unit

    @property
    def matrix(self) -> Float[Array, "inputs outputs"]:
        """The matrix that multiplies the input: the weight, scaled if ``unit``."""
        if not self.unit:
            return self.weight
        norm = jnp.linalg.norm(self.weight, axis=0, keepdims=True)
        return self.weight / jnp.maximum(norm, 1e-6)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return matmul(x, self.matrix, self.weight.dtype) + self.bias


class Rounded(eqx.Module):
    """A :class:`Linear` whose product rounds its factors to another precision. The weight keeps its own."""

    linear: Linear
    precision: Precision = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return matmul(x, self.linear.matrix, self.precision) + self.linear.bias


class Residual(eqx.Module):
    """Pre-norm residual MLP block: x + W2 relu(W1 LayerNorm(x))."""

    first: Linear
    second: Linear

    def __init__(self, size: int, key: PRNGKeyArray):
        k1, k2 = jax.random.split(key)
        self.first, self.second = Linear(size, size, k1), Linear(size, size, k2)

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        return x + self.second(jax.nn.relu(self.first(layer_norm(x))))


def rms_norm(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """Returns x divided by the root of its mean square."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


class MLP(eqx.Module):
    """Multilayer perceptron: hidden layers, then a linear output.

    With ``norm`` "layer", a hidden layer is a linear layer, LayerNorm and relu. With "unit", it is a linear layer of
    unit weights, relu and RMSNorm. With "batch", it is a linear layer, BatchNorm and relu.
    """

    hidden: tuple[Linear, ...]
    output: Linear
    norms: tuple[BatchNorm, ...]
    norm: Norm = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int,
        outputs: int,
        key: PRNGKeyArray,
        *,
        zero: bool = False,
        norm: Norm = "layer",
    ):
        self.norm = norm
        unit = norm == "unit"
        keys = jax.random.split(key, layers + 1)
        sizes = [inputs] + [hidden] * layers
        self.hidden = tuple(
            Linear(size, hidden, k, unit=unit)
            for size, k in zip(sizes[:-1], keys[:-1], strict=True)
        )
        self.output = Linear(sizes[-1], outputs, keys[-1], zero=zero)
        self.norms = tuple(batch_norm(hidden) for _ in self.hidden) if norm == "batch" else ()

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        for i, layer in enumerate(self.hidden):
            y = layer(x)
            if self.norm == "unit":
                x = rms_norm(jax.nn.relu(y))
            else:
                x = jax.nn.relu(self.norms[i](y) if self.norm == "batch" else layer_norm(y))
        return self.output(x)


def residual_blocks(num: int, size: int, key: PRNGKeyArray) -> tuple[Residual, ...]:
    """Returns ``num`` residual blocks of width ``size``."""
    return tuple(Residual(size, k) for k in jax.random.split(key, num)) if num else ()


class Ensemble(eqx.Module):
    """Several MLPs of one shape on the same input."""

    stacked: MLP  # its arrays have a leading axis of members

    @property
    def members(self) -> int:
        """Number of MLPs."""
        return len(jax.tree.leaves(self.stacked)[0])

    def pick(self, index: Int[Array, " picked"]) -> Ensemble:
        """Returns the ensemble of the members at ``index``."""
        return Ensemble(jax.tree.map(lambda x: x[index], self.stacked))

    def separate(self) -> Separate:
        """Returns the same function with a separate MLP for each member."""
        return Separate(
            tuple(jax.tree.map(lambda x, i=i: x[i], self.stacked) for i in range(self.members))
        )

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "members *batch outputs"]:
        # One product per member: XLA's batched products are slower on a CPU, their gradients most of all.
        return self.separate()(x)


class Separate(eqx.Module):
    """An :class:`Ensemble` whose members have separate arrays, so that no call has to slice them."""

    parts: tuple[MLP, ...]

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "members *batch outputs"]:
        return jnp.stack([part(x) for part in self.parts])
