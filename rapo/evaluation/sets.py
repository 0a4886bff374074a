"""Test sets: the images with human scores that models are evaluated on, from any source of data.

- Of a list of sources (`[[data.sources]]`), sources for training or validation are left out, and of
  the others the test split is taken: their own one, or by the hash that a run with this
  configuration uses.
- Of a path alone, the collection's own test split is taken; all of it where it has no splits.
- Only images that can be used are taken, where a model is to see them (`look`); predictions that
  are given need no images on disk. A limit samples them by the seed, for each set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from rapo.config import Config, DataConfig, SourceConfig
from rapo.datasets.embedded_images import unpack
from rapo.datasets.images.usable import Usable
from rapo.datasets.labels import SPLITS
from rapo.datasets.load import DECODE_UP_TO
from rapo.datasets.record_table import RecordTable
from rapo.datasets.scales import Scale
from rapo.datasets.sources import Part, read_parts
from rapo.datasets.splits import subsample
from rapo.errors import ConfigError, DataError
from rapo.evaluation.comparison import SetFacts
from rapo.records import ImageRecord

_TEST = SPLITS.index("test")
_THREADS = 8


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Images of one data set, of `there` usable or unchecked ones of its test split. `collection`
    says which published one it is, if any; `source` where the images come from, and why they are
    for testing."""

    name: str
    collection: str
    records: Sequence[ImageRecord]
    scale: Scale
    there: int
    source: str
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> SetFacts:
        return {
            "collection": self.collection,
            "native_range": list(self.scale.native),
            "width": self.scale.width,
            "images": len(self.records),
            "there": self.there,
            "source": self.source,
        }


def sets_of_path(path: Path, config: Config, limit: int | None, work: Path, *, look: bool = True) -> list[EvalSet]:
    """The test sets of a collection or label file, with the keys of one source in `config.data`."""
    source = config.data.single.model_copy(update={"path": path, "role": "test"})
    return sets_of_config(config.model_copy(update={"data": DataConfig(sources=(source,))}), limit, work, look=look)


def sets_of_config(config: Config, limit: int | None, work: Path, *, look: bool = True) -> list[EvalSet]:
    """The test sets of the sources of a configuration. Images that lie inside of a table are
    unpacked into `work`. Raises `DataError` and `ConfigError` for labels and sources that do not
    fit, and where nothing is for testing."""
    sources = config.data.all_sources
    if not sources:
        raise ConfigError("it names no data: give [[data.sources]] with a path each, or data.path")
    tested = tuple(source for source in sources if source.role not in ("train", "validation"))
    if not tested:
        raise DataError("no source is for testing: each has the role train or validation (data.role)")
    parts = read_parts(_only(config.data, tested), config.run.seed, None)
    parts = [unpack(part, work) for part in parts] if look else parts
    table = RecordTable.of([part.records for part in parts])
    table = table.take(table.splits == _TEST)
    sets = list(_divided(table, parts, config, limit, look=look))
    if not sets:
        words = "; ".join(f"{part.source.path}: splits from {part.source.split_source}" for part in parts)
        raise DataError(f"no image is in a test split ({words}). Give a source the role (data.role) test or split")
    return sets


def sets_of_records(records: RecordTable, source: str, config: Config, *, embedded: bool) -> list[EvalSet]:
    """The test sets of a run: `records` are those of its test split, which it has checked. The
    `embedded` scenes are no collection, whatever their layout."""
    names, codes = records.datasets
    sets = []
    for code, name in enumerate(names):
        mine = records.take(codes == code)
        if len(mine):
            picked = mine.take(subsample(list(mine.uids()), config.evaluate.max_images, config.run.seed))
            scale = mine.parts[mine.part[0]].scale
            sets.append(EvalSet(name, "scenes" if embedded else name, picked, scale, len(mine), source))
    return sets


def image_digests(records: Sequence[ImageRecord]) -> list[str]:
    """A digest (xxh3-64) of each image's bytes, by which predictions are known again. Raises
    `DataError` for an image that cannot be read any more."""

    def digest(record: ImageRecord) -> str:
        try:
            content = record.path.read_bytes() if record.path is not None else record.data or b""
        except OSError as error:
            raise DataError(
                f"the image {record.path} cannot be read ({error.strerror}); it was there before"
            ) from error
        return xxhash.xxh3_64_hexdigest(content)

    # Files are read outside of the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(digest, records))


def _only(data: DataConfig, sources: tuple[SourceConfig, ...]) -> DataConfig:
    """The same settings with these sources alone. Their paths become absolute, because workers run
    elsewhere."""
    fractions = {key: getattr(data, key) for key in ("validation_fraction", "test_fraction")}
    places = [
        {key: path.resolve() for key in ("path", "images") if (path := getattr(source, key)) is not None}
        for source in sources
    ]
    absolute = (source.model_copy(update=place) for source, place in zip(sources, places, strict=True))
    return DataConfig(sources=tuple(absolute), **fractions)


def _divided(
    table: RecordTable, parts: Sequence[Part], config: Config, limit: int | None, *, look: bool
) -> Iterator[EvalSet]:
    names, codes = table.datasets
    for code, name in enumerate(names):
        mine = np.flatnonzero(codes == code)
        if not len(mine):
            continue
        mine, repeated = _once(table, mine)
        usable = Usable(table, config.image, config.run.seed, decode=len(mine) <= DECODE_UP_TO)
        if look:
            picked = usable.pick(mine, limit)
        else:
            picked = mine[subsample(list(table.take(mine).uids()), limit, config.run.seed)]
        numbers = dict.fromkeys(int(number) for number in table.part[mine])
        used = [parts[number] for number in numbers]
        notes = [note for part in used for note in part.notes]
        if repeated:
            notes.append(f"{name}: {repeated} images are in several sources, and count once")
        if usable.bad:
            first = usable.bad[0]
            notes.append(
                f"{name}: {len(usable.bad)} images cannot be used and are left out, for example {first['image']}: "
                f"{first['detail']}"
            )
        if not len(picked):
            raise DataError(f"none of the {len(mine)} test images of {name} can be used; {notes[-1]}")
        yield EvalSet(
            name,
            _collection(name, used[0]),
            table.take(np.sort(picked)),
            used[0].records.scale,
            len(mine) - len(usable.bad),
            "; ".join(f"{part.source.path} ({part.source.format}, {_why(part)})" for part in used),
            tuple(notes),
        )


def _collection(name: str, part: Part) -> str:
    """The collection whose layout a set has. A table, which any collection may be given as, is the
    one that it is called."""
    layout = part.source.format.partition(" ")[0]
    return name if layout in ("table", "hub", "conversations") else layout


def _why(part: Part) -> str:
    words = part.source.split_source
    return "it has no splits: all images" if words == "role test" else f"test split from {words}"


def _once(table: RecordTable, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """The rows without those whose uid an earlier one has, and the number of these."""
    first: dict[str, int] = {}
    for row, uid in zip(map(int, rows), table.take(rows).uids(), strict=True):
        first.setdefault(uid, row)
    kept = np.array(list(first.values()), np.int64)
    return kept, len(rows) - len(kept)
