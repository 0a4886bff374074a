"""Failures: what a failed request to an endpoint means, and how long to wait before the next one.

- `retry`: another try may succeed. `refused`: this question will never be answered. `stop`: no
  question will be answered, whatever it is.
- A request that may have been billed without an answer says so.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

_RETRIED = (408, 409, 429)
_STOPS = {
    401: "the endpoint takes no request without a valid key; set the variable that endpoint.key_env names",
    402: "the endpoint wants to be paid first",
    404: "the endpoint knows no such model or address; look at model and endpoint.base_url",
}
#: What OpenAI answers, with status 429, where the account has no credit left.
_NO_CREDIT = "insufficient_quota"
_LONGEST_TEXT = 200
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request. `wait_s` is how long the endpoint asks to be left alone."""

    action: Literal["retry", "refused", "stop"]
    problem: str
    billed: bool = False
    wait_s: float | None = None


class UnreadableAnswer(ValueError):
    """A successful response whose body is no chat completion."""


def failure_of(error: Exception) -> Failure:
    """What the error of one request means."""
    if isinstance(error, APIStatusError):
        return _of_status(error)
    if isinstance(error, TimeoutError | APITimeoutError):
        return Failure("retry", "no answer within endpoint.request_timeout_s", billed=not _unconnected(error))
    if isinstance(error, APIConnectionError):
        cause = error.__cause__
        name = type(cause or error).__name__
        return Failure("retry", f"the connection failed ({name}: {cause or error})", billed=not _unconnected(error))
    if isinstance(error, UnreadableAnswer):
        return Failure("retry", f"the answer is no chat completion: {_short(str(error))}", billed=True)
    return Failure("refused", f"the request cannot be sent ({type(error).__name__}: {_short(str(error))})")


def pause_after(tries: int, wait_s: float | None, chance: float) -> float:
    """Seconds before the next try after `tries` failed ones: doubling, with jitter by `chance` in
    [0, 1), and no less than the endpoint asks for."""
    pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries - 1, 16)) * (0.5 + chance / 2)
    return pause if wait_s is None else wait_s + pause * 0.25


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a response's Retry-After (or retry-after-ms) asks to wait: a number, or a date
    against `now` in seconds since the epoch. None where there is none that can be read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _of_status(error: APIStatusError) -> Failure:
    status = error.status_code
    words = f"status {status}: {_short(error.message)}"
    if status in _STOPS:
        return Failure("stop", f"{_STOPS[status]} ({words})")
    if error.code == _NO_CREDIT or error.type == _NO_CREDIT:
        return Failure("stop", f"the account has no credit left ({words})")
    if status in _RETRIED or status >= 500:
        return Failure("retry", words, wait_s=retry_after(error.response.headers, time.time()))
    return Failure("refused", words)


def _unconnected(error: Exception) -> bool:
    """Whether the request never reached the endpoint."""
    unsent = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
    return isinstance(error, OpenAIError) and isinstance(error.__cause__, unsent)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}..."
