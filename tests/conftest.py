"""Settings for all tests: the first call of a compiled function is slow, so hypothesis sets no deadline."""

from hypothesis import settings

settings.register_profile("ezm", deadline=None, max_examples=50)
settings.load_profile("ezm")
