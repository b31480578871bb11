"""Settings for all tests: a cache of compiled programs, and the end of each file's compiled programs."""

from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

# The first call of a compiled function is slow.
settings.register_profile("ezm", deadline=None, max_examples=50)
settings.load_profile("ezm")


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process, and none that it starts, a cache of programs that outlives it."""
    if cache := getattr(config, "cache", None):
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees a file's compiled programs, which would fill gigabytes by the end."""
    yield
    jax.clear_caches()
