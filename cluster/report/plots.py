"""Plots: inline SVG that takes its colours from the page, for light and dark.

- Matplotlib draws each colour as a stand-in, which is then replaced by a CSS variable.
- pyplot is not used, so that there are no global figures.
- The SVG holds no dates and no links.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Stand-ins for colours, see `_VARIABLES`.
_INK, _MUTED, _GRID = "#010203", "#040506", "#070809"
SERIES = ("#3b78b0", "#c2762f", "#5d8f55", "#8a6bae")
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, start=1)
}
#: Above this many points a scatter is a bitmap, because thousands of SVG nodes make a page slow.
_MAX_VECTOR_POINTS = 2000
#: Rows from which a noisy curve gets a moving mean.
_SMOOTH_FROM = 30
_BITMAP_DPI = 180.0
_UNITS = 72.0  # points per inch, so that the sizes below are the SVG's own units
_CURVES_SIZE, _VALIDATION_SIZE, _SCATTER_SIZE = (440, 190), (900, 240), (440, 400)
_STYLE: dict[Any, Any] = {  # matplotlib's type for the keys is a literal of some hundred names
    "svg.fonttype": "none",
    "svg.hashsalt": "rapo",
    "font.family": ["sans-serif"],
    "font.size": 11.0,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: `steps` and `values` are `(n,)`, ascending in steps; `label` names it if there are
    several."""

    label: str
    steps: Floats
    values: Floats


def curves_svg(curves: Sequence[Curve], *, alt: str) -> str:
    """Curves over steps. From 30 points on, each step is thin and a moving mean (see `window`) is
    bold over it."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(_CURVES_SIZE)
        for curve, colour in zip(curves, SERIES, strict=False):
            span = window(curve.steps.size)
            if span > 1:
                axes.plot(curve.steps, curve.values, color=colour, linewidth=0.8, alpha=0.35)
            mean = moving_mean(curve.values, span)
            axes.plot(curve.steps, mean, color=colour, linewidth=1.8, marker="o" if mean.size == 1 else None)
        axes.margins(x=0.0, y=0.12)
        _widen_single_step(axes, curves)
        if len(curves) > 1:
            _label_ends(axes, curves)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure, alt)


def validation_svg(curve: Curve, *, alt: str, marks: Sequence[float] = ()) -> str:
    """Points joined by a line, the highest marked with its value, and a dotted vertical line at
    each step in `marks`."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(_VALIDATION_SIZE)
        for mark in sorted(set(marks)):
            axes.axvline(mark, color=_MUTED, linewidth=1.0, linestyle=(0, (1, 3)), zorder=0)
        axes.plot(curve.steps, curve.values, color=SERIES[0], linewidth=1.8, marker="o", markersize=4.5)
        best = int(np.argmax(curve.values))
        x, y = curve.steps[best], curve.values[best]
        axes.plot([x], [y], "o", markersize=9, markerfacecolor="none", markeredgecolor=SERIES[1], markeredgewidth=1.6)
        late = best > curve.steps.size / 2
        axes.annotate(
            f"{y:.3f} at step {x:.0f}",
            (x, y),
            xytext=(-9 if late else 9, 8),
            textcoords="offset points",
            ha="right" if late else "left",
            color=_INK,
        )
        axes.margins(x=0.02, y=0.22)
        _widen_single_step(axes, [curve])
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure, alt)


def scatter_svg(target: Floats, score: Floats, limits: tuple[float, float], *, raters: str, alt: str) -> str:
    """Predicted scores against those of the `raters`, `(n,)` each, with the line of agreement."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(_SCATTER_SIZE)
        axes.grid(True, axis="both", color=_GRID, linewidth=0.8)
        axes.plot(limits, limits, color=_MUTED, linewidth=1.0, dashes=(4, 3))
        axes.plot(
            target,
            score,
            "o",
            color=SERIES[0],
            # The more points, the fainter each is, so that density shows.
            alpha=float(np.clip(12.0 / np.sqrt(target.size), 0.08, 0.6)),
            markersize=5 if target.size <= 400 else 3.5,
            markeredgewidth=0,
            rasterized=target.size > _MAX_VECTOR_POINTS,
        )
        axes.set(
            xlim=limits, ylim=limits, xlabel=f"{raters} score", ylabel="predicted score", aspect="equal", anchor="W"
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        return _svg(figure, alt)


def window(n: int) -> int:
    """Steps in the moving mean of a curve of `n` points: an odd number, about a fifteenth of them;
    1 for short curves."""
    return 1 if n < _SMOOTH_FROM else max(3, n // 15 | 1)


def moving_mean(values: Floats, span: int) -> Floats:
    """The centred mean over `span` (odd) points, over fewer at the ends: the length stays
    `(n,)`."""
    ones = np.ones(span)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(size[0] / _UNITS, size[1] / _UNITS), dpi=_BITMAP_DPI, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(True, axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    return figure, axes


def _widen_single_step(axes: Axes, curves: Sequence[Curve]) -> None:
    steps = np.concatenate([curve.steps for curve in curves])
    if steps.min() == steps.max():
        axes.set_xlim(steps[0] - 1, steps[0] + 1)  # else the ticks would be fractions of a step


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Put names at the right ends of the lines, apart from each other."""
    low, high = axes.get_ylim()
    ends = [moving_mean(c.values, window(c.steps.size))[-1] for c in curves]
    places = [(end - low) / (high - low) for end in ends]
    gap, lowest = 0.11, 0.0
    order = sorted(range(len(places)), key=places.__getitem__)
    for index in order:
        places[index] = lowest = max(places[index], lowest)
        lowest += gap
    ceiling = 1.0
    for index in reversed(order):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    for curve, place, colour in zip(curves, places, SERIES, strict=False):
        axes.annotate(
            curve.label, (1.0, place), xytext=(7, 0), xycoords="axes fraction", textcoords="offset points",
            color=colour, va="center",
        )  # fmt: skip


def _svg(figure: Figure, alt: str) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)  # the same ids in every plot would clash in one page
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    head = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{_attribute(alt)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # The typeface is the page's own; sizes stay.
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    return re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", svg)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
