"""Published figures: what others report on the test sets of the paper, to be set beside a table.

- PLCC and SRCC are copied as published, into `published.toml`. Nothing was measured here.
- `PAPER` is Table 1 of Aes-R1 (arXiv 2509.21871): zero-shot models, and models trained on its
  15,000 images of TAD66K, AVA and FLICKR-AES. A star marks those that its authors retrained.
- `FULL_SPLIT` are models that were trained on the whole training split of a set: Table 4 of the
  same paper (trained on AVA, tested on all), pyiqa's figures for AVA's official split, and ArtiMuse
  (one model for each set) as others report it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

Pair = tuple[float, float]

#: The test sets of the paper, in its order.
PAPER_SETS = ("tad66k", "ava", "flickr-aes", "para", "aadb")


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """`(PLCC, SRCC)` of a model by set, and the mean over `PAPER_SETS`, where they are known."""

    model: str
    sets: Mapping[str, Pair]
    mean: Pair | None = None


class _RowFile(TypedDict):
    model: str
    sets: dict[str, Pair]
    mean: NotRequired[Pair]


class _File(TypedDict):
    paper: list[_RowFile]
    full_split: list[_RowFile]


_CONTENT = TypeAdapter(_File).validate_python(
    tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))
)
PAPER, FULL_SPLIT = (
    tuple(PublishedRow(row["model"], row["sets"], row.get("mean")) for row in rows)
    for rows in (_CONTENT["paper"], _CONTENT["full_split"])
)

#: What a reader must know before comparing with `PAPER`.
CAVEATS = (
    "Published rows are copied: Aes-R1 (arXiv 2509.21871), Tables 1 and 4; pyiqa's figures for AVA's official split; "
    "ArtiMuse on each set as reported by others. They were not measured here. A star marks models that the authors of "
    "Aes-R1 retrained on its 15,000 images.",
    "The paper tests on the official splits of TAD66K, AVA and PARA, and on a tenth of FLICKR-AES and of AADB that it "
    "sampled and did not publish. Figures on other images, or on a sample of them, are beside its rows and not "
    "comparable with them.",
)
