"""Rows: the columns of AesCoT's tables, from the image that is asked about to the judged critique.

- `READ` is what the reader makes: an image's encoded bytes, or a `problem` and its `reason`.
- `WRITTEN` has the teacher's critique as well, `JUDGED` the judge's verdict and no bytes.
- A row with a `problem` has no critique and is never kept; `reason` is a word for counting.
"""

from __future__ import annotations

import pyarrow as pa

#: `place` is the row's place in the round that asks for it, `band` its score band.
ASKED = pa.schema(
    {
        "place": pa.int64(),
        "uid": pa.string(),
        "dataset": pa.string(),
        "path": pa.string(),
        "score": pa.float64(),
        "band": pa.int32(),
    }
)
_FAILED = [("problem", pa.string()), ("reason", pa.string())]

READ = pa.schema([*ASKED, ("image", pa.binary()), *_FAILED])


def _used_by(role: str) -> list[tuple[str, pa.DataType]]:
    """The name under which a teacher or a judge answered, and what its answers used."""
    counts = [(f"{role}_prompt_tokens", pa.int64()), (f"{role}_completion_tokens", pa.int64())]
    return [(f"{role}_model", pa.string()), *counts, (f"{role}_cost", pa.float64())]


_VERDICT = [("keep", pa.bool_()), ("detail", pa.string())]
WRITTEN = pa.schema([*READ, ("critique", pa.string()), *_used_by("teacher")])
JUDGED = pa.schema([*ASKED, ("critique", pa.string()), *_FAILED, *_VERDICT, *_used_by("teacher"), *_used_by("judge")])

#: Why a row has no critique or no verdict: its image is not usable; what the teacher answered is
#: none; nothing answered, so that the row may be asked for again; the judge failed; or the process
#: of one of them died twice over it.
IMAGE, TEACHER, UNANSWERED, JUDGE, LOST = "image", "teacher", "unanswered", "judge", "lost"
#: The reason of rows on which the stage ends: their problem is that of all rows. No shard has it.
STOP = "stop"
#: The reason of good critiques that their score band has no room for.
SURPLUS = "surplus"
