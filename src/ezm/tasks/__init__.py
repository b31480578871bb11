"""Suites of tasks, padded and masked into one batch.

A suite is an ordered list of tasks from HumanoidBench, dm_control, Gymnasium or a factory of the user's:

>>> suite = load_suite("cartpole")
>>> suite.num_tasks, suite.observation_size, suite.action_size
(4, 5, 1)
"""

from ezm.tasks.parallel import ParallelTasks, StepBatch
from ezm.tasks.suites import SUITES, Listed, Suite, listing, load_suite, protocol_of, with_protocol
from ezm.tasks.task import Step, Task, TaskSpec

__all__ = [
    "SUITES",
    "Listed",
    "ParallelTasks",
    "Step",
    "StepBatch",
    "Suite",
    "Task",
    "TaskSpec",
    "listing",
    "load_suite",
    "protocol_of",
    "with_protocol",
]
