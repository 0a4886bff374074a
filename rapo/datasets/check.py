"""Data check: what `rapo check` finds about the data before anything is paid for.

- Labels are read whole, images by a sample of each source.
- The reward's settings are held against the sets that are there: a sigma by name, soft ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rapo.config import Config, ImageConfig
from rapo.datasets.labels import SPLITS
from rapo.datasets.load import check_labels
from rapo.datasets.sources import Part
from rapo.errors import ImageError, RapoError
from rapo.images.decode import check_image_file

#: Images of a source that are opened.
_SAMPLE = 32


@dataclass(frozen=True, slots=True)
class DataCheck:
    """`lines` say what each source holds."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_data(config: Config) -> DataCheck:
    """Read the labels of a configuration and a sample of its images."""
    if config.data.embedded:
        return DataCheck(problems=list(_sigma_problems(config, [config.data.name or "ava"])))
    try:
        parts = check_labels(config.data)
    except RapoError as error:
        lines = [str(source.path or source.hub) for source in config.data.all_sources]
        return DataCheck(lines, [str(error)])
    found = DataCheck(list(map(_line, parts)))
    names = list(dict.fromkeys(name for part in parts for name in _set_names(part)))
    found.problems.extend(_sigma_problems(config, names))
    found.warnings.extend(note for part in parts for note in part.notes)
    _check_splits(parts, found)
    _check_ties(config, parts, found)
    for part in parts:
        _check_sample(part, config, found)
    return found


def _line(part: Part) -> str:
    counts = _counts(part)
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count)
    return f"{part.source.path} ({part.source.format}: {images}; splits: {part.source.split_source})"


def _counts(part: Part) -> dict[str, int]:
    return {split: int((part.records.splits == code).sum()) for code, split in enumerate(SPLITS)}


def _set_names(part: Part) -> list[str]:
    sets = part.records.labels.sets
    return [part.records.name] if sets is None else sets.unique().to_pylist()


def _sigma_problems(config: Config, names: list[str]) -> Iterator[str]:
    sigma = config.rapo.reward.sigma
    if not isinstance(sigma, dict):
        return
    for name in sorted(sigma.keys() - set(names)):
        yield f"rapo.reward.sigma names the data set {name!r}, but there is only {', '.join(names)}; correct the name"
    for name in sorted(set(names) - sigma.keys()):
        yield f"rapo.reward.sigma gives none for the data set {name!r}; add it, or give one number for all"


def _check_splits(parts: list[Part], found: DataCheck) -> None:
    totals = {split: sum(_counts(part)[split] for part in parts) for split in SPLITS}
    for split in ("train", "test"):
        if not totals[split]:
            found.problems.append(
                f"no image falls into the {split} split; give a source the role (data.role) {split} or split"
            )


def _check_ties(config: Config, parts: list[Part], found: DataCheck) -> None:
    if config.rapo.reward.ties != "soft":
        return
    train = [part for part in parts if _counts(part)["train"]]
    without = [part.records.name for part in train if not part.records.labels.known_stds().size]
    if train and len(without) == len(train):
        found.problems.append(
            "rapo.reward.ties = 'soft' needs the raters' spread (std) of the labels, and no training source has it; use 'half'"
        )
    elif without:
        found.warnings.append(
            f"rapo.reward.ties = 'soft' has no spreads in {', '.join(without)}: there the better label wins, and equal ones "
            "tie at half"
        )


def _check_sample(part: Part, config: Config, found: DataCheck) -> None:
    labels = part.records.labels
    if labels.embedded:
        return
    rows = np.unique(np.linspace(0, len(labels) - 1, _SAMPLE).astype(int))
    errors = [error for row in map(int, rows) if (error := _unusable(part, row, config.image)) is not None]
    if not errors:
        return
    words = f"{part.source.path}: {len(errors)} of {len(rows)} sampled images cannot be used, for example {errors[0]}"
    if len(errors) < len(rows):
        found.warnings.append(f"{words}. They are skipped")
    else:
        found.problems.append(
            f"{words}. Images are looked up in {labels.root}: give their folder by data.images, or see `rapo data inspect`"
        )


def _unusable(part: Part, row: int, limits: ImageConfig) -> ImageError | None:
    try:
        check_image_file(part.records.path(row), limits)
    except ImageError as error:
        return error
    return None
