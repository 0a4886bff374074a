"""Scene folder: writes the embedded data set to disk, in AVA's layout with the attributes of each
scene.

Every image has a seed of its own, from the run's seed, its split and its number, so that neither
the order of rendering nor the size of another split changes a pixel.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rapo.config import ScenesConfig
from rapo.datasets.attribute_file import ATTRIBUTES, attribute_lines
from rapo.datasets.scenes.raters import rate_scene, rater_panel
from rapo.datasets.scenes.render import render_scene
from rapo.datasets.scenes.worlds import WORLDS
from rapo.errors import DataError

_SPLITS = ("train", "validation", "test")
_FIRST_ID = 10_000_000  # ids of each split start at a multiple of this, for any sizes of the others
_MANIFEST = "scenes.json"
_REVISION = 1  # raise it when the same seed renders other pixels


def write_scenes(
    folder: Path, settings: ScenesConfig, seed: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Render a data set into `folder`, in AVA's layout (`rapo.datasets.ava`) with the attributes of
    each scene (`rapo.datasets.attribute_file`). The folder appears complete or not at all.

    `progress` is called with (done, total) after each image. A folder that already holds the same
    scenes is left as it is. Raises `DataError` if it holds anything else.
    """
    recipe: dict[str, int | str] = {"revision": _REVISION, "seed": seed, **settings.model_dump()}
    if folder.exists():
        _check_same(folder, recipe)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        _fill(partial, settings, seed, progress)
        _write(partial / _MANIFEST, json.dumps(recipe, indent=2).encode() + b"\n")
        try:
            partial.rename(folder)
        except OSError:
            # Another process may have finished the same scenes first; a rename never replaces a
            # folder that holds files.
            if not folder.exists():
                raise
            _check_same(folder, recipe)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, settings: ScenesConfig, seed: int, progress: Callable[[int, int], None] | None) -> None:
    images, lists = folder / "images", folder / "aesthetics_image_lists"
    images.mkdir(parents=True)
    lists.mkdir()
    world = WORLDS[settings.world]
    panel = rater_panel(_generator(seed, len(_SPLITS), 0), settings.raters, world)
    counts = dict(zip(_SPLITS, (settings.train, settings.validation, settings.test), strict=True))
    total = sum(counts.values())
    rows: list[str] = []
    attributes: list[tuple[str, dict[str, float]]] = []
    ids: dict[str, list[int]] = {}
    for split, name in enumerate(_SPLITS):
        ids[name] = [_FIRST_ID * (split + 1) + number for number in range(counts[name])]
        for number, image_id in enumerate(ids[name]):
            rng = _generator(seed, split, number)
            scene = render_scene(rng, settings.size, world)
            # Not flushed to the disk one by one: that costs more than rendering, and a lost image
            # can be rendered again.
            Image.fromarray(scene.image).save(images / f"{image_id}.jpg", quality=95, subsampling=0)
            votes = " ".join(map(str, rate_scene(rng, scene.score, panel, world)))
            rows.append(f"{len(rows) + 1} {image_id} {votes} 0 0 1\n")
            attributes.append((str(image_id), scene.attributes))
            if progress is not None:
                progress(len(rows), total)
    _write(folder / "AVA.txt", "".join(rows).encode())
    _write(folder / ATTRIBUTES, attribute_lines(attributes).encode())
    _write(lists / "generic_test.jpgl", "".join(f"{i}\n" for i in ids["test"]).encode())
    _write(lists / "validation.jpgl", "".join(f"{i}\n" for i in ids["validation"]).encode())


def _generator(seed: int, split: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split, number)))


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _check_same(folder: Path, recipe: dict[str, int | str]) -> None:
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} exists and is not a folder of scenes: remove it or choose another") from error
    if found != recipe:
        raise DataError(
            f"{folder} holds scenes of other settings ({found}, wanted {recipe}): remove it or choose another"
        )
