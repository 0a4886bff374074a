"""Engines: which models one fleet serves."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from cluster.evaluation import engines
from cluster.evaluation.models import FolderModel
from rapo.config import load_config


def test_a_fleet_is_kept_only_for_models_of_the_same_processor(tmp_path, tiny_model, monkeypatch):
    """A worker that loads a folder takes its weights alone."""
    done: list[tuple[str, str]] = []

    class Fleet:
        def __init__(self, config: object) -> None:
            done.append(("fleet", ""))

        def start(self, folder: Path, version: int) -> None:
            done.append(("start", folder.name))

        def load_folder(self, folder: Path, version: int) -> None:
            done.append(("load", folder.name))

        def ready(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(engines, "Fleet", Fleet)
    monkeypatch.setattr(engines, "ray_session", lambda config: nullcontext())
    monkeypatch.setattr(engines, "parameters_checked", lambda folders: nullcontext())
    for name in ("a", "b", "other"):
        shutil.copytree(tiny_model, tmp_path / name)
    processor = next((tmp_path / "other").glob("*processor_config.json"))
    processor.write_text(processor.read_text() + "\n")
    config = load_config()
    with engines.Engines() as one:
        for name in ("a", "b", "other"):
            one._loaded(FolderModel(name, tmp_path / name), config)
    assert done == [("fleet", ""), ("start", "a"), ("load", "b"), ("fleet", ""), ("start", "other")]
