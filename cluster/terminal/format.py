"""Format: numbers as people read them, the same in the terminal and in the report."""

from __future__ import annotations

from cluster.files.json_values import finite

#: Stands where there is no number.
ABSENT = "–"


def fixed(value: object, digits: int = 3) -> str:
    """A number with a fixed count of decimals, so that columns align; `ABSENT` where there is
    none."""
    number = finite(value)
    return ABSENT if number is None else f"{number:,.{digits}f}"


def percent(value: object, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    number = finite(value)
    return ABSENT if number is None else f"{100 * number:.{digits}f} %"


def count(value: object) -> str:
    """A whole number with thousands separated."""
    number = finite(value)
    return ABSENT if number is None else f"{round(number):,}"


def interval(bounds: list[float] | None) -> str:
    """A pair of bounds as `low – high`, or an empty string where there is none."""
    return "" if bounds is None else f"{fixed(bounds[0])} – {fixed(bounds[1])}"


def duration(seconds: float) -> str:
    """Seconds in the largest units that are still exact enough: `8.2 s`, `42 s`, `5 min 03 s`,
    `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`, of steady width while they count."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def metric(value: object) -> str:
    """A training metric in few characters: `1.92`, `0.71`, `3.1e-04`, `1,250`; words as they
    are."""
    if isinstance(value, bool | str):
        return str(value)
    number = finite(value)
    if number is None:
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(number)
    if size and size < 0.01:
        return f"{number:.1e}"
    return f"{number:.2f}" if size < 100 else f"{number:,.0f}"
