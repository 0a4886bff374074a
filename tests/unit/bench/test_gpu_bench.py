"""The benchmark of a GPU, on the CPU: its models have the published sizes, and it runs through."""

from __future__ import annotations

import json
import time

import torch

from bench.gpu.__main__ import main
from bench.gpu.learner import SIZES, _model, _shape, learner_rows, processor_of


def test_the_large_models_have_the_published_sizes(tmp_path):
    processor_of(tmp_path)
    found = {size: _model(tmp_path / "model", SIZES[size], torch.device("meta")) for size in ("3B", "7B")}
    assert _shape(found["7B"]).parameters == 8_292_166_656
    for model in found.values():
        assert _shape(model).parameters == sum(p.numel() for p in model.parameters())


def test_it_runs_and_writes_what_it_found(tmp_path, capsys):
    assert main(["--cpu", "--minutes", "0.2", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {row["part"] for row in rows} == {"learner", "preparation"}
    assert any(row.get("packing") == "prefix" and row["seconds"] > 0 for row in rows)
    assert "answer tokens/s" in capsys.readouterr().out


def test_nothing_begins_after_its_time():
    assert list(learner_rows("tiny", torch.device("cpu"), time.monotonic() - 1.0)) == []


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 1
    assert "--cpu" in capsys.readouterr().err
