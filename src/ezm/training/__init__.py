"""Training runs: the loop, the run folder, metrics and progress."""
