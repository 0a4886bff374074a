"""Inputs: what changed between two starts behind the same path is an error that names it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from label_files import make_image, rated, table

from cluster.files.run_folder import RunFolder
from cluster.pipeline.inputs import raise_changed
from cluster.pipeline.results import ColdStartResult
from cluster.pipeline.runner import Pipeline
from cluster.terminal.console import Console
from rapo.config import load_config
from rapo.errors import RunFolderError
from rapo.util.file_digest import model_digest

Change = Callable[[Path], object]


def started(tmp_path: Path) -> tuple[RunFolder, list[str]]:
    """A run whose data stage is finished."""
    settings = [f"data.path={table(tmp_path / 't.csv', rated(12))}"]
    config, folder = load_config(None, settings), RunFolder(tmp_path / "run")
    with folder.open(config):
        Pipeline(config, folder, Console()).run(("data",))
    return folder, settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "t.csv").write_text((d / "t.csv").read_text() + "img/0.png,0.9\n"), r"t\.csv has changed"),
        (lambda d: make_image(d / "img/3.png", 99), r"the image .*img/3\.png changed since the stage data"),
        (lambda d: (d / "img/3.png").unlink(), r"the image .*img/3\.png changed"),
        (lambda d: [make_image(d / f"img/{i}.png", 40 + i) for i in (3, 4, 5)], r"3\.png and 2 more changed"),
    ],
)
def test_labels_and_images(tmp_path: Path, change: Change, words: str) -> None:
    folder, settings = started(tmp_path)
    raise_changed(load_config(None, settings), folder)
    change(tmp_path)
    with pytest.raises(RunFolderError, match=rf"{words}.*another --out"):
        Pipeline(load_config(None, settings), folder, Console()).run(("aescot",))


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    folder, settings = started(tmp_path)
    shutil.copytree(tmp_path / "img", tmp_path / "copy")
    shutil.rmtree(tmp_path / "img")
    (tmp_path / "copy").rename(tmp_path / "img")
    raise_changed(load_config(None, settings), folder)


def test_a_run_that_is_finished_needs_nothing(tmp_path: Path) -> None:
    folder, settings = started(tmp_path)
    shutil.rmtree(tmp_path / "img")
    Pipeline(load_config(None, settings), folder, Console()).run(("data",))


def test_a_model_folder(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = bytearray(bytes(range(256)) * 20_000)
    (model / "model.safetensors").write_bytes(weights)
    config, folder = load_config(None, [f"policy.model={model}"]), RunFolder(tmp_path / "run")
    folder.finish("coldstart", 1.0, ColdStartResult(1, 1, model_digest(model)))
    (model / ".cache").mkdir()
    raise_changed(config, folder)
    weights[len(weights) // 2 :] = bytes(len(weights) - len(weights) // 2)
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(RunFolderError, match=r"the model folder .*model changed since the stage coldstart"):
        raise_changed(config, folder)
