"""Settings for all tests: a cache of compiled programs, the end of each file's compiled programs, and the order."""

import gc
from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

from ezm.training.memory import resident

# The first call of a compiled function is slow.
settings.register_profile("ezm", deadline=None, max_examples=50)
settings.load_profile("ezm")

# The longest files. A worker takes a whole file, so that the file's fixtures are made once. With the longest files
# first, no worker waits for the other at the end.
FIRST = ("test_search", "test_resume", "test_faults", "test_sharding", "test_learner", "test_cli")


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process, and none that it starts, a cache of programs that outlives it."""
    if cache := getattr(config, "cache", None):
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    gc.set_threshold(100_000)  # as `prepare_jax` does


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees compiled programs, which would fill gigabytes by the end."""
    yield
    if resident() > 2**31:
        jax.clear_caches()
