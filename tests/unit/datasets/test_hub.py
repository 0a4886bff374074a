"""Data sets of Hugging Face: folders that `datasets` saved, and names of the hub without the
network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter
from label_files import make_image

from rapo.config import DataConfig, ImageConfig
from rapo.datasets.load import Dataset, load_dataset
from rapo.errors import DataError

FEATURES = datasets.Features({"image": datasets.Image(), "mos": datasets.Value("float32")})
SIZES = {"train": 8, "validation": 3, "test": 4}


@pytest.fixture
def splits(tmp_path: Path) -> datasets.DatasetDict:
    """Rows with the image itself, as {bytes, path}."""
    rows, first = {}, 0
    for split, size in SIZES.items():
        images = []
        for number in range(first, first + size):
            make_image(tmp_path / "images" / f"{number}.png", number)
            images.append({"bytes": (tmp_path / "images" / f"{number}.png").read_bytes(), "path": f"{number}.png"})
        scores = [1 + 4 * number / 15 for number in range(first, first + size)]
        rows[split] = datasets.Dataset.from_dict({"image": images, "mos": scores}, features=FEATURES)
        first += size
    return datasets.DatasetDict(rows)


def load(tmp_path: Path, **source: object) -> Dataset:
    config = DataConfig.model_validate({"score_range": [1, 5], **source})
    return load_dataset(config, ImageConfig(), 0, work=tmp_path / "work")


def sizes(dataset: Dataset) -> dict[str, int]:
    return {split: sum(record.split == split for record in dataset.records) for split in SIZES}


def test_a_saved_data_set_has_its_splits_and_images(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(tmp_path / "saved")
    dataset = load(tmp_path, path=tmp_path / "saved")
    assert sizes(dataset) == SIZES
    assert all(record.path is not None and record.path.is_file() for record in dataset.records)
    by_score = sorted(record.score for record in dataset.records)
    assert by_score == pytest.approx([number / 15 for number in range(15)])
    assert {record.dataset for record in dataset.records} == {"saved"}


def test_one_saved_split_is_divided_by_hash(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits["train"].save_to_disk(tmp_path / "saved")
    counts = sizes(load(tmp_path, path=tmp_path / "saved"))
    assert sum(counts.values()) == SIZES["train"]
    assert all(counts.values())


def test_a_name_of_the_hub_is_read_from_the_local_cache(
    tmp_path: Path, splits: datasets.DatasetDict, cache: Path
) -> None:
    folder = cache / "someone___photos" / "default" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    info = datasets.DatasetInfo(features=FEATURES, splits=datasets.SplitDict(dataset_name="photos"))
    info.builder_name, info.dataset_name, info.config_name, info.version = "parquet", "photos", "default", "0.0.0"
    for split, rows in splits.items():
        with ArrowWriter(path=str(folder / f"photos-{split}.arrow"), features=FEATURES) as writer:
            for row in rows.with_format("arrow").iter(100):
                writer.write_table(row)
            writer.finalize()
        info.splits.add(datasets.SplitInfo(name=split, num_examples=len(rows), dataset_name="photos"))
    info.write_to_directory(str(folder))
    dataset = load(tmp_path, hub="someone/photos")
    assert sizes(dataset) == SIZES
    assert {record.dataset for record in dataset.records} == {"photos"}


def test_a_name_that_is_not_in_the_cache_says_how_it_is_downloaded(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"someone/nothing.*data\.online = true downloads it"):
        load(tmp_path, hub="someone/nothing")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other(path: Path) -> None:
    path.write_text("{}")


ROWS = "data-00000-of-00001.arrow"


@pytest.mark.parametrize(
    ("damage", "name"),
    [(Path.unlink, "state.json"), (cut, "state.json"), (other, "state.json"), (Path.unlink, ROWS), (cut, ROWS)],
)
def test_a_damaged_data_set_is_named(
    tmp_path: Path, splits: datasets.DatasetDict, name: str, damage: Callable[[Path], None]
) -> None:
    splits.save_to_disk(tmp_path / "saved")
    damage(tmp_path / "saved" / "train" / name)
    with pytest.raises(DataError, match=r"cannot read the data set .*saved"):
        load(tmp_path, path=tmp_path / "saved")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of `datasets`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"
