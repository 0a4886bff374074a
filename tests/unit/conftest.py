"""What the policy's tests share. torch is imported only where a test asks for a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rapo.policy.processing import PolicyProcessor

CLAUSES = ("the light is even; ", "a balanced composition; ", "colors are dull; ")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a Qwen2.5-VL of some ten thousand parameters, from random weights."""
    from rapo.config import EmbeddedPolicyConfig
    from rapo.policy.embedded import build_embedded

    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_embedded(folder, EmbeddedPolicyConfig(hidden_size=64, text_layers=2, vocabulary=384), 0, CLAUSES)
    return folder


@pytest.fixture(scope="session")
def processor(tiny_model: Path) -> PolicyProcessor:
    from rapo.policy.processing import PolicyProcessor

    return PolicyProcessor(tiny_model)
