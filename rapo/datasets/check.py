"""Data check: what `rapo check` finds about the data before anything is paid for.

- Labels are read whole. Images are looked for, and their headers read, for a few seconds; so are
  images that lie inside of tables.
- Images of validation and test are looked for in training, by content.
- The reward's settings are held against the sets that are there: a sigma by name, soft ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rapo.config import Config
from rapo.datasets.contamination import describe, find_leaks
from rapo.datasets.images.look import ImagesSeen, look_at_images
from rapo.datasets.images.look_embedded import look_at_embedded
from rapo.datasets.images.unusable import unusable_words
from rapo.datasets.labels import SPLITS
from rapo.datasets.record_table import RecordTable
from rapo.datasets.registry import read_source
from rapo.datasets.sources import Part, read_parts
from rapo.errors import DataError, RapoError
from rapo.models.prompt_length import TOO_LONG, PromptLength

#: How long headers are read, for all sources together.
_SECONDS = 4.0
#: Characters of an example: a name may be of any length.
_EXAMPLE = 250
#: Larger sets are compared by the data stage only.
_COMPARED = 200_000


@dataclass(frozen=True, slots=True)
class DataCheck:
    """`lines` say what each source holds; `train` is the number of training images, 0 where it is
    not known."""

    train: int = 0
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_data(config: Config, length: PromptLength | None = None) -> DataCheck:
    """Read the labels of a configuration and look at its images. `length` tells which prompts do
    not fit."""
    if config.data.embedded:
        return DataCheck(
            _train(config, config.data.scenes.train),
            problems=list(_sigma_problems(config, [config.data.name or "ava"])),
        )
    try:
        parts = read_parts(config.data, config.run.seed, None)
    except RapoError as error:
        lines = [str(source.path or source.hub) for source in config.data.all_sources]
        return DataCheck(lines=lines, problems=_source_problems(config) or [str(error)])
    train = sum(_counts(part)["train"] for part in parts)
    found = DataCheck(_train(config, train), list(map(_line, parts)))
    names = list(dict.fromkeys(name for part in parts for name in _set_names(part)))
    found.problems.extend(_sigma_problems(config, names))
    found.warnings.extend(note for part in parts for note in part.notes)
    _check_splits(parts, found)
    _check_ties(config, parts, found)
    in_time = True
    for number, part in enumerate(parts):
        seen = _check_images(part, config, length, _SECONDS / len(parts), found)
        in_time &= seen.looked_for == seen.images
        if seen.looked_at < seen.images:
            found.lines[number] += (
                f"; {seen.looked_at:,} of {seen.images:,} images were looked at in {_SECONDS:g} s, the data stage looks at all"
            )
    if in_time:
        _check_leaks(parts, config, found)
    return found


def _train(config: Config, images: int) -> int:
    return images if config.data.max_train is None else min(images, config.data.max_train)


def _source_problems(config: Config) -> list[str]:
    """What is wrong with each of several sources by itself, so that all that is missing is named at
    once."""
    sources = config.data.sources
    found = []
    for number, source in enumerate(sources, start=1):
        if source.path is not None and not source.path.exists():
            found.append(f"source {number} of data.sources: data.path {source.path} does not exist")
            continue
        try:
            read_source(source)
        except RapoError as error:
            found.append(f"source {number} of data.sources: {error}")
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
    if (rows := sum(totals.values())) < len(SPLITS):
        found.problems.append(
            f"{parts[0].source.path}: {rows} image{'s' if rows > 1 else ''} cannot be divided into train, validation and test; "
            f"give {len(SPLITS)} or more"
        )
        return
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


def _check_images(
    part: Part, config: Config, length: PromptLength | None, seconds: float, found: DataCheck
) -> ImagesSeen:
    # Limits that no image meets are said once, not of each image.
    check_size = length.check if length is not None and length.possible else None
    try:
        if part.records.labels.embedded:
            seen = look_at_embedded(part.records.labels, config.image, check_size, seconds)
        else:
            seen = look_at_images(RecordTable.of([part.records]), config.image, check_size, seconds)
    except DataError as error:
        found.problems.append(str(error))
        return ImagesSeen()
    reasons = seen.found()
    if not reasons:
        return seen
    if reasons.total() > config.data.max_unusable * seen.looked_at:
        example = seen.examples[reasons.most_common(1)[0][0]]
        found.problems.append(unusable_words(part, seen.looked_at, reasons, example, config.data))
        return seen
    for split in ("train", "test"):
        members = np.flatnonzero(part.records.splits == SPLITS.index(split))
        if len(members) and np.isin(members, seen.bad).all():
            found.problems.append(
                f"{part.source.path}: none of the {len(members):,} images of the {split} split can be used, for example "
                f"{next(iter(seen.examples.values()))[:_EXAMPLE]}"
            )
            return seen
    for reason, count in reasons.most_common():
        words = (
            f"{part.source.path}: {count:,} of {seen.looked_at:,} images looked at: {reason}, for example "
            f"{seen.examples[reason][:_EXAMPLE]}"
        )
        if reason == TOO_LONG and config.data.long_prompts == "refuse":
            found.problems.append(f"{words}; data.long_prompts = 'skip' leaves them out")
        else:
            found.warnings.append(f"{words}. They are skipped")
    return seen


def _check_leaks(parts: list[Part], config: Config, found: DataCheck) -> None:
    records = RecordTable.of([part.records for part in parts if not part.records.labels.embedded])
    if len(records) > _COMPARED or not len(records):
        return
    if leaks := find_leaks(records, look=False):
        first = next(describe(records, leaks[:1]))
        words = "left out" if config.data.contamination == "drop" else "kept"
        found.warnings.append(
            f"{len(leaks):,} images are in a later split too and are {words} (data.contamination), for example {first['image']} "
            f"of {first['split']} is {first['also']} of {first['also_in']}"
        )
