"""Targets, losses and the learner."""

from ezm.learning.agent import Agent, build, for_acting
from ezm.learning.learner import Learner, LearnerState
from ezm.learning.normalizer import Normalizer, RunningStatistics

__all__ = [
    "Agent",
    "Learner",
    "LearnerState",
    "Normalizer",
    "RunningStatistics",
    "build",
    "for_acting",
]
