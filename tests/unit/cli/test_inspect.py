"""What `rapo data inspect` and `rapo check` find about data before a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from collection_files import COLLECTIONS, koniq, tad66k, write
from label_files import ava, make_image, rated, table
from typer.testing import CliRunner

from cluster.cli.inspect import inspect_lines
from cluster.cli.main import app
from rapo.config import load_config
from rapo.datasets.check import DataCheck, check_data
from rapo.errors import DataError


def inspect(path: Path, *overrides: str) -> dict[str, str]:
    """The lines by the word that they begin with."""
    found: dict[str, str] = {}
    for line in inspect_lines(path, load_config(None, overrides)):
        word, _, text = line.partition(" ")
        found[word] = f"{found[word]}\n{text}" if word in found else text.strip()
    return found


def check(*overrides: str) -> DataCheck:
    return check_data(load_config(None, overrides))


@pytest.mark.parametrize("name", COLLECTIONS)
def test_each_collection_is_shown(tmp_path, name):
    make, native_range, std_range, has_splits, images = COLLECTIONS[name]
    lines = inspect(make(tmp_path / "data"))
    assert lines["layout"].startswith(f"{name}: ")
    assert lines["rows"] == str(images)
    assert lines["scale"] == f"{native_range[0]:g} to {native_range[1]:g}"
    assert (lines["splits"] == "none of its own; a run divides it by hash") == (not has_splits)
    assert (lines["spreads"] == "none") == (std_range is None)
    assert f"0 missing of {images} (all looked for)" in lines["images"]


def test_missing_and_broken_images_are_counted(tmp_path):
    path = table(tmp_path / "t.csv", rated(20))
    (tmp_path / "img/3.png").unlink()
    (tmp_path / "img/5.png").write_bytes(b"no image")
    text = "\n".join(inspect_lines(path, load_config(None)))
    assert "1 missing of 20" in text
    assert "1 broken of 19 opened (1 unknown_format)" in text
    assert str(tmp_path / "img/3.png") in text


def test_missing_images_come_with_what_lies_there(tmp_path):
    rows = [{"image": f"img/{i}.PNG", "score": 0.5} for i in range(9)]
    path = table(tmp_path / "t.csv", rows, images=False)
    for i in range(9):
        make_image(tmp_path / f"img/{i}.png", i)
    assert any("'img/0.PNG' is there as 'img/0.png'" in line for line in inspect_lines(path, load_config()))


def test_the_histogram_counts_every_row(tmp_path):
    lines = [line for line in inspect_lines(table(tmp_path / "t.csv", rated(40)), load_config(None)) if line[0] == " "]
    counts = [int(line.split()[3]) for line in lines if line.split()[1:2] == ["to"]]
    assert (len(counts), sum(counts)) == (10, 40)
    assert max(line.count("#") for line in lines) == 40


def test_a_scale_that_is_not_declared_is_said(tmp_path):
    path = table(tmp_path / "t.csv", [{"image": "a.png", "score": 4}, {"image": "b.png", "score": 2}])
    assert "data.score_range" in inspect(path)["to"]
    assert "to" not in inspect(path, "data.score_range=[1,5]")


def test_a_folder_of_several_collections_is_listed(tmp_path):
    koniq(tmp_path / "koniq")
    tad66k(tmp_path / "tad66k")
    write(tmp_path / "notes.txt", "hello\n")
    text = "\n".join(inspect_lines(tmp_path, load_config(None)))
    assert "koniq/koniq10k_distributions_sets.csv\n    koniq: 20 rows" in text
    assert "notes.txt is a list of names without scores" in text
    make_image(tmp_path / "photos" / "a.jpg")
    with pytest.raises(DataError, match="holds no labels"):
        list(inspect_lines(tmp_path / "photos", load_config(None)))


def test_the_command(tmp_path):
    path = table(tmp_path / "labels.csv", rated(6))
    done = CliRunner().invoke(app, ["data", "inspect", str(path)])
    assert done.exit_code == 0
    assert "layout   table" in done.stdout
    (tmp_path / "elsewhere").mkdir()
    done = CliRunner().invoke(app, ["data", "inspect", str(path), "--images", str(tmp_path / "elsewhere")])
    assert "6 missing of 6" in done.stdout


# rapo check


def test_a_sigma_is_held_against_the_sets(tmp_path):
    data = f"data.path={ava(tmp_path)}"
    assert check(data, "rapo.reward.sigma={ava=0.1}").problems == []
    (wrong, missing) = check(data, "rapo.reward.sigma={avaa=0.1}").problems
    assert "names the data set 'avaa', but there is only ava" in wrong
    assert "gives none for the data set 'ava'" in missing
    assert check("rapo.reward.sigma={scenes=0.1}").problems != []


def test_soft_ties_need_spreads(tmp_path):
    soft = 'rapo.reward.ties="soft"'
    koniq(tmp_path / "koniq")
    tad66k(tmp_path / "tad")
    both = f'data.sources=[{{path="{tmp_path}/koniq"}},{{path="{tmp_path}/tad"}}]'
    found = check(both, soft)
    assert found.problems == []
    assert any("no spreads in tad66k" in line for line in found.warnings)
    assert any("'soft' needs the raters' spread" in line for line in check(f"data.path={tmp_path}/tad", soft).problems)
    assert check(f"data.path={tmp_path}/koniq", soft) == check(f"data.path={tmp_path}/koniq")


def test_images_are_opened(tmp_path):
    path = table(tmp_path / "t.csv", rated(9))
    assert check(f"data.path={path}").warnings == []
    (tmp_path / "img/4.png").write_bytes(b"no image")
    (warning,) = check(f"data.path={path}").warnings
    assert "1 of 9 images looked at: unknown_format" in warning
    for image in (tmp_path / "img").iterdir():
        image.unlink()
    (problem,) = check(f"data.path={path}").problems
    assert "9 of 9 images cannot be used (9 missing)" in problem
    assert "data.images" in problem


def test_it_is_said_how_many_images_the_time_allowed(tmp_path, monkeypatch):
    path = table(tmp_path / "t.csv", rated(200))
    assert "looked at" not in check(f"data.path={path}").lines[0]
    monkeypatch.setattr("rapo.datasets.check._SECONDS", 0.0)
    assert "; 32 of 200 images were looked at" in check(f"data.path={path}").lines[0]


def test_a_split_that_nothing_is_for(tmp_path):
    path = table(tmp_path / "list.json", [{"image": f"{i}.png", "gt_score": 0.5} for i in range(4)])
    (problem,) = check(f"data.path={path}").problems
    assert "no image falls into the train split" in problem


def test_labels_that_cannot_be_read_are_a_problem(tmp_path):
    path = write(tmp_path / "t.csv", "image,score\na.jpg,good\n")
    (problem,) = check(f"data.path={path}").problems
    assert "line 2: score 'good'" in problem
