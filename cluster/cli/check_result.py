"""CheckResult: one row of `rapo doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "warn", "wrong"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was checked, what was found, and in one sentence what to do; `advice` is empty where
    nothing needs to be done."""

    check: str
    found: str
    state: CheckState = "ok"
    advice: str = ""
