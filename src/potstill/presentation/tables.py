"""Tables and sections, as those who know what they mean give them to those who show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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
    charts: Sequence[Bars | Histogram] = ()
    """What is drawn below its tables."""
    after: str | None = None
    """What stands below, in small."""


@dataclass(frozen=True)
class Quantity:
    """A row of the comparison of models: what is measured, and the value of each model."""

    name: str
    values: Sequence[str] = field(default_factory=tuple)
    brief: bool = False
    """Whether it is shown where there is little room."""
