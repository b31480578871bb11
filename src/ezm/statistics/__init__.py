"""Statistics of returns: intervals, aggregates over tasks and runs, and normalised scores."""
