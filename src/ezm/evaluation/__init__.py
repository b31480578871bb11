"""Evaluation: episodes, statistics, diagnostics and the report."""
