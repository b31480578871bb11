"""EfficientZero-Multitask: one world model and one planner for many control tasks."""

__version__ = "0.1.0"
