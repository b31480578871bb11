"""The configuration: every option with its type, its bounds and its description."""

from ezm.config.schema import (
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
    ReplayConfig,
    TrainConfig,
    from_dict,
    named_values,
    to_dict,
)

__all__ = [
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PlannerConfig",
    "ReplayConfig",
    "TrainConfig",
    "from_dict",
    "named_values",
    "to_dict",
]
