"""Configuration: one typed tree, read from TOML and written back resolved.

- Unknown keys are errors.
- Neither torch nor Ray nor vLLM is imported.
"""

from rapo.config.aescot import AesCoTConfig, JudgeConfig, TeacherConfig
from rapo.config.chat import AskedModelConfig, ChatConfig, GroundingJudgeConfig
from rapo.config.data import ColumnsConfig, DataConfig, ScenesConfig, SceneWorld, SourceConfig
from rapo.config.endpoint import EndpointConfig
from rapo.config.engine import EngineConfig
from rapo.config.learning import LoRAConfig
from rapo.config.load import diff_config, dump_config, load_config
from rapo.config.sections import (
    Config,
    ImageConfig,
    RayConfig,
    RolloutAutoscaleConfig,
    RolloutConfig,
    TinyModelConfig,
)
from rapo.config.serving import GatewayConfig, ServeConfig
from rapo.config.training import LossConfig, RewardSettings, WatchConfig

__all__ = [
    "AesCoTConfig",
    "AskedModelConfig",
    "ChatConfig",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "EndpointConfig",
    "EngineConfig",
    "GatewayConfig",
    "GroundingJudgeConfig",
    "ImageConfig",
    "JudgeConfig",
    "LoRAConfig",
    "LossConfig",
    "RayConfig",
    "RewardSettings",
    "RolloutAutoscaleConfig",
    "RolloutConfig",
    "SceneWorld",
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
