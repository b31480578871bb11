"""Settings for all tests: the first call of a compiled function is slow, so hypothesis sets no deadline."""

from hypothesis import settings

settings.register_profile("ezm", deadline=None, max_examples=50)
settings.load_profile("ezm")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "slow: takes a minute or more; leave out with -m 'not slow'")
