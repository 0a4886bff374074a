"""Configuration: one typed tree, read from TOML and written back resolved.

- Unknown keys are errors.
- Neither torch nor Ray nor vLLM is imported.
"""

from rapo.config.load import diff_config, dump_config, load_config
from rapo.config.sections import (
    Config,
    DataConfig,
    EngineConfig,
    ImageConfig,
    LoRAConfig,
    RayConfig,
    RolloutAutoscaleConfig,
    RolloutConfig,
    ScenesConfig,
    TeacherConfig,
    TinyModelConfig,
)
from rapo.config.serving import GatewayConfig, ServeConfig
from rapo.config.training import LossConfig, RewardSettings, WatchConfig

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
