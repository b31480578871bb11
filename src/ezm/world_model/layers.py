"""The few layers that the world model is made of. All act on the last axis of any batch shape."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def layer_norm(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """LayerNorm without scale and bias: the linear layer that follows has its own."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


class Linear(eqx.Module):
    """x @ weight + bias, truncated-normal weights of variance 1 / fan-in (or zeros), zero bias."""

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, key: PRNGKeyArray, *, zero: bool = False):
        normal = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs))
        self.weight = jnp.zeros((inputs, outputs)) if zero else normal / jnp.sqrt(inputs)
        self.bias = jnp.zeros(outputs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        # As precise as the weight: see ezm.world_model.inference.
        return (
            jnp.dot(x.astype(self.weight.dtype), self.weight, preferred_element_type=x.dtype)
            + self.bias
        )


class Residual(eqx.Module):
    """Pre-norm residual MLP block: x + W2 relu(W1 LayerNorm(x))."""

    first: Linear
    second: Linear

    def __init__(self, size: int, key: PRNGKeyArray):
        k1, k2 = jax.random.split(key)
        self.first, self.second = Linear(size, size, k1), Linear(size, size, k2)

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        return x + self.second(jax.nn.relu(self.first(layer_norm(x))))


class MLP(eqx.Module):
    """Hidden layers of linear, LayerNorm, relu; then a linear output."""

    hidden: tuple[Linear, ...]
    output: Linear

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int,
        outputs: int,
        key: PRNGKeyArray,
        *,
        zero: bool = False,
    ):
        keys = jax.random.split(key, layers + 1)
        sizes = [inputs] + [hidden] * layers
        self.hidden = tuple(
            Linear(size, hidden, k) for size, k in zip(sizes[:-1], keys[:-1], strict=True)
        )
        self.output = Linear(sizes[-1], outputs, keys[-1], zero=zero)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        for layer in self.hidden:
            x = jax.nn.relu(layer_norm(layer(x)))
        return self.output(x)


def residual_blocks(num: int, size: int, key: PRNGKeyArray) -> tuple[Residual, ...]:
    """``num`` blocks of one width."""
    return tuple(Residual(size, k) for k in jax.random.split(key, num)) if num else ()


class Ensemble(eqx.Module):
    """Several MLPs of one shape on the same input, in one vectorised call."""

    stacked: MLP  # its arrays carry a leading axis of members

    @property
    def members(self) -> int:
        """How many there are."""
        return self.stacked.output.bias.shape[0]

    def pick(self, index: Int[Array, " picked"]) -> Ensemble:
        """Some of the members."""
        return Ensemble(jax.tree.map(lambda x: x[index], self.stacked))

    def separate(self) -> Separate:
        """The same function, one call for each member."""
        return Separate(
            tuple(jax.tree.map(lambda x, i=i: x[i], self.stacked) for i in range(self.members))
        )

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "members *batch outputs"]:
        return eqx.filter_vmap(lambda mlp: mlp(x))(self.stacked)


class Separate(eqx.Module):
    """An :class:`Ensemble` whose members are called one by one: faster where there are few rows."""

    parts: tuple[MLP, ...]

    @property
    def members(self) -> int:
        """How many there are."""
        return len(self.parts)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "members *batch outputs"]:
        return jnp.stack([part(x) for part in self.parts])
