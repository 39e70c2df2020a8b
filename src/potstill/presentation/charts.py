"""Charts as inline SVG: no dates, no random ids, and colours that follow the page's light or dark scheme."""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from potstill.records import Floor, ModelEvaluation

Points = Sequence[tuple[float, float]]

MAX_POINTS = 400
"""Points of a curve: more than there are pixels for only makes the page heavier."""
LARGEST_AREA = 200.0
"""Of a point, in square points: of the largest model."""
SMOOTHING = 0.95
"""Weight of the past in the running mean of the loss: about the last twenty steps count."""

# Matplotlib cannot write CSS variables, so it draws in these colours and they are exchanged in its output.
INK, _GRID = "#010203", "#040506"
_SERIES = ("#2563a8", "#c2570c", "#2f7d32", "#7b3fa0")
_CSS = {
    INK: "currentColor",
    _GRID: "var(--grid, #d0d4da)",
    **{colour: f"var(--series-{number}, {colour})" for number, colour in enumerate(_SERIES, start=1)},
}
# Typed loosely: some releases of matplotlib list every key as a literal, others take any text.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "font.size": 9,
    "legend.frameon": False,
}
COLOURS = {"teacher": _SERIES[2], "student": _SERIES[0], "baseline": _SERIES[1]}


def trade_off(models: Mapping[str, ModelEvaluation], floors: Mapping[str, Floor], metric: str, words: str) -> str:
    """The primary metric, by its `words`, with its interval against median latency; the area of a point is the size of
    the weights, and the TF-IDF floors are lines."""
    largest = max((model.size_bytes for model in models.values()), default=1)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "trade-off"}):
        figure = Figure(figsize=(7.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for floor in floors.values():
            height = 100 * floor.score(metric)
            axes.axhline(height, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.55)
            axes.annotate(
                f"TF-IDF, {floor.labelled_rows:,} labelled rows",
                (0.995, height),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
        for number, (name, model) in enumerate(models.items(), 1):
            interval = model.score(metric)
            value = 100 * interval.value
            reach = [[max(0.0, value - 100 * interval.low)], [max(0.0, 100 * interval.high - value)]]
            colour = COLOURS.get(name, _SERIES[3])
            axes.errorbar([model.latency_p50_ms], [value], yerr=reach, fmt="none", ecolor=colour, capsize=3)
            area = max(16.0, LARGEST_AREA * model.size_bytes / max(1, largest))
            # Names would cover each other where models are alike, so they stand below, by number.
            axes.scatter(
                [model.latency_p50_ms],
                [value],
                s=area,
                color=colour,
                alpha=0.75,
                linewidths=0,
                zorder=3,
                label=f"{number} {name}",
            )
            side = (-1) ** number
            axes.annotate(
                str(number),
                (model.latency_p50_ms, value),
                xytext=(9 * side, 9),
                textcoords="offset points",
                color=colour,
                ha="center",
                va="center",
                weight="bold",
            )
        axes.set_xscale("log")
        latencies = [model.latency_p50_ms for model in models.values() if model.latency_p50_ms > 0]
        axes.set_xlim(min(latencies, default=1) / 2, max(latencies, default=1) * 2)
        _plain_ticks(axes.xaxis)
        axes.tick_params(axis="x", which="minor", length=3.5, pad=3.5)
        axes.set_xlabel("median latency at batch 1, ms (logarithmic; left is faster); area: size of the weights")
        axes.set_ylabel(f"{words}, %")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, markerscale=0.5)
        return inline(figure, f"{words} against median latency of each model")


def curves(series: Mapping[str, Points], *, title: str, logarithmic: bool = False) -> str:
    """One or more curves over the optimiser steps, at most `MAX_POINTS` points each."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(series.items()):
            _draw(axes, name, thinned(points), COLOURS.get(name, _SERIES[number % len(_SERIES)]))
        if logarithmic and all(y > 0 for points in series.values() for _, y in points):
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("optimiser step")
        axes.legend(fontsize=8)
        return inline(figure, title)


def smoothed(points: Points, weight: float = SMOOTHING) -> list[tuple[float, float]]:
    """The running mean with exponentially fading weights, corrected for its start (Adam's correction)."""
    result = []
    mean = 0.0
    for number, (x, y) in enumerate(points, start=1):
        mean = weight * mean + (1 - weight) * y
        result.append((x, mean / (1 - weight**number)))
    return result


def thinned(points: Points, most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `most` of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(number * (len(points) - 1) / (most - 1))] for number in range(most)]


def _plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times each power of ten, as plain numbers."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")


def _draw(axes: Axes, name: str, points: Points, colour: str) -> None:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    marker = "o" if len(finite) == 1 else ""
    # Dashed, so that a curve under it shows: student and baseline often share their schedules.
    style = "--" if name == "baseline" else "-"
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    axes.plot(xs, ys, style, label=name, color=colour, marker=marker, linewidth=1.5)


def inline(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element for a page: no prolog, no metadata, nor namespaces, which HTML implies."""
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    # Several charts share a page: names of groups would occur twice there, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # The page sets the size: the box alone keeps the proportions.
    label = html.escape(description)
    svg = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>',
        lambda box: f'<svg role="img" aria-label="{label}" {box[1]}>',
        svg,
        count=1,
    )
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    return svg.strip()
