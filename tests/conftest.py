"""Settings for all tests: how programs are compiled, how long they are kept, and the order of the files."""

import gc
import os
from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

from ezm.training.memory import resident

# Most of the tests' time is XLA's. Few optimisations halve that time. An `XLA_FLAGS` of the user's own, even an empty
# one, has precedence.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)

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
