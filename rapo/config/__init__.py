"""Configuration: one typed tree, read from TOML and written back resolved.

- Unknown keys are errors.
- Neither torch nor Ray nor vLLM is imported.
"""

from rapo.config.data import ColumnsConfig, DataConfig, ScenesConfig, SourceConfig
from rapo.config.load import diff_config, dump_config, load_config
from rapo.config.sections import (
    Config,
    EngineConfig,
    ImageConfig,
    LoRAConfig,
    RayConfig,
    RolloutAutoscaleConfig,
    RolloutConfig,
    TeacherConfig,
    TinyModelConfig,
)
from rapo.config.serving import GatewayConfig, ServeConfig
from rapo.config.training import LossConfig, RewardSettings, WatchConfig

__all__ = [
    "ColumnsConfig",
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
    "SourceConfig",
    "TeacherConfig",
    "TinyModelConfig",
    "WatchConfig",
    "diff_config",
    "dump_config",
    "load_config",
]
