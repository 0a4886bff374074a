"""Model folders: complete ones pass, and every missing part is named."""

from __future__ import annotations

import json

import pytest
from builders import safetensors_bytes

from rapo.errors import ModelError
from rapo.models.folder import check_chat_folder, check_model_folder

FILES = {
    "config.json": json.dumps({"model_type": "qwen2_5_vl", "vision_config": {}}),
    "model.safetensors": safetensors_bytes(),
    "tokenizer_config.json": "{}",
    "preprocessor_config.json": "{}",
}


def make(folder, **changed):
    """A folder that passes, with `changed` files. None leaves a file out; a double underscore in a
    name stands for its first dot."""
    files = FILES | {name.replace("__", ".", 1): text for name, text in changed.items()}
    for name, text in files.items():
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"preprocessor_config__json": None, "processor_config__json": "{}"},
        {
            "model__safetensors": None,
            "model__safetensors.index.json": json.dumps({"weight_map": {"weight": "model-1-of-1.safetensors"}}),
            "model-1-of-1__safetensors": safetensors_bytes(),
        },
    ],
    ids=["complete", "other name of the image processor", "sharded weights"],
)
def test_a_complete_folder_passes(tmp_path, changed):
    folder = make(tmp_path, **changed)
    check_model_folder(folder)
    check_model_folder(str(folder))
    for path in sorted(folder.iterdir()):  # each of its files is needed
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ModelError):
            check_model_folder(folder)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config__json": None}, "holds no config.json"),
        ({"config__json": "{"}, "is not valid JSON"),
        ({"config__json": "[]"}, "holds no JSON object"),
        ({"config__json": "{}"}, "holds a None model"),
        ({"config__json": '{"model_type": "llama"}'}, "holds a 'llama' model, whose config.json has no vision_config"),
        ({"config__json": '{"vision_config": {}, "auto_map": {}}'}, "holds a model with code of its own"),
        ({"model__safetensors": None}, "the weights are missing"),
        (
            {"config__json": '{"vision_config": {}, "quantization_config": {}}'},
            "holds quantised weights, which cannot be trained",
        ),
        ({"tokenizer_config__json": None}, "copy the tokenizer"),
        ({"preprocessor_config__json": None}, "no image processor"),
    ],
)
def test_a_missing_part_is_named_with_the_folder(tmp_path, changed, message):
    with pytest.raises(ModelError) as caught:
        check_model_folder(make(tmp_path, **changed))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_hub_name_is_no_folder(tmp_path):
    with pytest.raises(ModelError, match=r"not found: Qwen/Qwen2\.5-VL-7B-Instruct.*local folder"):
        check_model_folder("Qwen/Qwen2.5-VL-7B-Instruct")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="not found"):
        check_model_folder(tmp_path / "file")


def test_any_architecture_is_accepted_and_a_folder_without_a_model_is_named(tmp_path):
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
