"""Report sentences: title, headline, verdicts on scores, explanations and resolution, and the lines
on data and service."""

from __future__ import annotations

from cluster.files.report import Report
from cluster.terminal.format import count, duration, fixed, percent

#: A fall of the mean grounding by more than this is a loss, even where the intervals overlap.
_FALL = 0.05
#: Fewer different rationales or scores than this share of the cold start's are a loss.
_KEPT = 0.6
#: A larger share of the rationales that judge a dimension alike says nothing about the images.
_ALIKE = 0.95


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
            return f"RAPO left the rank correlation with {report.raters} scores (SRCC) {where} at {after:.3f}."
        verb = "raised" if after > before else "lowered"
        sentence = f"RAPO {verb} the rank correlation with {report.raters} scores (SRCC) {where} from {before:.3f} to {after:.3f}"
        return sentence + (", though the two intervals overlap." if _intervals_overlap(report) else ".")
    what = f"the rank correlation with {report.raters} scores (SRCC) {where} is"
    if after is not None:
        return f"After RAPO, {what} {after:.3f}; there is no cold start to compare with."
    if before is not None:
        return f"After the cold start, {what} {before:.3f}; there is no result of RAPO."
    return "No model has been evaluated yet."


def explanations_verdict(report: Report) -> str:
    """What RAPO did to the explanations; empty without both models."""
    if not {"coldstart", "rapo"} <= report.evaluate.keys():
        return ""
    before, after = (report.evaluate[model]["explanations"] for model in ("coldstart", "rapo"))
    was, now = before["grounding"]["mean"], after["grounding"]["mean"]
    if was is None or now is None:
        return ""
    overlap = _overlap(before["grounding"]["interval"], after["grounding"]["interval"])
    fewer = after["distinct_rationales"] < _KEPT * before["distinct_rationales"]
    if fewer or now < was - _FALL or (now < was and not overlap):
        what = "got worse"
    elif now > was and not overlap:
        what = "got better"
    else:
        what = "stayed about as they were"
    text = (
        f"The explanations {what}: mean grounding {was:.3f} → {now:.3f}, different rationales "
        f"{count(before['distinct_rationales'])} → {count(after['distinct_rationales'])} on {count(after['n'])} images."
    )
    alike = {
        name: share
        for name, found in after["grounding"]["dimensions"].items()
        if (share := found["alike"] or 0.0) >= _ALIKE
        and (before["grounding"]["dimensions"][name]["alike"] or 0.0) < _ALIKE
    }
    if alike:
        shares = ", ".join(f"{name} ({percent(share)})" for name, share in alike.items())
        text += f" Nearly all of RAPO's rationales say the same of {shares}."
    return text


def resolution_verdict(report: Report) -> str:
    """That RAPO's scores lost resolution; empty where they did not."""
    if not {"coldstart", "rapo"} <= report.evaluate.keys():
        return ""
    before, after = (report.evaluate[model] for model in ("coldstart", "rapo"))
    narrow = before["spread"] is not None and after["spread"] is not None
    narrow = narrow and (after["spread"] or 0.0) < _KEPT * min(1.0, before["spread"] or 0.0)
    if not narrow and after["distinct_scores"] >= _KEPT * before["distinct_scores"]:
        return ""
    return (
        f"The scores lost resolution: their spread is {fixed(after['spread'], 2)} of the {report.raters} scores' "
        f"({fixed(before['spread'], 2)} before), on {count(after['distinct_scores'])} different values "
        f"({count(before['distinct_scores'])} before)."
    )


def attributes_line(report: Report) -> str:
    """What the rationales are compared with."""
    found = next((report.evaluate[key]["explanations"] for key in report.evaluate), None)
    if found is None:
        return ""
    if found["source"] == "attributes":
        return "the images' own attributes, which the data set knows"
    return "measures of the images by classical means, which are rough on photographs"


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
    return _overlap(*(report.evaluate[model]["srcc_interval"] for model in ("coldstart", "rapo")))


def _overlap(before: list[float] | None, after: list[float] | None) -> bool:
    return before is not None and after is not None and after[0] < before[1] and before[0] < after[1]
