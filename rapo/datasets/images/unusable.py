"""Unusable images: when so many of a source are left out that the run must not go on without a
word from its user."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from rapo.config import DataConfig
from rapo.datasets.images.missing import hint
from rapo.datasets.images.usable import Usable
from rapo.datasets.labels import strings
from rapo.datasets.record_table import RecordTable
from rapo.datasets.sources import Part
from rapo.errors import DataError
from rapo.models.prompt_length import TOO_LONG

#: Images of a few rows say nothing of the rest.
_FEW = 4
_LOOKED_INTO = 50


def raise_unusable(config: DataConfig, parts: Sequence[Part], every: RecordTable, usable: Usable) -> None:
    """Raise `DataError` where the images of a source that were looked at and cannot be used are
    more than `data.max_unusable` allows, and for one that is too long where that is refused."""
    reasons = {item["uid"]: item for item in usable.bad}
    if config.long_prompts == "refuse":
        for item in usable.bad:
            if item["reason"] == TOO_LONG:
                count = sum(other["reason"] == TOO_LONG for other in usable.bad)
                raise DataError(
                    f"{item['image']}: {item['detail']}. {count} images are so (data.long_prompts = 'refuse'); 'skip' leaves "
                    "them out"
                )
    for number, part in enumerate(parts):
        mine = np.flatnonzero((every.part == number) & usable.looked_at())
        bad = mine[usable.unusable()[mine]]
        if len(mine) < _FEW or len(bad) <= config.max_unusable * len(mine):
            continue
        found = Counter(reasons[uid]["reason"] for uid in every.take(bad).uids())
        first = reasons[every[int(bad[0])].uid]
        raise DataError(unusable_words(part, len(mine), found, f"{first['image']!r}: {first['detail']}", config))


def unusable_words(part: Part, looked_at: int, found: Counter[str], example: str, config: DataConfig) -> str:
    """What is said of a source with too many unusable images."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.most_common())
    return (
        f"{part.source.path}: {found.total():,} of {looked_at:,} images cannot be used ({reasons}), more than the share "
        f"data.max_unusable = {config.max_unusable:g}; for example {example[:200]}. {advice(part, found)}; or raise "
        "data.max_unusable to go on without them"
    )


def advice(part: Part, found: Counter[str]) -> str:
    """What to do about a source's unusable images."""
    if 2 * found[TOO_LONG] > found.total():
        return "Lower policy.max_pixels, or raise rollout.engine.max_model_len"
    labels = part.records.labels
    if labels.embedded or 2 * found["missing"] < found.total():
        return "Mend the images, or leave them out of the table"
    names = (name for name in strings(labels.files) if not os.path.isfile(labels.root / name))
    where = hint(labels.root, list(islice(names, _LOOKED_INTO)))
    return where or f"Images are looked up in {labels.root}: give their folder by data.images"
