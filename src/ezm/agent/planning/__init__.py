"""Gumbel search over sampled or discrete actions, on any latent model."""

from ezm.agent.planning.candidates import (
    NO_ACTION,
    Candidates,
    enumerated,
    root_candidates,
    sampled,
)
from ezm.agent.planning.planner import Plan, expanded_value, log_importance, plan
from ezm.agent.planning.search import LatentModel, SearchResult, gumbel_search, rounds

__all__ = [
    "NO_ACTION",
    "Candidates",
    "LatentModel",
    "Plan",
    "SearchResult",
    "enumerated",
    "expanded_value",
    "gumbel_search",
    "log_importance",
    "plan",
    "root_candidates",
    "rounds",
    "sampled",
]
