"""One typed configuration: TOML in, resolved TOML out; unknown keys fail. No torch, Ray or vLLM is imported."""

from rapo.config.load import diff_config, dump_config, load_config
from rapo.config.sections import (
    Config,
    DataConfig,
    EmbeddedPolicyConfig,
    EngineConfig,
    ImageConfig,
    LoRAConfig,
    LossConfig,
    RayConfig,
    RewardSettings,
    RolloutAutoscaleConfig,
    RolloutConfig,
    ScenesConfig,
    TeacherConfig,
    WatchConfig,
)
from rapo.config.serving import GatewayConfig, ServeConfig

__all__ = [
    "Config",
    "DataConfig",
    "EmbeddedPolicyConfig",
    "EngineConfig",
    "GatewayConfig",
    "ImageConfig",
    "LoRAConfig",
    "LossConfig",
    "RayConfig",
    "RewardSettings",
    "RolloutAutoscaleConfig",
    "RolloutConfig",
    "ScenesConfig",
    "ServeConfig",
    "TeacherConfig",
    "WatchConfig",
    "diff_config",
    "dump_config",
    "load_config",
]
