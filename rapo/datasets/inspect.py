"""Inspection: what a source holds, for a look before it is used: layout, splits, scores, images.

Nothing is needed but the path: a scale that must be declared later may still be unknown.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rapo.config import ImageConfig, SourceConfig
from rapo.datasets.files.found import Found
from rapo.datasets.images.look_embedded import look_at_embedded
from rapo.datasets.images.missing import hint
from rapo.datasets.labels import NO_SPLIT, SPLITS, Labels, strings
from rapo.datasets.registry import find_layout, read_source
from rapo.datasets.rows import LabelSource
from rapo.datasets.scales import scale_of
from rapo.datasets.splits import hash_fractions
from rapo.errors import DataError, ImageError, RapoError
from rapo.images.decode import check_image_file

#: Bins of the histogram.
BINS = 10
#: Up to this many images are looked for, and so many of those are decoded.
LOOKED_FOR, DECODED = 200_000, 500
#: How long images inside of tables are looked at.
_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """`missing` of `looked_for` files are not there; `decoded` of the others were opened, and
    `broken` counts those that cannot be used, by reason. `examples` are sentences. Images inside of
    a table have no `folder`."""

    folder: Path | None
    looked_for: int
    missing: int
    decoded: int
    broken: dict[str, int]
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Inspection:
    """`splits` count the rows of each split that the source itself gives; "" are those without.
    `scale_problem` says why the scores are not usable as they are. `edges` (BINS + 1) and `bins`
    (BINS) are the histogram of the scores."""

    source: LabelSource
    rows: int
    splits: dict[str, int]
    sets: dict[str, int]
    scale_problem: str
    notes: list[str]
    edges: list[float]
    bins: list[int]
    images: ImageFacts | None


def inspect_source(config: SourceConfig, limits: ImageConfig | None) -> Inspection:
    """Read the labels of a source and look at its images (without `limits`: not). Raises
    `DataError` where the labels cannot be read."""
    source = read_source(config)
    labels = source.labels
    problem, notes = "", list(source.notes)
    low, high = float(labels.scores.min()), float(labels.scores.max())
    try:
        scale, more = scale_of(config, source)
        notes += more
        low, high = scale.native
    except RapoError as error:
        problem = str(error)
    bins, edges = np.histogram(labels.scores, BINS, (low, high) if high > low else (low - 0.5, low + 0.5))
    return Inspection(
        source=source,
        rows=len(labels),
        splits=_splits(labels),
        sets=dict(Counter(strings(labels.sets))) if labels.sets is not None else {},
        scale_problem=problem,
        notes=notes,
        edges=edges.tolist(),
        bins=bins.tolist(),
        images=None if limits is None else _embedded(labels, limits) if labels.embedded else _images(labels, limits),
    )


def inspect_files(folder: Path) -> Iterator[tuple[Path, Inspection | str]]:
    """Each label file of a folder that is of no one collection: what it holds, or why nothing."""
    for file in Found(folder).files:
        try:
            yield file.path, inspect_source(SourceConfig(path=file.path), None)
        except RapoError as error:
            yield file.path, str(error)


def is_collection(path: Path, name: str) -> bool:
    """Whether a path holds one source, as a file or as a folder that a layout recognises."""
    if not path.is_dir() or name != "auto":
        return True
    try:
        find_layout(Found(path))
    except DataError:
        return False
    return True


def _splits(labels: Labels) -> dict[str, int]:
    if labels.splits is None:
        return {}
    counts: dict[str, int] = {split: int((labels.splits == code).sum()) for code, split in enumerate(SPLITS)}
    counts[""] = int((labels.splits == NO_SPLIT).sum())
    return {split: count for split, count in counts.items() if count}


def _embedded(labels: Labels, limits: ImageConfig) -> ImageFacts:
    seen = look_at_embedded(labels, limits, None, _SECONDS)
    examples = [f"{reason}: {example}" for reason, example in seen.examples.items()]
    return ImageFacts(None, seen.looked_for, 0, seen.opened, dict(seen.unusable.most_common()), examples)


def _images(labels: Labels, limits: ImageConfig) -> ImageFacts:
    rows = _sample(len(labels), LOOKED_FOR)
    there = np.array([os.path.isfile(labels.path(int(row))) for row in rows], bool)
    examples = [f"not found: {labels.path(int(row))}" for row in rows[~there][:3]]
    if where := hint(labels.root, [labels.files[int(row)].as_py() for row in rows[~there][:3]]):
        examples.append(where)
    found = rows[there]
    decoded = found[_sample(len(found), DECODED)]
    broken: Counter[str] = Counter()
    for row in map(int, decoded):
        try:
            check_image_file(labels.path(row), limits)
        except ImageError as error:
            broken[error.reason] += 1
            if len(examples) < 6:
                examples.append(f"{error.reason}: {labels.path(row)} ({error})")
    return ImageFacts(labels.root, len(rows), int((~there).sum()), len(decoded), dict(broken.most_common()), examples)


def _sample(count: int, limit: int) -> np.ndarray:
    """Up to `limit` of `count` rows, the same each time, in order."""
    if count <= limit:
        return np.arange(count)
    order = np.argsort(hash_fractions(0, map(str, range(count)), "inspect"), kind="stable")
    return np.sort(order[:limit])
