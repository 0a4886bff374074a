"""Export: the written folder is exactly the weight version, or is not written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import gathered
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from actors.learner import Learner
from cluster.pipeline.stages.export import export_model
from rapo.config import load_config
from rapo.errors import WeightError
from rapo.models.folder import check_model_folder
from rapo.policy.export import write_model
from rapo.policy.processing import PolicyProcessor
from rapo.policy.trainer import load_model
from rapo.policy.weight_packing import model_tensors, pack


def changed(tiny_model, drop=None, add=None):
    """Tensors of the model, moved a little, so that a copy of the source would not pass for
    them."""
    source = gathered(model_tensors(load_model(tiny_model, "float32")))
    tensors = {name: tensor + 0.25 for name, tensor in source.items()}
    tensors.pop(drop, None)
    return tensors | ({add: torch.zeros(3)} if add else {})


def test_the_folder_holds_exactly_the_version(tiny_model, tmp_path, processor):
    tensors = changed(tiny_model)
    *chunks, manifest = pack(tensors.items(), 3, 2**16)
    write_model(tmp_path / "out", tiny_model, manifest, chunks)
    loaded, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "out", local_files_only=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    got = dict(loaded.named_parameters())
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(got[name], tensor), name
    check_model_folder(tmp_path / "out")
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1, "all can be read alike"
    assert loaded.generation_config.eos_token_id == processor.stop_token_ids[0]
    again = AutoProcessor.from_pretrained(tmp_path / "out", local_files_only=True)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.chat_template == processor.processor.chat_template


def test_a_version_is_saved_from_the_parts_of_several_ranks(tiny_model, tmp_path):
    tensors = changed(tiny_model)
    items = list(tensors.items())
    shares = [list(pack(own, 3, 2**16)) for own in (items[:9], items[9:])]
    manifests, chunks = [share[-1] for share in shares], [chunk for share in shares for chunk in share[:-1]]
    Learner(0, load_config()).save_model(str(tmp_path / "out"), str(tiny_model), *manifests, *chunks)
    got = gathered(model_tensors(load_model(tmp_path / "out", "float32")))
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(("drop", "add"), [("lm_head.weight", None), (None, "model.odd.weight")])
def test_names_that_differ_are_refused(tiny_model, tmp_path, drop, add):
    *chunks, manifest = pack(changed(tiny_model, drop, add).items(), 3, 2**20)
    with pytest.raises(WeightError, match=rf"version 3 does not fit .*1 names differ \['{drop or add}'\]"):
        write_model(tmp_path / "out", tiny_model, manifest, chunks)
    assert not (tmp_path / "out").exists()


def test_damage_is_refused_before_anything_is_written(tiny_model, tmp_path):
    *chunks, manifest = pack(changed(tiny_model).items(), 3, 2**20)
    chunks[-1][-1] = chunks[-1][-1].copy()
    chunks[-1][-1][0] ^= 1
    with pytest.raises(WeightError, match="checksum"):
        write_model(tmp_path / "out", tiny_model, manifest, chunks)
    assert not (tmp_path / "out").exists()


def test_the_lines_of_the_documents_ask_as_the_model_was_trained(tiny_model, tmp_path):
    out = tmp_path / "export"
    config = load_config(None, ["policy.max_completion_tokens=8", "policy.dtype=float32", "policy.max_pixels=6272"])
    export_model(config, tiny_model, out, {})
    image = Image.new("RGB", (168, 168), (90, 120, 60))
    asked = PolicyProcessor(tiny_model, max_pixels=6272).prepare(image).prompt_ids
    image.save(tmp_path / "photo.png")
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(import json\n.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines.replace("runs/demo/export", str(out)).replace("photo.jpg", str(tmp_path / "photo.png")), names)
    assert names["inputs"]["input_ids"][0].tolist() == asked.tolist()
    assert names["tokens"].shape[1] > len(asked)
