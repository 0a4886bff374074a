"""Dataset loading: reads labels, normalises them to [0, 1], assigns splits and checks every image.

An unusable image is skipped, counted and listed. Wrong labels are an error.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, get_args

from rapo.config import DataConfig, ImageConfig
from rapo.datasets.ava import read_ava
from rapo.datasets.rows import LabelRow, LabelSource, raise_bad_rows
from rapo.datasets.splits import carve_validation, hash_fraction, hash_splits
from rapo.datasets.table import READERS, read_table
from rapo.errors import ConfigError, DataError, ImageError
from rapo.images.decode import check_image_file
from rapo.records import ImageRecord, Split

#: Up to this many images, each image is fully decoded at load. In larger sets only the headers are
#: read.
DECODE_UP_TO = 20_000

ACCEPTED = (
    "data.path takes a folder in AVA's layout (AVA.txt, images/<id>.jpg, aesthetics_image_lists/generic_test.jpgl), "
    f"or a table with the columns image, score[, std, split] as one of {', '.join(READERS)}"
)

_SPLITS: tuple[Split, ...] = get_args(Split)


class DatasetInfo(TypedDict):
    """The facts about a data set that the run folder keeps.

    `verify` is "decode" or "header". `counts` are the images of each split, `skipped` those of each
    reason. `label_mean` and `label_sd` are of the normalised scores. `listed_without_votes` counts
    images that AVA's split lists name and its label file does not rate.
    """

    format: str
    path: str
    normalizer: str
    native_range: list[float]
    split_source: str
    verify: str
    counts: dict[Split, int]
    skipped: dict[str, int]
    label_mean: float
    label_sd: float
    listed_without_votes: NotRequired[int]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Records in the order of the label file, each with `path` set, and the skipped images.

    `skipped` rows hold image, reason and detail.
    """

    name: str
    records: tuple[ImageRecord, ...]
    skipped: tuple[dict[str, str], ...]
    info: DatasetInfo

    def split(self, split: Split) -> tuple[ImageRecord, ...]:
        """The records of one split."""
        return tuple(record for record in self.records if record.split == split)


def load_dataset(config: DataConfig, image: ImageConfig, seed: int, *, default_path: Path | None = None) -> Dataset:
    """Load the data set at `config.path` (or `default_path`).

    Splits come from the data set. A split that it lacks is sampled by a stable hash of (seed, uid),
    as are the subsamples of `config.max_*`. Raises `DataError` for missing or wrong labels, and for
    a train or test split without a usable image.
    """
    source = _read(config, default_path)
    low, high = _native_range(config, source)
    name = config.name or source.name
    records = _records(config, source, name, seed, low, high)
    wanted = {"train": config.max_train, "validation": config.max_validation, "test": config.max_test}
    decode = len(records) <= DECODE_UP_TO

    kept: set[str] = set()
    skipped = list(source.skipped)
    for split in _SPLITS:
        members = [record for record in records if record.split == split]
        good, bad = _usable(members, wanted[split], image, seed, decode=decode)
        if split != "validation" and not good:
            raise DataError(_why_empty(source, split, members, bad))
        kept |= good
        skipped += bad
    records = [record for record in records if record.uid in kept]

    scores = [record.score for record in records]
    info: DatasetInfo = {
        "format": source.format,
        "path": str(source.path),
        "normalizer": config.normalizer,
        "native_range": [low, high],
        "split_source": source.split_source,
        "verify": "decode" if decode else "header",
        "counts": {split: sum(record.split == split for record in records) for split in _SPLITS},
        "skipped": dict(sorted(Counter(item["reason"] for item in skipped).items())),
        "label_mean": statistics.fmean(scores),
        "label_sd": statistics.pstdev(scores),
    }
    if source.listed_without_votes is not None:
        info["listed_without_votes"] = source.listed_without_votes
    return Dataset(name, tuple(records), tuple(skipped), info)


def _read(config: DataConfig, default_path: Path | None) -> LabelSource:
    path = config.path or default_path
    if path is None:
        raise DataError(f"no data set is given: {ACCEPTED}")
    if not path.exists():
        raise DataError(f"data.path {path} does not exist. {ACCEPTED}")
    if config.images is not None and not config.images.is_dir():
        raise DataError(f"data.images {config.images} is not a folder")
    if path.is_dir() or path.name == "AVA.txt":
        folder = path if path.is_dir() else path.parent
        if config.format == "table":
            raise DataError(f"data.path {path} is not a table file, but data.format is 'table'. {ACCEPTED}")
        if not (folder / "AVA.txt").is_file():
            raise DataError(f"data.path {folder} holds no AVA.txt{_tables_in(folder)}. {ACCEPTED}")
        return read_ava(folder, config.images)
    if config.format == "ava" or path.suffix.lower() not in READERS:
        raise DataError(f"data.path {path} is not of the format {config.format!r}. {ACCEPTED}")
    return read_table(path, config.images)


