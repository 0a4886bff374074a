"""ScoreImages: scoring as a step of a data pipeline, for Ray Data's `map_batches` and for
`datasets.map`.

    pool = ray.data.ActorPoolStrategy(size=4)
    ds.map_batches(ScoreImages, fn_constructor_args=("scorer:50051",), compute=pool)

- It imports neither Ray nor NumPy. A batch is a dict of columns, and columns are added to it.
- No row is left out: a row without a score has the reason in the column `error`.
- One object scores by one model version: the one that answers at its first batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from rapo.client.sync import ScorerClient
from rapo.client.types import Image, Outcome, ScoreOptions
from rapo.errors import ConfigError, DataError

Column = list[str] | list[float | None]


class ScoreImages:
    """Adds `aesthetic_score` in [0, 1], `aesthetic_score_std`, `interval_low`, `interval_high`,
    `interval_coverage`, `model_version` and `error` to each row of a batch.

    `interval_*` is calibrated on human scores, and NaN (`null`) where the model or the readout is
    not; `aesthetic_score_std` is the model's own uncertainty, and NaN with the readout `greedy`.
    Without a score, all numbers are NaN and `error` says why; otherwise `error` is empty. It is
    never null: a block of nothing but nulls has no type, and cannot be written into one file with
    the others.

    `column` holds encoded bytes or paths that this process can read; by default it is `bytes` or
    else `path`. `options` are `ScoreOptions`, `client` the arguments of `ScorerClient`
    (`token_file`, `ca`, ...). `rationale` and `native_score` are added if the options request them.
    `null` is used for a missing number: NaN keeps NumPy columns numeric, None suits `datasets.map`.

    Every worker of a pipeline has an object of its own. Where the scorer's default may change while
    the pipeline runs, name `model_version` in the options.

    Raises `DataError` if the batch lacks the column, and `CallError` if the scorer is gone: the
    pipeline's own retries are better than a data set full of errors.
    """

    def __init__(
        self,
        target: str,
        column: str | None = None,
        *,
        options: ScoreOptions | None = None,
        client: Mapping[str, Any] | None = None,
        in_flight: int | None = None,
        null: float | None = math.nan,
    ) -> None:
        if isinstance(options, str) or isinstance(client, str):
            raise ConfigError("options and client are dictionaries, such as options={'readout': 'fast'}")
        self._column = column
        # Unlike the client, without text unless the options request it.
        self._options: ScoreOptions = {"rationale": False, **(options or {})}
        self._in_flight = in_flight
        self._null = null
        self._remake = partial(
            ScoreImages, target, column, options=options, client=client, in_flight=in_flight, null=null
        )
        self._client = ScorerClient(target, **dict(client or {}))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the columns added, as lists in the order of its rows."""
        column = self._column or next((name for name in ("bytes", "path") if name in batch), None)
        if column is None or column not in batch:
            raise DataError(
                f"no column {column or 'bytes or path'!r} in {', '.join(batch)}; say which holds the images."
            )
        if not self._options.get("model_version"):
            self._options = {**self._options, "model_version": self._client.model().model_version}
        images = map(_image, batch[column])
        return {**batch, **self._columns(list(self._client.score_many(images, self._in_flight, **self._options)))}

    def _columns(self, outcomes: list[Outcome]) -> dict[str, Column]:
        results = [outcome.result for outcome in outcomes]
        intervals = [None if item is None else item.interval for item in results]
        missing = self._null
        added: dict[str, Column] = {
            "aesthetic_score": [missing if item is None else item.score for item in results],
            "aesthetic_score_std": [missing if item is None or item.std is None else item.std for item in results],
            "interval_low": [missing if item is None else item.low for item in intervals],
            "interval_high": [missing if item is None else item.high for item in intervals],
            "interval_coverage": [missing if item is None else item.coverage for item in intervals],
            "model_version": ["" if item is None else item.model_version for item in results],
            "error": ["" if outcome.error is None else str(outcome.error) for outcome in outcomes],
        }
        if self._options.get("rationale"):
            added["rationale"] = ["" if item is None else item.rationale for item in results]
        if self._options.get("native_scale"):
            added["native_score"] = [
                missing if item is None or item.native_score is None else item.native_score for item in results
            ]
        return added

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, so that each process makes connections of its own."""
        return self._remake, ()


def _image(value: Any) -> Image:
    # `datasets` keeps an image that is not decoded as such a dictionary. The client says what is no
    # image.
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") or value.get("path")
    return value
