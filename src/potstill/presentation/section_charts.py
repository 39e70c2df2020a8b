"""The charts of sections, as inline SVG."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from potstill.presentation.charts import COLOURS, INK, STYLE, inline
from potstill.presentation.tables import Bars, Chart, Histogram, Reliability

_KINDS = (COLOURS["student"], COLOURS["baseline"])


def drawn(chart: Chart) -> str:
    """The chart as an `<svg>` element, which says in words what it shows."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": chart.title}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        match chart:
            case Bars():
                _bars(axes, chart)
            case Histogram():
                _histogram(axes, chart)
            case Reliability():
                _reliability(axes, chart)
        axes.set_title(chart.title, fontsize=10, loc="left")
        axes.set_xlabel(chart.x)
        axes.legend(fontsize=8)
        return inline(figure, f"{chart.title}: {described(chart)}")


def _bars(axes: Axes, chart: Bars) -> None:
    places = np.arange(len(chart.places))
    for number, (name, values) in enumerate(chart.series.items()):
        # Side by side, so that intervals do not cover each other.
        at = places + 0.08 * (number - (len(chart.series) - 1) / 2)
        middle, low, high = np.array(values).reshape(-1, 3).T
        reach = np.maximum(0, [middle - low, high - middle])
        axes.errorbar(at, middle, yerr=reach, fmt="o-", color=COLOURS[name], capsize=3, markersize=5, label=name)
    axes.set_xticks(places, chart.places)
    axes.set_ylabel(chart.y)


def _histogram(axes: Axes, chart: Histogram) -> None:
    for colour, (name, counts) in zip(_KINDS, chart.counts.items(), strict=True):
        axes.stairs(100 * np.array(counts) / max(1, sum(counts)), chart.edges, color=colour, label=name, linewidth=1.5)
    axes.set_ylabel("rows, %")


def described(chart: Chart) -> str:
    """What there is to see, for who does not see it."""
    if isinstance(chart, Reliability):
        return chart.description
    if isinstance(chart, Bars):
        middles = {name: [f"{value:.1f}" for value, _, _ in values] for name, values in chart.series.items()}
        return f"at {', '.join(chart.places)}: " + "; ".join(f"{name} {', '.join(m)}" for name, m in middles.items())
    return "; ".join(
        f"{name} mostly from {chart.edges[most]:.2f} to {chart.edges[most + 1]:.2f}"
        for name, counts in chart.counts.items()
        for most in [int(np.argmax(counts))]
    )


def _reliability(axes: Axes, chart: Reliability) -> None:
    """On the diagonal as many are right as the model says (DeGroot and Fienberg 1983)."""
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.55)
    for (name, bins), colour, marker in zip(chart.series.items(), reversed(_KINDS), "so", strict=False):
        confidences, accuracies = ([100 * getattr(each, of) for each in bins] for of in ("confidence", "accuracy"))
        reach = [
            [100 * max(0.0, each.accuracy - each.low) for each in bins],
            [100 * max(0.0, each.high - each.accuracy) for each in bins],
        ]
        axes.errorbar(
            confidences,
            accuracies,
            yerr=reach,
            fmt=f"{marker}-",
            color=colour,
            label=name,
            capsize=2,
            markersize=4,
            linewidth=1.2,
        )
    axes.set_xlim(0, 102)
    axes.set_ylim(-2, 102)
    axes.set_ylabel("right, %")
