"""Measurements of ezm against other methods, each a program: ``python -m benchmarks.NAME``."""
