"""Sources: reads the labels of every source of a configuration, and assigns their splits.

- A source's own splits are kept. Where it has none, they follow from a hash of (seed, uid).
- A role restricts a source with splits to one of them, and gives one to a source without.
- Two sources have one name only where the configuration says so, and then they share one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rapo.config import DataConfig, SourceConfig
from rapo.datasets.labels import NO_SPLIT, SPLITS, Labels
from rapo.datasets.record_table import RecordPart
from rapo.datasets.registry import read_source
from rapo.datasets.rows import LabelSource
from rapo.datasets.scales import scale_of
from rapo.datasets.splits import carve_validation, hash_splits
from rapo.errors import ConfigError, DataError

_TRAIN, _VALIDATION = SPLITS.index("train"), SPLITS.index("validation")


@dataclass(frozen=True, slots=True)
class Part:
    """One source: its settings, what its layout read, and its rows as records."""

    config: SourceConfig
    source: LabelSource
    records: RecordPart
    notes: tuple[str, ...]


def read_parts(config: DataConfig, seed: int, default_path: Path | None) -> list[Part]:
    """The labels of all sources, with splits and scales. Raises `DataError` for missing or wrong
    labels, and `ConfigError` where sources contradict each other."""
    sources = config.all_sources or (config.single.model_copy(update={"path": default_path}),)
    carve = not any(source.role == "validation" for source in sources)
    parts = []
    for number, source in enumerate(sources, start=1):
        try:
            parts.append(_read_part(config, source, seed, carve=carve))
        except (DataError, ConfigError) as error:
            if len(sources) == 1:
                raise
            raise type(error)(f"source {number} of data.sources: {error}") from error
    _raise_clashes(parts)
    return parts


def _read_part(config: DataConfig, source: SourceConfig, seed: int, *, carve: bool) -> Part:
    found = read_source(source)
    labels, split_source = _for_role(found, source)
    found = replace(found, labels=labels, split_source=split_source)
    scale, notes = scale_of(source, found)
    name = source.name or found.name
    blank = np.full(len(labels), NO_SPLIT, np.int8)
    part = RecordPart(name, labels, scale, blank, found.ids)
    splits = _splits(config, part, seed, carve=carve and source.role in ("auto", "split", "train"))
    return Part(source, found, replace(part, splits=splits), (*found.notes, *notes))


def _for_role(source: LabelSource, config: SourceConfig) -> tuple[Labels, str]:
    """The rows that a source's role leaves, and where their splits come from."""
    labels, role = source.labels, config.role
    if role == "auto":
        return labels, source.split_source
    if role == "split":
        return labels.with_splits(None), "hash"
    if labels.splits is None:
        return labels.with_splits(role), f"role {role}"
    # Where a collection lists some images for test, the others are for training.
    codes = np.where(labels.splits == NO_SPLIT, _TRAIN, labels.splits)
    rows = np.flatnonzero(codes == SPLITS.index(role))
    if not len(rows):
        there = sorted({SPLITS[code] for code in codes})
        raise DataError(f"{source.path} has no image for {role}, only for {', '.join(there)}; choose another data.role")
    return labels.take(rows).with_splits(role), f"{source.split_source}, role {role}"


def _splits(config: DataConfig, part: RecordPart, seed: int, *, carve: bool) -> NDArray[np.int8]:
    """The split of each row: as given, or by hash where no row has one. A missing validation split
    is carved from the training rows."""
    given = part.labels.splits
    if given is None or (given == NO_SPLIT).all():
        fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
        return hash_splits(part.uids(), seed=seed, **fractions)
    splits = np.where(given == NO_SPLIT, _TRAIN, given).astype(np.int8)
    train = splits == _TRAIN
    if carve and train.any() and not (splits == _VALIDATION).any():
        uids = (uid for uid, chosen in zip(part.uids(), train, strict=True) if chosen)
        carved = carve_validation(uids, seed=seed, fraction=config.validation_fraction)
        splits[np.flatnonzero(train)[carved]] = _VALIDATION
    return splits


def _raise_clashes(parts: list[Part]) -> None:
    known: dict[str, Part] = {}
    for part in parts:
        name = part.records.name
        other = known.setdefault(name, part)
        if other is part:
            continue
        if None in (part.config.name, other.config.name):
            raise ConfigError(
                f"two sources are called {name!r}: {other.source.path} and {part.source.path}. Give each a name; the same one "
                "only where both are of one collection"
            )
        if part.records.scale != other.records.scale:
            raise ConfigError(
                f"the sources called {name!r} have different scales ({_words(other)} and {_words(part)}); give them different "
                "names, or the same data.score_range and data.normalizer"
            )


def _words(part: Part) -> str:
    low, high = part.records.scale.native
    return f"{low:g} to {high:g}, {part.records.scale.normalizer}"
