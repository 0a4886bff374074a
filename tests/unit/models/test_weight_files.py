"""Weight files: whole ones are read by their headers, and every defect is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import safetensors_bytes

from rapo.errors import ModelError
from rapo.models.weight_files import INDEX, SINGLE, stored_tensors, weight_files

SHARDS = {"model-1-of-2.safetensors": ("a", "b"), "model-2-of-2.safetensors": ("c",)}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for file, names in SHARDS.items():
        (tmp_path / file).write_bytes(safetensors_bytes(*names))
    weight_map = {name: file for file, names in SHARDS.items() for name in names}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return tmp_path


def test_headers_give_names_shapes_and_files(sharded: Path) -> None:
    found = stored_tensors(sharded)
    assert {name: tensor.file.name for name, tensor in found.items()} == {
        name: file for file, names in SHARDS.items() for name in names
    }
    assert {(tensor.shape, tensor.dtype) for tensor in found.values()} == {((2, 3), "F32")}


def test_files_beside_the_model_are_not_read(sharded: Path) -> None:
    (sharded / "consolidated.safetensors").write_bytes(safetensors_bytes("a", "b", "c"))
    assert [file.name for file in weight_files(sharded)] == sorted(SHARDS)
    (sharded / SINGLE).write_bytes(safetensors_bytes("a", "b", "c"))
    with pytest.raises(ModelError, match=r"beside an model\.safetensors\.index\.json that does not name it"):
        weight_files(sharded)
    (sharded / INDEX).unlink()
    assert [file.name for file in weight_files(sharded)] == [SINGLE]


def test_shards_without_their_index_are_no_model(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor the model\.safetensors\.index\.json"):
        weight_files(sharded)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model-2-of-2.safetensors", None, r"lacks 1 of the 2 files .*\(model-2-of-2\.safetensors\)"),
        (
            "model-2-of-2.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer.*git lfs pull",
        ),
        ("model-2-of-2.safetensors", safetensors_bytes("c")[:-1], r"\(\d+ bytes\) is cut or damaged"),
        ("model-2-of-2.safetensors", safetensors_bytes("c")[:20], r"\(20 bytes\) is cut or damaged"),
        ("model-2-of-2.safetensors", b"", r"\(0 bytes\) is cut or damaged"),
        ("model-2-of-2.safetensors", safetensors_bytes("d"), r"1 tensors are not in the file .*\(c\)"),
        ("model-2-of-2.safetensors", safetensors_bytes("a", "c"), "both hold a"),
        (INDEX, b"{}", "is no index of shards"),
        (INDEX, b'{"weight_map": {"a": "../other.safetensors"}}', "is no index of shards"),
    ],
)
def test_each_defect_is_named(sharded: Path, file: str, content: bytes | None, said: str) -> None:
    if content is None:
        (sharded / file).unlink()
    else:
        (sharded / file).write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        stored_tensors(sharded)
    assert str(sharded) in str(caught.value)
