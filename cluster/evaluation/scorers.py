"""Scorers: running scoring services that answer through the gRPC client.

- An answer without a score, and an image that the service refuses, are results, and are kept.
- What failed on the way (no connection, a full queue, a time limit) is no result. It is reported at
  the end, and asked for again by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from rapo.client.errors import CallError
from rapo.client.sync import ScorerClient
from rapo.client.types import Outcome, ScoreOptions
from rapo.errors import ImageError, ServiceError
from rapo.records import ImageRecord, Prediction

_CHUNK = 64
#: The fields of a request that are the same with every image.
_OPTIONS = ("readout", "samples")


def scorer_predictions(
    client: ScorerClient,
    version: str,
    readout: str,
    samples: int,
    records: Sequence[ImageRecord],
    keep: Callable[[Sequence[Prediction]], None],
) -> None:
    """Have the model `version` of a service predict records; `keep` gets the predictions, some at a
    time.

    Raises `CallError` where the service cannot be reached, does not serve that version any more or
    refuses the readout, and `ServiceError` at the end where images were left without a result.
    """
    options: ScoreOptions = {"readout": readout, "model_version": version}
    if readout == "sampled":
        options["samples"] = samples
    failed: list[Outcome] = []
    made: list[Prediction] = []
    images = (record.path if record.path is not None else record.data or b"" for record in records)
    with closing(client.stream(images, **options)) as outcomes:
        for outcome in outcomes:
            prediction = _prediction(records[outcome.index], outcome, readout)
            if prediction is None:
                failed.append(outcome)
                continue
            made.append(prediction)
            if len(made) >= _CHUNK:
                keep(made)
                made = []
    if made:
        keep(made)
    if failed:
        raise ServiceError(
            f"{len(failed):,} of {len(records):,} images got no answer, for example {records[failed[0].index].uid!r}: "
            f"{failed[0].error}. What was answered is kept; the same command asks for the rest."
        )


def _prediction(record: ImageRecord, outcome: Outcome, readout: str) -> Prediction | None:
    """The prediction that an outcome holds, None where the call failed."""
    result, error = outcome.result, outcome.error
    if result is not None:
        return Prediction(
            uid=record.uid,
            dataset=record.dataset,
            target=record.score,
            score=result.score,
            text=result.rationale,
            readout=result.readout,
            std=result.std,
            forced=result.forced,
        )
    if isinstance(error, CallError) and _is_result(error):
        reason = error.reason or error.code.lower()
    elif isinstance(error, ImageError):
        reason = error.reason
    else:
        return None
    return Prediction(record.uid, record.dataset, record.score, None, "", reason, readout)


def _is_result(error: CallError) -> bool:
    """Whether an error tells something of the answer or the image. Raises it where the service
    refuses what it is asked for with every image."""
    if any(violation.field in _OPTIONS for violation in error.violations):
        raise error
    return error.code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT")
