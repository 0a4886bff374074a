"""VllmModel: its parts that need no model (folders, settings)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import safetensors_bytes

from rapo.config import Config, dump_config, load_config
from rapo.errors import ConfigError, ModelError
from rapo.inference.chat_engine import check_chat_folder


def test_teacher_and_rollout_engines_have_defaults_of_their_own() -> None:
    overrides = ["aescot.teacher.kind=vllm", "aescot.teacher.model=m", "aescot.teacher.engine.max_num_seqs=8"]
    engine = load_config(overrides=overrides).aescot.teacher.engine
    assert (engine.max_num_seqs, engine.max_model_len) == (8, 4096)
    assert Config().rollout.engine.max_model_len == 512
    assert "[aescot.teacher.engine]" in dump_config(Config())
    with pytest.raises(ConfigError, match=r"aescot\.teacher\.temperature"):
        load_config(overrides=["aescot.teacher.temperature=-1"])


def test_any_architecture_is_accepted_and_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not found"):
        check_chat_folder(tmp_path / "none")
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_chat_folder(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        check_chat_folder(tmp_path)
    config.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="no architecture"):
        check_chat_folder(tmp_path)
    config.write_text(json.dumps({"architectures": ["SomeOtherVLM"]}), encoding="utf-8")
    with pytest.raises(ModelError, match="no weights"):
        check_chat_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(safetensors_bytes()[:-1])
    with pytest.raises(ModelError, match="cut or damaged"):
        check_chat_folder(tmp_path)
    weights.write_bytes(safetensors_bytes())
    check_chat_folder(tmp_path)
