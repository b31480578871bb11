"""Settings for all tests: programs that compile fast, and the end of each file's compiled programs."""

import os
from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

# The first call of a compiled function is slow.
settings.register_profile("ezm", deadline=None, max_examples=50)
settings.load_profile("ezm")

XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_prefer_vector_width=128"
"""Most tests run a small program once, so compilation counts and speed does not."""


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process, and none that it starts, XLA's flags and a cache of programs that outlives it."""
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = XLA_FLAGS
        jax.devices()  # XLA reads the flags now
        del os.environ["XLA_FLAGS"]
    if cache := getattr(config, "cache", None):
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees a file's compiled programs, which would fill gigabytes by the end."""
    yield
    jax.clear_caches()
