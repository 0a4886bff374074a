"""Report sentences: title, headline, verdict, and the lines on data and service."""

from __future__ import annotations

from cluster.files.report import Report
from cluster.terminal.format import count, duration


def title(report: Report) -> str:
    return f"RAPO on {report.data.name}" if report.data is not None else "RAPO run"


def headline(report: Report) -> tuple[float, float] | None:
    """The test SRCC before and after RAPO."""
    before, after = srcc(report, "coldstart"), srcc(report, "rapo")
    return None if before is None or after is None else (before, after)


def verdict(report: Report) -> str:
    before, after = srcc(report, "coldstart"), srcc(report, "rapo")
    n = next((report.evaluate[model]["n"] for model in ("rapo", "coldstart") if model in report.evaluate), 0)
    where = f"on {count(n)} held-out images" if n else "on held-out images"
    if before is not None and after is not None:
        if f"{before:.3f}" == f"{after:.3f}":
            return f"RAPO left the rank correlation with human scores (SRCC) {where} at {after:.3f}."
        verb = "raised" if after > before else "lowered"
        sentence = f"RAPO {verb} the rank correlation with human scores (SRCC) {where} from {before:.3f} to {after:.3f}"
        return sentence + (", though the two intervals overlap." if _intervals_overlap(report) else ".")
    what = f"the rank correlation with human scores (SRCC) {where} is"
    if after is not None:
        return f"After RAPO, {what} {after:.3f}; there is no cold start to compare with."
    if before is not None:
        return f"After the cold start, {what} {before:.3f}; there is no result of RAPO."
    return "No model has been evaluated yet."


def data_line(report: Report) -> str:
    data = report.data
    if data is None:
        return ""
    parts = [f"{', '.join(f'{count(n)} {split}' for split, n in data.counts.items())} images"]
    if data.native_range is None:
        scales = (f"{name} from {one.native_range[0]:g} to {one.native_range[1]:g}" for name, one in data.sets.items())
        parts.append(f"scores of {', '.join(scales)}")
    else:
        parts.append(f"scores from {data.native_range[0]:g} to {data.native_range[1]:g}")
    if skipped := sum(data.skipped.values()):
        parts.append(f"{count(skipped)} unusable rows skipped")
    return "; ".join(parts)


def served_line(report: Report) -> str:
    served = report.served
    if served is None or not served.images or served.seconds is None:
        return ""
    text = f"{count(served.images)} test images were scored over gRPC in {duration(served.seconds)}"
    if served.max_abs_difference is None:
        return text + "."
    return text + f"; largest difference from the evaluation: {served.max_abs_difference:.3f}."


def srcc(report: Report, model: str) -> float | None:
    """The test SRCC of a model."""
    return report.evaluate[model]["srcc"] if model in report.evaluate else None


def _intervals_overlap(report: Report) -> bool:
    before, after = (report.evaluate[model]["srcc_interval"] for model in ("coldstart", "rapo"))
    return before is not None and after is not None and after[0] < before[1] and before[0] < after[1]
