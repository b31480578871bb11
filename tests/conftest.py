"""Settings for all tests, and the end of each file's compiled programs."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The first call of a compiled function is slow.
settings.register_profile("ezm", deadline=None, max_examples=50)
settings.load_profile("ezm")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Frees a file's compiled programs, which would fill gigabytes by the end."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
