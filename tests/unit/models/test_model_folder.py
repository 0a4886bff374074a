import json

import pytest

from rapo.errors import ModelError
from rapo.models.folder import check_model_folder

FILES = {
    "config.json": json.dumps({"model_type": "qwen2_5_vl", "hidden_size": 8}),
    "model.safetensors": "",
    "tokenizer_config.json": "{}",
    "preprocessor_config.json": "{}",
}


def make(folder, **changed):
    """A folder that passes; None leaves a file out (dots are written as double underscores)."""
    files = FILES | {name.replace("__", "."): text for name, text in changed.items()}
    for name, text in files.items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_whole_folder_gives_its_configuration(tmp_path):
    assert check_model_folder(make(tmp_path))["hidden_size"] == 8
    assert check_model_folder(str(tmp_path))["hidden_size"] == 8


def test_either_name_of_the_image_processor_will_do(tmp_path):
    assert check_model_folder(make(tmp_path, preprocessor_config__json=None, processor_config__json="{}"))


def test_sharded_weights_will_do(tmp_path):
    assert check_model_folder(make(tmp_path, model__safetensors=None, **{"model-00001-of-00002__safetensors": ""}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"config__json": None}, "holds no config.json"),
        ({"config__json": "{"}, "is not valid JSON"),
        ({"config__json": "[]"}, "holds no JSON object"),
        ({"config__json": "{}"}, "holds a None model"),
        ({"config__json": '{"model_type": "llama"}'}, "holds a 'llama' model; rapo trains 'qwen2_5_vl'"),
        ({"model__safetensors": None}, "the weights are missing"),
        ({"tokenizer_config__json": None}, "copy the tokenizer"),
        ({"preprocessor_config__json": None}, "no image processor"),
    ],
)
def test_what_is_missing_is_named_with_the_folder(tmp_path, changed, said):
    with pytest.raises(ModelError) as caught:
        check_model_folder(make(tmp_path, **changed))
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_name_of_a_hub_is_no_folder(tmp_path):
    with pytest.raises(ModelError, match=r"not found: Qwen/Qwen2\.5-VL-7B-Instruct.*local folder"):
        check_model_folder("Qwen/Qwen2.5-VL-7B-Instruct")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="not found"):
        check_model_folder(tmp_path / "file")
