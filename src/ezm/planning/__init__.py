"""Gumbel search over sampled actions."""

from ezm.planning.mctx_search import mctx_search
from ezm.planning.planner import Plan, imagined_value, log_importance, plan, two_heads
from ezm.planning.search import (
    LatentModel,
    SearchResult,
    gumbel_search,
    rounds,
    sample_actions,
)

__all__ = [
    "LatentModel",
    "Plan",
    "SearchResult",
    "gumbel_search",
    "imagined_value",
    "log_importance",
    "mctx_search",
    "plan",
    "rounds",
    "sample_actions",
    "two_heads",
]
