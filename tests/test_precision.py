"""Lower precision and the layers' own gradients, against what ``jax.grad`` makes of the plain formulas."""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_learner import CONFIG, experience

from ezm import platform
from ezm.agent.world_model.layers import Rounded, layer_norm, matmul
from ezm.agent.world_model.precision import fast_precision, with_products, with_weights


def plain_layer_norm(x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("shape", [(7,), (3, 16), (2, 3, 33)])
def test_layer_norm_and_its_gradient(shape: tuple[int, ...]) -> None:
    k1, k2 = jax.random.split(jax.random.key(0))
    x, g = 3.0 + 2.0 * jax.random.normal(k1, shape), jax.random.normal(k2, shape)
    ours, back = jax.vjp(jax.jit(layer_norm), x)
    expected, plain_back = jax.vjp(plain_layer_norm, x)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(back(g)[0], plain_back(g)[0], atol=1e-5)


def test_layer_norm_of_equal_features_is_zero_and_has_a_finite_gradient() -> None:
    x = jnp.full((2, 5), 1e4)
    assert not np.any(layer_norm(x))
    assert np.isfinite(jax.jit(jax.grad(lambda y: (layer_norm(y) ** 2).sum()))(x)).all()


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("batch", [(), (6,), (2, 40)])
def test_matmul_and_both_gradients(precision: str, bound: float, batch: tuple[int, ...]) -> None:
    k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
    x, g = jax.random.normal(k1, (*batch, 12)), jax.random.normal(k2, (*batch, 9))
    weight = jax.random.normal(k3, (12, 9))
    y, back = jax.vjp(jax.jit(lambda x, w: matmul(x, w, precision)), x, weight)
    expected, plain_back = jax.vjp(lambda x, w: jnp.matmul(x, w, precision="highest"), x, weight)
    assert y.dtype == jnp.float32
    for ours, theirs in zip((y, *back(g)), (expected, *plain_back(g)), strict=True):
        assert ours.dtype == jnp.float32
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=bound * scale)
    if precision == "bfloat16":  # and it is rounded at all
        assert np.any(y != expected)


def test_with_products_rounds_every_layer_and_changes_no_weight() -> None:
    agent, _ = experience()
    model = agent.state.model
    rounded = with_products(model, "bfloat16")
    layers = jax.tree.leaves(rounded, is_leaf=lambda x: isinstance(x, Rounded))
    assert sum(isinstance(x, Rounded) for x in layers) > 10
    for ours, theirs in zip(jax.tree.leaves(rounded), jax.tree.leaves(model), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    assert with_products(model, "float32") is model
    assert with_weights(model, "bfloat16").observation_in.weight.dtype == jnp.bfloat16


def test_gradient_in_bfloat16_is_that_in_float32() -> None:
    """The check of mixed precision: one update of the same batch from the same parameters."""
    agent, replay = experience()
    normalizer = agent.statistics.normalizer()
    batch, _ = replay.sample(np.random.default_rng(0), 64, reanalyse=100)
    moved = []
    for precision in ("float32", "bfloat16"):
        learner = replace(agent.learner, config=replace(CONFIG, precision=precision))
        targets = jax.jit(learner.make_targets)(agent.state, normalizer, batch, jnp.int32(0))
        state, figures, _ = jax.jit(learner.update)(agent.state, normalizer, batch, targets)
        # The first moment of Adam after one update is a tenth of the (clipped) gradient.
        mu = jax.tree.leaves(eqx.filter(state.optimizer[1][0].mu, eqx.is_array))
        moved.append((np.concatenate([np.ravel(x) for x in mu]), float(figures["loss/total"])))
    (exact, loss), (rounded, rounded_loss) = moved
    cosine = exact @ rounded / (np.linalg.norm(exact) * np.linalg.norm(rounded))
    assert cosine > 0.999
    assert not np.array_equal(exact, rounded)
    assert rounded_loss == pytest.approx(loss, rel=1e-2)


def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "flags : avx512f"
    monkeypatch.setattr(platform.Path, "read_text", lambda self: flags)
    assert fast_precision("auto") == "float32"
    flags = "flags : avx512f amx_bf16"
    assert fast_precision("auto") == "bfloat16"
    assert fast_precision("float32") == "float32"

    def missing(self: object) -> str:
        raise OSError

    monkeypatch.setattr(platform.Path, "read_text", missing)
    assert fast_precision("auto") == "float32"
