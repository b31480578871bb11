"""The report of runs: one HTML page with curves, scores and diagnostics."""
