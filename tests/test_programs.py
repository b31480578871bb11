"""Programs that a later process takes up without tracing them."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ezm import programs
from ezm.agent import build
from ezm.config.presets import defaults
from ezm.tasks import load_suite

SCRIPT = """
import jax, jax.numpy as jnp
from ezm.programs import prepare

traced = 0

def function(x, scale):
    global traced
    traced += 1
    return {"product": jnp.sin(scale * x), "sum": (x.sum(),)}

x = jnp.arange(6.0).reshape(2, 3)
prepared = prepare(function, x, of="function", static=(3,), static_argnums=1)
result = prepared.compile()(x)
assert jnp.array_equal(result["product"], jnp.sin(3 * x)), result
assert float(result["sum"][0]) == 15.0
shapes = jax.tree.map(lambda x: (x.shape, x.dtype.name), prepared.out_info)
assert shapes == {"product": ((2, 3), "float32"), "sum": (((), "float32"),)}, shapes
print("traced", traced)
"""


def run(cache: Path, script: str = SCRIPT, **variables: str) -> str:
    """What the script prints, in a process of its own with its cache there."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **variables,
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "ezm").iterdir()) if (cache / "ezm").exists() else []


def test_a_second_process_does_not_trace(tmp_path: Path) -> None:
    assert run(tmp_path) == "traced 1"
    (program,) = kept(tmp_path)
    assert run(tmp_path) == "traced 0"
    # Another processor's programs, or those of other settings, are not taken.
    assert run(tmp_path, JAX_DEFAULT_MATMUL_PRECISION="bfloat16") == "traced 1"
    assert program in kept(tmp_path)


def test_one_device_of_several(tmp_path: Path) -> None:
    several = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    assert run(tmp_path, **several) == "traced 1"
    assert run(tmp_path, **several) == "traced 0"


def test_a_damaged_program_is_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    (program,) = kept(tmp_path)
    whole = program.read_bytes()
    program.write_bytes(whole[:-100])
    assert run(tmp_path) == "traced 1"
    middle = len(whole) // 2
    program.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert run(tmp_path) == "traced 1"


def test_what_jax_had_in_its_cache_is_not_kept_broken(tmp_path: Path) -> None:
    run(tmp_path)
    (program,) = kept(tmp_path)
    program.unlink()
    assert run(tmp_path) == "traced 1"  # compiled by what JAX kept
    assert run(tmp_path) == "traced 1"
    assert not kept(tmp_path)


def test_modules_are_not_kept(tmp_path: Path) -> None:
    script = """
import equinox as eqx, jax
from ezm.programs import prepare

layer = eqx.nn.Linear(2, 2, key=jax.random.key(0))
prepared = prepare(lambda x: eqx.tree_at(lambda m: m.bias, layer, x), layer.bias, of="layer")
print(type(prepared.compile()(layer.bias)).__name__)
"""
    assert run(tmp_path, script) == "Linear"
    assert run(tmp_path, script) == "Linear"
    assert not kept(tmp_path)


@pytest.fixture
def folder(tmp_path: Path):
    """JAX's cache folder of this process, for the names of programs alone."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_what_tracing_sees_makes_another_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path(of: str = "of", *arguments: object) -> Path:
        found = programs._path(of, list(arguments))
        assert found is not None
        return found

    x = np.zeros((2, 3), np.float32)
    same = path("of", x)
    assert same == path("of", jnp.ones((2, 3)))  # values do not matter
    assert same == path("of", jax.ShapeDtypeStruct((2, 3), np.float32))
    others = [path("other", x), path("of", x, x), path("of", x.T), path("of", x.astype(np.int32))]
    assert len({same, *others}) == 5
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert path("of", x) != same
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(programs, "_surroundings", lambda: "another source")
    assert path("of", x) != same


def test_nothing_is_kept_where_jax_keeps_nothing(folder: Path) -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert programs._path("of", []) is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    assert programs._path("of", []) is None


def test_the_oldest_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_KEPT", 2)
    compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(2)).compile()
    for number, name in enumerate("abc"):
        programs._write(folder / "ezm" / name, compiled)
        if name != "c":
            os.utime(folder / "ezm" / name, (number, number))
    assert [path.name for path in kept(folder)] == ["b", "c"]


def test_what_a_learner_is_identified_by() -> None:
    config = defaults("cpu", "cartpole")
    learner = build(config, load_suite("cartpole")).learner

    def identity(**changes: object) -> str:
        changed = dataclasses.replace(config, **changes)
        return dataclasses.replace(learner, config=changed).identity

    same = learner.identity
    assert identity(seed=1, evaluate_every=7, checkpoint_every=11) == same
    assert identity(replay=dataclasses.replace(config.replay, capacity=77, device=True)) == same
    # The learning rate's schedule ends with the run.
    others = [identity(steps=config.steps + 100), identity(precision="bfloat16")]
    others.append(identity(loss=dataclasses.replace(config.loss, unroll=config.loss.unroll + 1)))
    shorter = dataclasses.replace(learner.suite, discount=0.5 * learner.suite.discount)
    others.append(dataclasses.replace(learner, suite=shorter).identity)
    assert len({same, *others}) == 5