def _tables_in(folder: Path) -> str:
    tables = sorted(item.name for item in folder.iterdir() if item.suffix.lower() in READERS)
    if tables:
        return f", but {tables[0]}: give that file as data.path to use it as a table"
    return "" if any(folder.iterdir()) else " and is empty"


def _native_range(config: DataConfig, source: LabelSource) -> tuple[float, float]:
    declared = config.score_range
    if declared is not None and declared[0] >= declared[1]:
        raise ConfigError(f"data.score_range {list(declared)} must be [lowest, highest]")
    if source.native_range is not None:
        if declared not in (None, source.native_range):
            raise ConfigError(f"data.score_range must be left out: the scale of {source.format} is 1 to 10")
        return source.native_range
    scores = [row.score for row in source.rows]
    if declared is None:
        if min(scores) < 0.0 or max(scores) > 1.0:
            raise DataError(
                f"{source.path}: scores reach from {min(scores):g} to {max(scores):g}; declare their native scale, for "
                "example data.score_range = [1, 10]"
            )
        return (0.0, 1.0)
    low, high = declared
    if config.normalizer == "max" and low < 0.0:
        raise ConfigError(f"data.normalizer 'max' divides by the top of the scale; it does not suit {list(declared)}")
    raise_bad_rows(
        source.path,
        [f"{row.place}: score {row.score:g} of {row.name!r}" for row in source.rows if not low <= row.score <= high],
        f"That is outside data.score_range [{low:g}, {high:g}]: correct the range or the rows.",
    )
    return declared


def _records(
    config: DataConfig, source: LabelSource, name: str, seed: int, low: float, high: float
) -> list[ImageRecord]:
    if config.normalizer == "minmax":
        offset, scale = low, high - low
    else:
        offset, scale = 0.0, high
    uids = [f"{name}/{row.name}" for row in source.rows]
    return [
        ImageRecord(
            uid=uid,
            dataset=name,
            split=split,
            score=(row.score - offset) / scale,
            native_score=row.score,
            native_range=(low, high),
            path=row.path,
            std=None if row.std is None else row.std / scale,
            votes=row.votes,
            attributes=row.attributes,
        )
        for uid, row, split in zip(uids, source.rows, _splits(config, source.rows, uids, seed), strict=True)
    ]


def _splits(config: DataConfig, rows: tuple[LabelRow, ...], uids: list[str], seed: int) -> list[Split]:
    """The split of each row: as given, or by hash where no row has one. A missing validation split
    is carved from the training rows."""
    given = [row.split for row in rows]
    if not any(given):
        fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
        return hash_splits(uids, seed=seed, **fractions)
    splits: list[Split] = [split or "train" for split in given]
    if "validation" not in splits:
        train = [index for index, split in enumerate(splits) if split == "train"]
        carved = carve_validation([uids[i] for i in train], seed=seed, fraction=config.validation_fraction)
        for index, chosen in zip(train, carved, strict=True):
            if chosen:
                splits[index] = "validation"
    return splits


def _usable(
    members: list[ImageRecord], limit: int | None, image: ImageConfig, seed: int, *, decode: bool
) -> tuple[set[str], list[dict[str, str]]]:
    """The uids of up to `limit` usable images, taken in hash order, and the unusable images among
    those checked."""
    if limit is not None and limit < len(members):
        members = sorted(members, key=lambda record: hash_fraction(seed, record.uid, "subsample"))
    limit = len(members) if limit is None else limit
    good: set[str] = set()
    bad: list[dict[str, str]] = []

    def check(record: ImageRecord) -> ImageError | None:
        assert record.path is not None
        try:
            check_image_file(record.path, image, decode=decode)
        except ImageError as error:
            return error
        return None

    # Decoding happens outside the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        queue = iter(members)
        # Images are checked only until enough are found, so that a small subsample of a large set
        # is ready at once.
        while chunk := list(itertools.islice(queue, min(limit - len(good), 4096))):
            for record, error in zip(chunk, pool.map(check, chunk), strict=True):
                if error is None:
                    good.add(record.uid)
                else:
                    name = record.uid.removeprefix(record.dataset + "/")
                    bad.append({"image": name, "reason": error.reason, "detail": str(error)})
    return good, bad


def _why_empty(source: LabelSource, split: Split, members: list[ImageRecord], bad: list[dict[str, str]]) -> str:
    if not members:
        hint = {"column": "the split column", "hash": "three images or more"}.get(source.split_source, "the list files")
        return f"{source.path}: no image falls into the {split} split; check {hint}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(item["reason"] for item in bad).most_common())
    first = bad[0]
    return (
        f"{source.path}: none of the {len(members)} images of the {split} split is usable ({reasons}); "
        f"for example {first['image']!r}: {first['detail']}"
    )


def check_labels(config: DataConfig) -> None:
    """Read the labels only: the cheap half of `load_dataset`, with the same errors for labels."""
    _native_range(config, _read(config, None))
