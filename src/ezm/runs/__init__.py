"""A run on disk: its folder, checkpoints, metrics and the machine that it ran on."""
