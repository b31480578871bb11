"""The configuration: every option with its type, its bounds and its description."""

from ezm.config.schema import (
    ActorConfig,
    LossConfig,
    MixedConfig,
    ModelConfig,
    MppiConfig,
    MveConfig,
    OptimizerConfig,
    PlannerConfig,
    QConfig,
    RefineConfig,
    ReplayConfig,
    TrainConfig,
    from_dict,
    named_values,
    to_dict,
)

__all__ = [
    "ActorConfig",
    "LossConfig",
    "MixedConfig",
    "ModelConfig",
    "MppiConfig",
    "MveConfig",
    "OptimizerConfig",
    "PlannerConfig",
    "QConfig",
    "RefineConfig",
    "ReplayConfig",
    "TrainConfig",
    "from_dict",
    "named_values",
    "to_dict",
]
