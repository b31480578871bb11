"""Targets, losses and the learner."""

from ezm.agent.learning.learner import Learner, LearnerState
from ezm.agent.learning.normalizer import Normalizer, RunningStatistics

__all__ = ["Learner", "LearnerState", "Normalizer", "RunningStatistics"]
