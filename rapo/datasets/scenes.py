"""Scenes: the embedded data set of photograph-like scenes with a known latent beauty, rated by
simulated raters.

Five attributes in [0, 1], one for each of `rapo.records.DIMENSIONS`, are sampled independently and
rendered:

- light and shadow: directional light (fall-off across the frame, lit and dark sides, a cast shadow)
  against flat light;
- mood and narrative: a clear path, figure and lit window, against a soft image in which they
  dissolve;
- composition: the subject on a third over a level horizon, against centred or at the edge under a
  tilted one;
- color: saturated hues of one palette, against grey ones that drift apart;
- exposure: balanced mid-tones, against a dark frame or clipped highlights.

The latent score is their stretched weighted mean. Every image has a seed of its own, from the run's
seed, its split and its number, so that neither the order of rendering nor the size of another split
changes a pixel.
"""

from __future__ import annotations

import colorsys
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from rapo.arrays import Floats
from rapo.config import ScenesConfig
from rapo.datasets.attribute_file import ATTRIBUTES, attribute_lines
from rapo.errors import DataError
from rapo.records import DIMENSIONS

_WEIGHTS = dict(zip(DIMENSIONS, (0.18, 0.20, 0.24, 0.20, 0.18), strict=True))
_MEAN, _STRETCH, _JITTER = 0.54, 1.42, 0.012
_LUMA = np.array([0.299, 0.587, 0.114])
# Hues of the upper sky, the lower sky, the ground and the subject; the hues of a row harmonise.
_PALETTES = np.array(
    [
        (0.58, 0.54, 0.27, 0.36),
        (0.72, 0.07, 0.64, 0.02),
        (0.57, 0.12, 0.09, 0.04),
        (0.62, 0.93, 0.50, 0.88),
        (0.55, 0.47, 0.14, 0.33),
    ]
)
_TEXTURE = 96  # texture has a grid of this side, so that a scene looks alike at every size
_SPLITS = ("train", "validation", "test")
_FIRST_ID = 10_000_000  # ids of each split start at a multiple of this, for any sizes of the others
_MANIFEST = "scenes.json"
_REVISION = 1  # raise it when the same seed renders other pixels


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered image: `image` is uint8 (size, size, 3); `attributes` has one value in [0, 1] per
    dimension."""

    image: NDArray[np.uint8]
    attributes: dict[str, float]
    score: float


def render_scene(rng: np.random.Generator, size: int) -> Scene:
    """Sample the attributes of one scene from `rng` and render it with `size` x `size` pixels.

    Raises `DataError` for a size below 56, at which the details that show the attributes vanish.
    """
    if size < 56:
        raise DataError(f"a scene needs at least 56 pixels a side, not {size}: raise data.scenes.size")
    attributes = {
        name: float(value) for name, value in zip(DIMENSIONS, rng.uniform(0, 1, len(DIMENSIONS)), strict=True)
    }
    mean = sum(_WEIGHTS[name] * value for name, value in attributes.items())
    score = float(np.clip(_MEAN + _STRETCH * (mean - 0.5) + rng.normal(0, _JITTER), 0.01, 0.99))
    return Scene(_render(rng, size, *(attributes[name] for name in DIMENSIONS)), attributes, score)


def rater_panel(rng: np.random.Generator, raters: int) -> Floats:
    """The biases of a panel `(raters,)` in votes of the scale 1..10, centred because a common bias
    only shifts the scale."""
    biases = rng.normal(0, 0.6, raters)
    return biases - biases.mean()


def rate_scene(rng: np.random.Generator, score: float, panel: Floats) -> NDArray[np.int64]:
    """Votes of a panel on one scene: counts `(10,)` of the votes 1..10 around `1 + 9 * score`."""
    votes = np.rint(1 + 9 * score + panel + rng.normal(0, 0.9, panel.size))
    return np.bincount(np.clip(votes, 1, 10).astype(np.int64) - 1, minlength=10)


def write_scenes(
    folder: Path, settings: ScenesConfig, seed: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Render a data set into `folder`, in AVA's layout (`rapo.datasets.ava`) with the attributes of
    each scene (`rapo.datasets.attribute_file`). The folder appears complete or not at all.

    `progress` is called with (done, total) after each image. A folder that already holds the same
    scenes is left as it is. Raises `DataError` if it holds anything else.
    """
    recipe = {"revision": _REVISION, "seed": seed, **settings.model_dump()}
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
    panel = rater_panel(_generator(seed, len(_SPLITS), 0), settings.raters)
    counts = dict(zip(_SPLITS, (settings.train, settings.validation, settings.test), strict=True))
    total = sum(counts.values())
    rows: list[str] = []
    attributes: list[tuple[str, dict[str, float]]] = []
    ids: dict[str, list[int]] = {}
    for split, name in enumerate(_SPLITS):
        ids[name] = [_FIRST_ID * (split + 1) + number for number in range(counts[name])]
        for number, image_id in enumerate(ids[name]):
            rng = _generator(seed, split, number)
            scene = render_scene(rng, settings.size)
            # Not flushed to the disk one by one: that costs more than rendering, and a lost image
            # can be rendered again.
            Image.fromarray(scene.image).save(images / f"{image_id}.jpg", quality=95, subsampling=0)
            votes = " ".join(map(str, rate_scene(rng, scene.score, panel)))
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


