"""EfficientZero-Multitask: one world model and one planner for many control tasks.

Importing this package registers HumanoidBench's tasks with Gymnasium: ``gymnasium.make("ezm/h1-walk-v0")``.
"""

from ezm.tasks.humanoid_bench import register

__version__ = "0.1.0"

register()
