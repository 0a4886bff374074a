"""IntervalLine: the sentence on the calibrated intervals of a run, for the terminal and the
page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.terminal.format import count, fixed, percent

if TYPE_CHECKING:
    from rapo.metrics import Evaluation


def interval_line(evaluation: Evaluation | None, raters: str = "human") -> str:
    """What the intervals hold on the test images; empty for a model that was not calibrated."""
    if evaluation is None or "interval" not in evaluation:
        return ""
    found = evaluation["interval"]
    if found is None:
        return "No calibrated interval: too few images have a score to calibrate or to measure it."
    low, high = found["measured_interval"]
    return (
        f"The {percent(found['stated'], 0)} interval holds {count(found['inside'])} of {count(found['n'])} {raters} scores: "
        f"{percent(found['measured'])} (95 %: {100 * low:.1f} to {percent(high)}). Its mean width is "
        f"{fixed(found['mean_width'])}; calibrated on {count(found['calibration_n'])} validation images, readout "
        f"{found['readout']}."
    )
