"""Dataset loading: reads the labels of every source, normalises them to [0, 1], assigns splits and
checks every image.

- An unusable image is skipped, counted and listed. Wrong labels are an error.
- Several sources make one data set; each keeps its own scale, normaliser and names.
- A training image that validation or test hold too is left out of training, and listed; so is an
  image of validation that test holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rapo.config import DataConfig, ImageConfig
from rapo.datasets.contamination import describe, find_leaks
from rapo.datasets.embedded_images import unpack
from rapo.datasets.facts import DatasetInfo, SetInfo, facts
from rapo.datasets.images.unusable import advice, raise_unusable
from rapo.datasets.images.usable import CheckSize, Usable
from rapo.datasets.labels import SPLITS
from rapo.datasets.record_table import RecordTable
from rapo.datasets.sources import Part, read_parts
from rapo.errors import DataError
from rapo.records import Split

__all__ = ["Dataset", "DatasetInfo", "SetInfo", "load_dataset"]

#: Up to this many images, each image is fully decoded at load. In larger sets only the headers are
#: read.
DECODE_UP_TO = 20_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """Records in the order of the sources and their label files, each with `path` set, and the
    skipped images.

    `skipped` rows hold image, reason and detail. `leaks` rows hold an image, its split, the kind of
    match, and which image of which later split it is. `files` are the label files.
    """

    name: str
    records: RecordTable
    skipped: tuple[dict[str, str], ...]
    info: DatasetInfo
    leaks: tuple[dict[str, str], ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def weights(self) -> dict[str, float] | None:
        """The data sets' shares of the training batches; None where no source has a weight."""
        sets = self.info["sets"]
        return {name: one["weight"] for name, one in sets.items() if "weight" in one} or None

    def split(self, split: Split) -> RecordTable:
        """The records of one split."""
        return self.records.of_split(split)


def load_dataset(
    config: DataConfig,
    image: ImageConfig,
    seed: int,
    *,
    default_path: Path | None = None,
    work: Path | None = None,
    check_size: CheckSize | None = None,
) -> Dataset:
    """Load all sources of `config` (or the one at `default_path`).

    Splits come from the data sets. A split that one lacks is sampled by a stable hash of (seed,
    uid), as are quotas and the subsamples of `config.max_*`. Images that lie inside of a table are
    unpacked into `work` (default: a folder that the process removes). `check_size` says which
    images do not fit the model. Raises `DataError` for missing or wrong labels, for a train or test
    split without a usable image, and where more than `config.max_unusable` of a source's images
    cannot be used.
    """
    parts = [unpack(part, work) for part in read_parts(config, seed, default_path)]
    every = RecordTable.of([part.records for part in parts])
    decode = len(every) <= DECODE_UP_TO
    limits = {"train": config.max_train, "validation": config.max_validation, "test": config.max_test}
    quotas = {number: part.config.quota for number, part in enumerate(parts) if part.config.quota is not None}

    usable = Usable(every, image, seed, decode=decode, check_size=check_size)
    kept = np.zeros(len(every), bool)
    for split in SPLITS:
        members = every.splits == SPLITS.index(split)
        if split == "train":
            members = _within_quotas(usable, members, every, quotas)
        kept[usable.pick(np.flatnonzero(members), limits[split])] = True
        if split != "validation" and not (kept & members).any():
            raise DataError(_why_empty(parts, split, members, usable.bad, every))
    raise_unusable(config, parts, every, usable)
    kept &= ~_repeated(every, kept, usable, drops_leaks=config.contamination == "drop")

    records = every.take(kept)
    leaks = find_leaks(records)
    described = tuple(describe(records, leaks))
    if leaks and config.contamination == "drop":
        clean = np.ones(len(records), bool)
        clean[[leak.row for leak in leaks]] = False
        records = records.take(clean)
        if not (records.splits == SPLITS.index("train")).any():
            raise DataError(
                f"every image of the train split is in validation or test too, for example {described[0]['image']!r} is "
                f"{described[0]['also']!r}; set data.contamination = 'report' to train on them all the same"
            )
    skipped = (*(item for part in parts for item in part.source.skipped), *usable.bad)
    info = facts(parts, records, skipped, described, verify="decode" if decode else "header")
    name = parts[0].records.name if len(parts) == 1 else ", ".join(info["sets"])
    files = (file for part in parts for file in part.source.files or (part.source.path,) if file.is_file())
    return Dataset(name, records, skipped, info, described, tuple(files))


def _within_quotas(
    usable: Usable, members: NDArray[np.bool_], every: RecordTable, quotas: dict[int, int]
) -> NDArray[np.bool_]:
    """The training rows without those beyond a source's quota."""
    members = members.copy()
    for number, quota in quotas.items():
        mine = np.flatnonzero(members & (every.part == number))
        picked = usable.pick(mine, quota)
        members[mine] = False
        members[picked] = True
    return members


def _repeated(every: RecordTable, kept: NDArray[np.bool_], usable: Usable, *, drops_leaks: bool) -> NDArray[np.bool_]:
    """Kept rows whose uid an earlier kept row of another source has, or one of validation or test;
    they are listed as skipped. A uid must be unique."""
    again = np.zeros(len(every), bool)
    if len(every.parts) == 1:
        return again
    first: dict[int, int] = {}
    hashes = np.fromiter(map(hash, every.uids()), np.int64, len(every))
    values, counts = np.unique(hashes, return_counts=True)
    suspects = np.flatnonzero(np.isin(hashes, values[counts > 1]) & kept)
    # Test comes first, so that a repeated image stays there.
    for row in sorted(map(int, suspects), key=lambda row: (-int(every.splits[row]), row)):
        earlier = first.setdefault(int(hashes[row]), row)
        if earlier != row and every[earlier].uid == every[row].uid:
            record, other = every[row], every[earlier]
            if record.split != other.split and drops_leaks:
                continue  # contamination, which is reported as such
            again[row] = True
            usable.skip(record, "repeated", f"{other.uid} is in the {other.split} split of another source too")
    return again


def _why_empty(
    parts: Sequence[Part], split: Split, members: NDArray[np.bool_], bad: list[dict[str, str]], every: RecordTable
) -> str:
    where = parts[0].source.path if len(parts) == 1 else f"{len(parts)} sources"
    if not members.any():
        hints = {"column": "the split column", "hash": "three images or more"}
        sources = "; ".join(
            f"{part.source.path}: {hints.get(part.source.split_source, part.source.split_source)}" for part in parts
        )
        return (
            f"{where}: no image falls into the {split} split; check {sources}. A source's role (data.role) says what it is "
            "for: train, validation, test, or split to divide it"
        )
    mine = {every[int(row)].uid for row in np.flatnonzero(members)}
    bad = [item for item in bad if item["uid"] in mine]
    found = Counter(item["reason"] for item in bad)
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.most_common())
    return (
        f"{where}: none of the {len(mine)} images of the {split} split is usable ({reasons}); for example "
        f"{bad[0]['image']!r}: {bad[0]['detail'][:200]}. {advice(parts[0], found)}"
    )
