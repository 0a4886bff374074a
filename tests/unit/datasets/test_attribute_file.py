"""The attribute file: written by the scenes, read beside AVA's labels, and optional."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_files import ava, load

from rapo.config import ScenesConfig
from rapo.datasets.attribute_file import ATTRIBUTES, read_attributes
from rapo.datasets.scenes import folder as scenes
from rapo.datasets.scenes import render_scene, write_scenes
from rapo.datasets.scenes.render import Scene
from rapo.datasets.scenes.worlds import World
from rapo.errors import DataError
from rapo.records import DIMENSIONS

SMALL = ScenesConfig(train=4, validation=3, test=2, size=56, raters=10)
HEADER = "image,light and shadow,mood and narrative,composition,color,exposure\n"


def test_every_record_of_the_scenes_has_the_attributes_that_it_was_rendered_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []

    def keep(rng: np.random.Generator, size: int, world: World) -> Scene:
        rendered.append(render_scene(rng, size, world))
        return rendered[-1]

    monkeypatch.setattr(scenes, "render_scene", keep)
    write_scenes(tmp_path / "scenes", SMALL, 3)
    dataset = load(tmp_path / "scenes")
    assert len(rendered) == len(dataset.records) == 9
    for scene, record in zip(rendered, dataset.records, strict=True):
        assert record.attributes == tuple(scene.attributes[name] for name in DIMENSIONS)


def test_a_folder_of_scenes_without_the_file_is_the_same_data_set(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", SMALL, 3)
    with_file = load(tmp_path / "scenes")
    (tmp_path / "scenes" / ATTRIBUTES).unlink()
    write_scenes(tmp_path / "scenes", SMALL, 3)
    without = load(tmp_path / "scenes")
    assert all(record.attributes is None for record in without.records)
    assert [(r.uid, r.score, r.votes) for r in without.records] == [
        (r.uid, r.score, r.votes) for r in with_file.records
    ]


def test_images_that_the_file_does_not_name_have_no_attributes(tmp_path: Path) -> None:
    folder = ava(tmp_path)
    (folder / ATTRIBUTES).write_text(HEADER + "1007,0,0.25,0.5,0.75,1\n")
    found = {record.uid: record.attributes for record in load(folder).records}
    assert found.pop("ava/1007") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be image,light and shadow"),
        ("image,color\n", "the first line must be"),
        (HEADER + "a,0,0,0,0\n", "line 2: 'a,0,0,0,0'"),
        (HEADER + "a,0,0,0,0,1.5\n", "line 2"),
        (HEADER + "a,0,0,0,0,nan\n", "line 2"),
        (HEADER + "a,0,0,0,0,x\n", "line 2"),
        (HEADER + "a,0,0,0,0,0_1\n", "line 2"),
        (HEADER + "a,0,0,0,0,1\n\nb,0,0,0,0,1\n", "line 3"),
        (HEADER + "a,0,0,0,0,1\na,0,0,0,0,1\n", "line 3"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / ATTRIBUTES
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_attributes(path)
