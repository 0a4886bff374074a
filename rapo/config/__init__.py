"""One typed configuration: TOML in, resolved TOML out; unknown keys fail. No torch, Ray or vLLM is
imported."""

from rapo.config.load import diff_config, dump_config, load_config
from rapo.config.sections import (
    Config,
    DataConfig,
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
    TinyModelConfig,
    WatchConfig,
)
from rapo.config.serving import GatewayConfig, ServeConfig

__all__ = [
    "Config",
    "DataConfig",
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
    "TinyModelConfig",
    "WatchConfig",
    "diff_config",
    "dump_config",
    "load_config",
]