def _check_same(folder: Path, recipe: dict[str, int]) -> None:
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} exists and is not a folder of scenes: remove it or choose another") from error
    if found != recipe:
        raise DataError(
            f"{folder} holds scenes of other settings ({found}, wanted {recipe}): remove it or choose another"
        )


def _render(
    rng: np.random.Generator, size: int, light: float, mood: float, composition: float, color: float, exposure: float
) -> NDArray[np.uint8]:
    soft = 1.2 / size  # the width of edges in units of the frame: about a pixel
    grid = (np.arange(size) + 0.5) / size
    frame_x, frame_y = np.meshgrid(grid, grid)
    side = rng.choice([-1.0, 1.0])  # where the light comes from

    level, placed = np.clip(composition + rng.normal(0, 0.04, 2), 0, 1)
    tilt = rng.choice([-1.0, 1.0]) * (1 - level) * 0.42
    third, worst = rng.choice([1 / 3, 2 / 3]), rng.choice([0.5, 0.5, 0.04, 0.96])
    # The coordinates of the scene are those of the frame, rotated about its centre by the tilt.
    x = 0.5 + (frame_x - 0.5) * np.cos(tilt) - (frame_y - 0.5) * np.sin(tilt)
    y = 0.5 + (frame_x - 0.5) * np.sin(tilt) + (frame_y - 0.5) * np.cos(tilt)
    horizon = 0.53 + 0.12 * placed
    subject_x = third + (worst - third) * (1 - placed)
    base = horizon + 0.05

    sky_top, sky_low, ground, subject = _colors(rng, color)
    blend = np.clip(y / horizon, 0, 1)[..., None]
    image = sky_top + (sky_low - sky_top) * blend
    image = _over(image, ground * (1.15 - 0.5 * np.clip(y - horizon, 0, 1))[..., None], _step(y - horizon, soft))
    texture = _texture(rng, size)
    image = image * (1 + (0.05 + 0.20 * _step(y - horizon, soft)) * texture)[..., None]

    shadow = _ellipse(x, y, subject_x - side * 0.24, base + 0.03, 0.28, 0.05, soft * 3) * _step(y - horizon, soft)
    image = image * (1 - 0.75 * light * shadow)[..., None]
    winding = subject_x + 0.05 * np.sin((y - horizon) * 14)
    path = _step(0.02 + 0.16 * (y - horizon) - np.abs(x - winding), soft) * _step(y - horizon - 0.03, soft)
    image = _over(image, 0.5 * sky_low + 0.5 * ground + 0.1, 0.8 * mood * path)

    shape, lit, window = _subject(rng, x, y, subject_x, base, side, soft)
    shaded = subject * (1 + 0.75 * light * lit)[..., None] * (1 + 0.22 * texture)[..., None]
    image = _over(image, shaded, shape)
    glow = np.array([1.0, 0.75, 0.35]) * color + 0.75 * (1 - color)
    image = _over(image, glow, mood * window)
    image = _over(image, ground * 0.15, mood * _figure(x, y, subject_x, horizon, soft))

    fall_off = 1 + 0.62 * light * side * (2 * frame_x - 1)
    image = ndimage.gaussian_filter(image * fall_off[..., None], (*[2.4 * (1 - mood) * size / 84] * 2, 0))
    # The frame is balanced first, so that the stops below are the whole exposure error.
    image = image * (0.45 / float((image @ _LUMA).mean()))
    over = rng.uniform() < 0.3
    stops = (1 - exposure) * (1.1 if over else -2.2)
    image = image * 2.0**stops + rng.normal(0, 0.004, image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _colors(rng: np.random.Generator, color: float) -> list[Floats]:
    hues = _PALETTES[rng.integers(len(_PALETTES))] + rng.normal(0, 0.015, 4)
    hues = hues + (1 - color) * rng.uniform(-0.22, 0.22, 4)
    colors = []
    for hue, luma in zip(hues, (0.50, 0.78, 0.27, 0.44), strict=True):
        rgb = np.array(colorsys.hsv_to_rgb(float(hue) % 1.0, 0.06 + 0.68 * color, 1.0))
        colors.append(rgb * luma / float(rgb @ _LUMA))
    return colors


def _texture(rng: np.random.Generator, size: int) -> Floats:
    noise = rng.normal(0, 1, (_TEXTURE, _TEXTURE))
    noise = 0.75 * noise + 2.0 * ndimage.gaussian_filter(noise, 1.5)
    if size <= _TEXTURE:
        return noise[:size, :size]
    return ndimage.zoom(noise, size / _TEXTURE, order=1, grid_mode=True, mode="nearest")[:size, :size]


def _subject(
    rng: np.random.Generator, x: Floats, y: Floats, center: float, base: float, side: float, soft: float
) -> tuple[Floats, Floats, Floats]:
    """The coverage of a tree, a peak or a house, how far each point faces the light ([-1, 1]), and
    the coverage of its window."""
    kind = rng.integers(3)
    dark = np.zeros_like(x)
    across = (x - center) * side
    if kind == 0:
        radius = 0.17
        crown = _ellipse(x, y, center, base - 0.29, radius, radius, soft)
        trunk = _box(x, y, center, base - 0.07, 0.025, 0.08, soft)
        return np.maximum(crown, trunk), np.clip(across / radius, -1, 1), dark
    facing = np.clip(across / 0.015, -1, 1)
    if kind == 1:
        rise = base - y
        shape = _step(0.25 * (1 - rise / 0.42) - np.abs(x - center), soft) * _step(rise, soft)
        return shape, facing, dark
    walls = _box(x, y, center, base - 0.11, 0.15, 0.11, soft)
    rise = base - 0.21 - y
    roof = _step(0.19 * (1 - rise / 0.15) - np.abs(x - center), soft) * _step(rise, soft)
    return np.maximum(walls, roof), facing, _box(x, y, center, base - 0.11, 0.03, 0.04, soft)


def _figure(x: Floats, y: Floats, center: float, horizon: float, soft: float) -> Floats:
    foot_x, foot_y = center + 0.05 * np.sin(0.2 * 14), horizon + 0.21
    body = _ellipse(x, y, foot_x, foot_y - 0.055, 0.022, 0.06, soft)
    return np.maximum(body, _ellipse(x, y, foot_x, foot_y - 0.13, 0.02, 0.02, soft))


def _step(distance: Floats, soft: float) -> Floats:
    return np.clip(distance / soft + 0.5, 0, 1)


def _ellipse(x: Floats, y: Floats, cx: float, cy: float, rx: float, ry: float, soft: float) -> Floats:
    return _step((1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry), soft)


def _box(x: Floats, y: Floats, cx: float, cy: float, half_x: float, half_y: float, soft: float) -> Floats:
    return _step(half_x - np.abs(x - cx), soft) * _step(half_y - np.abs(y - cy), soft)


def _over(image: Floats, paint: Floats, coverage: Floats) -> Floats:
    return image + (paint - image) * coverage[..., None]
