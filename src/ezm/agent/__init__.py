"""The agent: pure functions of arrays, without files, threads or environments.

:mod:`ezm.agent.world_model` predicts, :mod:`ezm.agent.planning` searches, and :mod:`ezm.agent.learning` learns.
"""

from ezm.agent.agent import Agent, build, for_acting

__all__ = ["Agent", "build", "for_acting"]
