"""The world model, its scalars and its policy."""

from ezm.agent.world_model.model import Context, WorldModel
from ezm.agent.world_model.policy import Gaussian, Moments, moments
from ezm.agent.world_model.scalars import Support, cross_entropy, h, h_inverse

__all__ = [
    "Context",
    "Gaussian",
    "Moments",
    "Support",
    "WorldModel",
    "cross_entropy",
    "h",
    "h_inverse",
    "moments",
]
