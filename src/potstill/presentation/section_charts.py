"""The charts of sections, as inline SVG."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from potstill.presentation.charts import COLOURS, STYLE, inline
from potstill.presentation.tables import Bars, Histogram

_KINDS = (COLOURS["student"], COLOURS["baseline"])


def drawn(chart: Bars | Histogram) -> str:
    """The chart as an `<svg>` element, which says in words what it shows."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": chart.title}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        if isinstance(chart, Bars):
            _bars(axes, chart)
        else:
            _histogram(axes, chart)
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


def described(chart: Bars | Histogram) -> str:
    """What there is to see, for who does not see it."""
    if isinstance(chart, Bars):
        middles = {name: [f"{value:.1f}" for value, _, _ in values] for name, values in chart.series.items()}
        return f"at {', '.join(chart.places)}: " + "; ".join(f"{name} {', '.join(m)}" for name, m in middles.items())
    return "; ".join(
        f"{name} mostly from {chart.edges[most]:.2f} to {chart.edges[most + 1]:.2f}"
        for name, counts in chart.counts.items()
        for most in [int(np.argmax(counts))]
    )
