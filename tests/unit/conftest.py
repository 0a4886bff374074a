"""What the policy's tests share. torch is imported only where a test asks for a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from builders import CLAUSES

if TYPE_CHECKING:
    from rapo.policy.processing import PolicyProcessor


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a Qwen2.5-VL of 370,000 parameters, from random weights."""
    import torch

    from rapo.config import EmbeddedPolicyConfig
    from rapo.policy.embedded import build_embedded

    torch.set_num_threads(1)  # for tensors this small a second thread costs more than it brings
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_embedded(folder, EmbeddedPolicyConfig(hidden_size=64, text_layers=2, vocabulary=384), 0, CLAUSES)
    return folder


@pytest.fixture(scope="session")
def processor(tiny_model: Path) -> PolicyProcessor:
    from rapo.policy.processing import PolicyProcessor

    return PolicyProcessor(tiny_model)
