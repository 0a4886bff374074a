"""Real families: configurations of published sizes, as far as names and shapes depend on them."""

from __future__ import annotations

from transformers import (
    Gemma3Config,
    InternVLConfig,
    LlavaOnevisionConfig,
    PretrainedConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
)


def _text(
    sizes: tuple[int, int, int, int, int, int], *, tied: bool = False, head: int = 128, **more: object
) -> dict[str, object]:
    """A text model's hidden and intermediate size, layers, heads, heads of keys, vocabulary."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = sizes
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "head_dim": head,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": tied,
        **more,
    }


def _tower(hidden: int, intermediate: int, layers: int, image: int, **more: object) -> dict[str, object]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": image,
        "patch_size": 14,
        **more,
    }


def _qwen3(text: dict[str, object], tower: dict[str, object]) -> PretrainedConfig:
    sections = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config={**text, "rope_parameters": sections},
        vision_config={**tower, "num_heads": 16, "out_hidden_size": text["hidden_size"], "patch_size": 16},
        tie_word_embeddings=text["tie_word_embeddings"],
    )


_SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}

#: What vLLM leaves out: the norm behind the last layer of a tower, of which that layer is read.
UNREAD = {"LLaVA-OneVision-7B": 2 * 1152}
#: By name: the configuration, and the parameters of the published model in millions.
REAL: dict[str, tuple[PretrainedConfig, int]] = {
    "Qwen2-VL-2B": (
        Qwen2VLConfig(
            text_config=_text(
                (1536, 8960, 28, 12, 2, 151_936),
                tied=True,
                rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            ),
            vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
            tie_word_embeddings=True,
        ),
        2209,
    ),
    "Qwen3-VL-2B": (_qwen3(_text((2048, 6144, 28, 16, 8, 151_936), tied=True), _SMALL_TOWER), 2128),
    "Qwen3-VL-4B": (_qwen3(_text((2560, 9728, 36, 32, 8, 151_936), tied=True), _SMALL_TOWER), 4438),
    "Qwen3-VL-8B": (_qwen3(_text((4096, 12288, 36, 32, 8, 151_936)), _TOWER), 8767),
    "InternVL3.5-8B": (
        InternVLConfig(
            text_config=_text((4096, 12288, 36, 32, 8, 151_936), model_type="qwen3"),
            vision_config=_tower(1024, 4096, 24, 448, attention_bias=True),
            tie_word_embeddings=False,
        ),
        8528,
    ),
    "SmolVLM2-2.2B": (
        SmolVLMConfig(
            text_config=_text((2048, 8192, 24, 32, 32, 49_280), head=64, model_type="llama"),
            vision_config=_tower(1152, 4304, 27, 384),
            scale_factor=3,
            image_token_id=49_190,
            pad_token_id=2,
            tie_word_embeddings=False,
        ),
        2247,
    ),
    "Gemma-3-4B": (
        Gemma3Config(
            text_config=_text((2560, 10240, 34, 8, 4, 262_208), tied=True, head=256),
            vision_config=_tower(1152, 4304, 27, 896, model_type="siglip_vision_model", vision_use_head=False),
            tie_word_embeddings=True,
        ),
        4300,
    ),
    "LLaVA-OneVision-7B": (
        LlavaOnevisionConfig(
            text_config=_text((3584, 18944, 28, 28, 4, 152_000), model_type="qwen2"),
            vision_config=_tower(1152, 4304, 26, 384, model_type="siglip_vision_model", vision_use_head=False),
            tie_word_embeddings=False,
        ),
        8030,
    ),
}
