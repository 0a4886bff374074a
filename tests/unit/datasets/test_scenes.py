"""Scenes: seeds, attributes that can be measured, ratings, and the folder in AVA layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from rapo.aescot.measure import measure
from rapo.config import ScenesConfig
from rapo.datasets.scenes import folder as scenes
from rapo.datasets.scenes import render_scene, write_scenes
from rapo.datasets.scenes.raters import rate_scene, rater_panel
from rapo.datasets.scenes.worlds import UNSEEN, USUAL
from rapo.errors import DataError, ImageError
from rapo.records import DIMENSIONS

SMALL = ScenesConfig(train=12, validation=4, test=6, size=56, raters=10)


@pytest.fixture(scope="module")
def rendered():
    return [render_scene(np.random.default_rng([5, i]), 84) for i in range(300)]


def test_same_seed_same_scene_other_seed_another():
    one, two, other = (render_scene(np.random.default_rng(seed), 84) for seed in (1, 1, 2))
    assert np.array_equal(one.image, two.image)
    assert one.attributes == two.attributes
    assert one.score == two.score
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("size", [56, 84, 150])
def test_a_scene_has_the_requested_size(size):
    scene = render_scene(np.random.default_rng(0), size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert tuple(scene.attributes) == DIMENSIONS


def test_too_small_a_scene_is_refused():
    with pytest.raises(DataError, match=r"data\.scenes\.size"):
        render_scene(np.random.default_rng(0), 20)


def test_scores_spread_over_all_bands(rendered):
    scores = np.array([scene.score for scene in rendered])
    assert 0.15 < scores.std() < 0.21
    assert scores.min() < 0.15
    assert scores.max() > 0.9
    for low, high in ((0, 0.4), (0.4, 0.7), (0.7, 1)):
        assert ((scores >= low) & (scores < high)).mean() > 0.12


def test_every_attribute_raises_the_score(rendered):
    scores = [scene.score for scene in rendered]
    for name in DIMENSIONS:
        assert spearmanr([scene.attributes[name] for scene in rendered], scores)[0] > 0.2


@pytest.fixture(scope="module")
def measured(rendered):
    return [measure(scene.image) for scene in rendered]


@pytest.mark.parametrize("name", DIMENSIONS)
def test_every_attribute_can_be_measured_from_pixels(rendered, measured, name):
    latent = np.array([scene.attributes[name] for scene in rendered])
    found = np.array([values[name] for values in measured])
    assert spearmanr(found, latent)[0] > 0.9
    assert np.abs(found - latent).mean() < 0.12
    others = [np.array([scene.attributes[other] for scene in rendered]) for other in DIMENSIONS if other != name]
    assert max(abs(spearmanr(found, other)[0]) for other in others) < 0.25


def test_mean_vote_follows_the_latent_score(rendered):
    rng = np.random.default_rng(0)
    panel = rater_panel(rng, 40)
    votes = np.array([rate_scene(rng, scene.score, panel) for scene in rendered])
    assert (votes.sum(1) == 40).all()
    mean = (votes @ np.arange(1, 11) / 40 - 1) / 9
    assert pearsonr(mean, [scene.score for scene in rendered])[0] > 0.985
    assert np.abs(mean - [scene.score for scene in rendered]).max() < 0.09


def test_raters_disagree():
    rng = np.random.default_rng(0)
    assert (rate_scene(rng, 0.5, rater_panel(rng, 40)) > 0).sum() >= 3


def test_folder_is_in_ava_layout(tmp_path):
    seen = []
    write_scenes(tmp_path / "ava", SMALL, 3, lambda done, total: seen.append((done, total)))
    rows = [line.split(" ") for line in (tmp_path / "ava/AVA.txt").read_text().splitlines()]
    assert seen == [(i + 1, 22) for i in range(22)]
    assert {len(row) for row in rows} == {15}
    assert [int(row[0]) for row in rows] == list(range(1, 23))
    assert all(sum(map(int, row[2:12])) == SMALL.raters for row in rows)
    lists = tmp_path / "ava/aesthetics_image_lists"
    test, validation = ((lists / f"{name}.jpgl").read_text().split() for name in ("generic_test", "validation"))
    assert (len(test), len(validation)) == (6, 4)
    assert not set(test) & set(validation)
    ids = {row[1] for row in rows}
    assert len(ids) == 22
    assert set(test) | set(validation) < ids
    assert {path.stem for path in (tmp_path / "ava/images").glob("*.jpg")} == ids
    with Image.open(tmp_path / "ava/images" / f"{test[0]}.jpg") as image:
        assert image.size == (56, 56)


def test_split_does_not_depend_on_the_size_of_another(tmp_path):
    write_scenes(tmp_path / "a", SMALL, 3)
    write_scenes(tmp_path / "b", SMALL.model_copy(update={"train": 5}), 3)
    write_scenes(tmp_path / "c", SMALL, 4)
    rows = {k: dict(_by_id(tmp_path / k / "AVA.txt")) for k in "abc"}
    shared = rows["a"].keys() & rows["b"].keys()
    assert len(shared) == 15
    assert all(rows["a"][i] == rows["b"][i] for i in shared)
    assert any(rows["a"][i] != rows["c"][i] for i in shared)
    for image_id in shared:
        a, b = ((tmp_path / k / "images" / f"{image_id}.jpg").read_bytes() for k in "ab")
        assert a == b


def _by_id(path):
    return ((line.split()[1], line.split()[2:]) for line in path.read_text().splitlines())


def test_the_folder_appears_complete_or_not_at_all(tmp_path):
    class StopError(Exception):
        pass

    def stop(done, total):
        assert not (tmp_path / "ava").exists()
        if done == 5:
            raise StopError

    with pytest.raises(StopError):
        write_scenes(tmp_path / "ava", SMALL, 3, stop)
    assert list(tmp_path.iterdir()) == []


def test_same_folder_again_is_kept_and_another_refused(tmp_path, monkeypatch):
    write_scenes(tmp_path / "ava", SMALL, 3)
    monkeypatch.setattr(scenes, "render_scene", None)
    write_scenes(tmp_path / "ava", SMALL, 3)
    with pytest.raises(DataError, match="other settings"):
        write_scenes(tmp_path / "ava", SMALL, 4)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="not a folder of scenes"):
        write_scenes(tmp_path / "mine", SMALL, 3)
    assert json.loads((tmp_path / "ava/scenes.json").read_text())["seed"] == 3


def test_lost_race_against_the_same_scenes_is_no_error(tmp_path):
    def rival(done, total):
        if done == total:
            write_scenes(tmp_path / "ava", SMALL, 3)

    write_scenes(tmp_path / "ava", SMALL, 3, rival)
    assert [path.name for path in tmp_path.iterdir()] == ["ava"]


@pytest.mark.parametrize("shape", [(16, 16), (84, 84), (1, 1), (3, 900), (700, 400)])
@pytest.mark.parametrize("fill", ["black", "white", "grey", "noise"])
def test_measures_are_finite_for_any_image(shape, fill):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    values = {"black": 0, "white": 255, "grey": 128}
    image = noise if fill == "noise" else np.full_like(noise, values[fill])
    found = measure(image)
    assert tuple(found) == DIMENSIONS
    assert all(0 <= value <= 1 for value in found.values())
    if fill in ("black", "white"):
        assert found["exposure"] < 0.1
    if fill != "noise":
        assert found["color"] == found["mood and narrative"] == found["light and shadow"] == 0


def test_measures_hardly_depend_on_resolution(rendered):
    for scene in rendered[:20]:
        large = np.asarray(Image.fromarray(scene.image).resize((336, 336), Image.Resampling.BICUBIC))
        small, other = measure(scene.image), measure(large)
        assert all(abs(small[name] - other[name]) < 0.25 for name in DIMENSIONS)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_measure_refuses_other_layouts(image):
    with pytest.raises(ImageError) as caught:
        measure(image)
    assert caught.value.reason == "layout"


def test_the_unseen_world_shares_no_palette_and_no_subject_and_shows_the_same_attributes():
    assert not set(UNSEEN.palettes) & set(USUAL.palettes)
    assert not set(UNSEEN.subjects) & set(USUAL.subjects)
    pairs = [[render_scene(np.random.default_rng([5, i]), 84, world) for world in (USUAL, UNSEEN)] for i in range(60)]
    assert all(usual.score == unseen.score and usual.attributes == unseen.attributes for usual, unseen in pairs)
    assert not any(np.array_equal(usual.image, unseen.image) for usual, unseen in pairs)
    for name in DIMENSIONS:
        seen = [measure(unseen.image)[name] for _, unseen in pairs]
        assert spearmanr(seen, [unseen.attributes[name] for _, unseen in pairs]).statistic > 0.8


def test_unseen_raters_avoid_the_ends_of_the_scale():
    rng = np.random.default_rng(0)
    means = [
        np.mean([rate_scene(rng, 0.95, rater_panel(rng, 40, world), world) @ np.arange(1, 11) / 40 for _ in range(50)])
        for world in (USUAL, UNSEEN)
    ]
    assert means[1] < means[0] - 0.5
