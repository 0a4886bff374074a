"""Facts: what the run folder keeps about the data, as a whole and for each data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

from rapo.datasets.labels import SPLITS
from rapo.datasets.record_table import RecordTable
from rapo.datasets.sources import Part
from rapo.records import Split


class SetInfo(TypedDict):
    """One data set: its scale and normaliser, its images by split, its normalised labels, how many
    of its images have a spread, and its share of the training batches where one is set."""

    native_range: list[float]
    normalizer: str
    counts: dict[Split, int]
    label_mean: float
    label_sd: float
    with_std: int
    weight: NotRequired[float]


class DatasetInfo(TypedDict):
    """The facts about the data that the run folder keeps.

    `verify` is "decode" or "header". `counts` are the images of each split, `skipped` those of each
    reason. `label_mean` and `label_sd` are of the normalised scores. `native_range` and
    `normalizer` are None where the sets differ in them. `leaks` counts images that a
    later split holds too, by kind. `listed_without_votes` counts images that AVA's split
    lists name and its label file does not rate.
    """

    format: str
    path: str
    normalizer: str | None
    native_range: list[float] | None
    split_source: str
    verify: str
    counts: dict[Split, int]
    skipped: dict[str, int]
    label_mean: float
    label_sd: float
    sets: dict[str, SetInfo]
    leaks: dict[str, int]
    notes: list[str]
    listed_without_votes: NotRequired[int]


def facts(
    parts: Sequence[Part],
    records: RecordTable,
    skipped: Sequence[dict[str, str]],
    leaks: Sequence[dict[str, str]],
    *,
    verify: str,
) -> DatasetInfo:
    """The facts about the records that were kept."""
    sets = _sets(parts, records)
    ranges = {tuple(item["native_range"]) for item in sets.values()}
    normalizers = {item["normalizer"] for item in sets.values()}
    info: DatasetInfo = {
        "format": _each([part.source.format for part in parts]),
        "path": _each([str(part.source.path) for part in parts]),
        "normalizer": normalizers.pop() if len(normalizers) == 1 else None,
        "native_range": list(ranges.pop()) if len(ranges) == 1 else None,
        "split_source": _each([part.source.split_source for part in parts]),
        "verify": verify,
        "counts": _counts(records.splits),
        "skipped": dict(sorted(Counter(item["reason"] for item in skipped).items())),
        "label_mean": float(records.scores.mean()),
        "label_sd": float(records.scores.std()),
        "sets": sets,
        "leaks": dict(sorted(Counter(item["kind"] for item in leaks).items())),
        "notes": [note for part in parts for note in part.notes],
    }
    listed = [part.source.listed_without_votes for part in parts if part.source.listed_without_votes is not None]
    if listed:
        info["listed_without_votes"] = sum(listed)
    return info


def _sets(parts: Sequence[Part], records: RecordTable) -> dict[str, SetInfo]:
    names, codes = records.datasets
    weights = set_weights(parts, records)
    sets: dict[str, SetInfo] = {}
    for code, name in enumerate(names):
        mine = codes == code
        if not mine.any():
            continue
        scale = parts[int(records.part[np.flatnonzero(mine)[0]])].records.scale
        scores = records.scores[mine]
        sets[name] = {
            "native_range": list(scale.native),
            "normalizer": scale.normalizer,
            "counts": _counts(records.splits[mine]),
            "label_mean": float(scores.mean()),
            "label_sd": float(scores.std()),
            "with_std": int(records.with_std[mine].sum()),
        }
        if name in weights:
            sets[name]["weight"] = weights[name]
    return sets


def set_weights(parts: Sequence[Part], records: RecordTable) -> dict[str, float]:
    """Each data set's share of the training batches; empty where no source has a weight. A source
    of several sets divides its weight by their training images."""
    names, codes = records.datasets
    train = records.splits == SPLITS.index("train")
    weights: dict[str, float] = {}
    for number, part in enumerate(parts):
        mine = codes[train & (records.part == number)]
        if part.config.weight is not None and len(mine):
            for code, count in zip(*np.unique(mine, return_counts=True), strict=True):
                share = part.config.weight * float(count) / len(mine)
                weights[names[code]] = weights.get(names[code], 0.0) + share
    return weights


def _counts(splits: np.ndarray) -> dict[Split, int]:
    return {split: int((splits == code).sum()) for code, split in enumerate(SPLITS)}


def _each(words: list[str]) -> str:
    return ", ".join(dict.fromkeys(words))
