"""Registry: the family of a model, by the `model_type` of its configuration."""

from __future__ import annotations

from transformers import PretrainedConfig

from rapo.errors import ModelError
from rapo.families.family import Family
from rapo.families.qwen_vl import Qwen3VL, QwenVL
from rapo.families.tiled import Tiled

FAMILIES: dict[str, Family] = {
    "qwen2_vl": QwenVL(),
    "qwen2_5_vl": QwenVL(),
    "qwen3_vl": Qwen3VL(),
    "internvl": Tiled(),
    "smolvlm": Tiled(),
    "idefics3": Tiled(),
}
_GENERIC = Family()


def image_token(config: PretrainedConfig) -> int:
    """The token that stands for a feature of an image. Raises `ModelError` where the configuration
    names none."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(token := getattr(config, name, None), int):
            return token
    raise ModelError(f"the configuration of this {config.model_type!r} names no image token (image_token_id).")


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration; the generic one where it has no file of its own. Raises
    `ModelError` where a model of this configuration cannot be trained."""
    family = FAMILIES.get(config.model_type, _GENERIC)
    family.check(config)
    return family
