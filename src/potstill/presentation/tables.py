"""Tables and sections, as those who know what they mean give them to those who show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from potstill.records import ReliabilityBin


@dataclass(frozen=True)
class Cell:
    """A text in a table."""

    text: str
    style: str = "n"
    """How it is set: `n` for numbers, `name` for names that may be long, `text` for texts, `answer`, or nothing."""
    met: bool | None = None
    """Whether it is good news, where it is news."""
    under: str = ""
    """What stands below it in small."""
    as_is: bool = False
    """Whether its line breaks are shown."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first cell of each is what the row is about."""

    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Reliability:
    """What is drawn of one model: how many of its decisions are right, by how sure it is of them."""

    title: str
    """The model's name."""
    series: Mapping[str, Sequence[ReliabilityBin]]
    """By what they are called."""
    x: str = "mean confidence, %"

    @property
    def description(self) -> str:
        """What is to be seen, for those who do not see it."""
        told = "; ".join(f"{name}: {_told(bins)}" for name, bins in self.series.items())
        return f"accuracy by confidence in per cent; {told}."


def _told(bins: Sequence[ReliabilityBin]) -> str:
    return ", ".join(f"{100 * each.accuracy:.0f} at {100 * each.confidence:.0f}" for each in bins)


@dataclass(frozen=True)
class Bars:
    """Values of several models at a few places, with intervals: value, low and high, in per cent."""

    title: str
    x: str
    y: str
    places: Sequence[str]
    series: Mapping[str, Sequence[tuple[float, float, float]]]


@dataclass(frozen=True)
class Histogram:
    """What share of the rows of each kind lies between one edge and the next."""

    title: str
    x: str
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]


Chart = Bars | Histogram | Reliability


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    anchor: str | None = None
    """Of a section by itself; one without is a part of the section before."""
    notes: Sequence[str] = ()
    tables: Sequence[tuple[str | None, Table]] = ()
    """Each with a name, where it has one."""
    tall: bool = False
    """Whether its tables may be longer than a screen."""
    summary: str | None = None
    """Under which its tables can be folded away."""
    empty: str | None = None
    """What stands there without tables."""
    charts: Sequence[Chart] = ()
    """What is drawn above its tables."""
    after: str | None = None
    """What stands below, in small."""


@dataclass(frozen=True)
class Quantity:
    """A row of the comparison of models: what is measured, and the value of each model."""

    name: str
    values: Sequence[str] = field(default_factory=tuple)
    brief: bool = False
    """Whether it is shown where there is little room."""
