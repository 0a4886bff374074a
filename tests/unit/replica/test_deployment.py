"""Deployment: what is refused before Serve is asked to start anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapo.config import Config
from rapo.errors import ModelError
from rapo.models.card import Card
from services.replica.deployment import build_app


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        build_app(Config(), tmp_path, Card("v"), "secret")
