"""The test rows in parts: where among them the student falls behind its teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from potstill.data.on_disk import OnDisk
from potstill.evaluation.answers import estimate
from potstill.evaluation.case import Case
from potstill.measure import quality
from potstill.records import SliceRow

FEWEST_ROWS_OF_A_SLICE = 30
"""Of fewer, an interval by the bootstrap is too narrow: of one row it is a point."""
MOST_VALUES = 50
"""Values of a field that are slices of their own; the rows of all others are one together."""
WITHOUT, OTHERS = "(without)", "(all others)"
QUARTERS = (0.25, 0.5, 0.75)

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowScores:
    """How much each model has right of each test row, and by what rows can be told apart."""

    hits: Mapping[str, npt.NDArray[np.float64]]
    counts: npt.NDArray[np.float64]
    """Of how many: 1 where a row is right as a whole, else its words or tokens."""
    weights: quality.Weights
    """Resamples of the rows."""
    lengths: Sequence[int]
    unit: str
    """Of the lengths; rows without any are not told apart by them."""
    classes: Sequence[str] | None = None
    """The true class of each row, where it has one."""
    numbers: Sequence[int] | None = None
    """Which of the test rows these are, if not all of them."""


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common, as what is measured on them."""

    rows: Numbers
    """Their places among the rows that were scored."""
    record: SliceRow


def whole_rows(
    right: Mapping[str, npt.NDArray[np.bool_]],
    weights: quality.Weights,
    lengths: Sequence[int],
    classes: Sequence[str] | None = None,
) -> RowScores:
    """The scores of rows that are right as a whole or wrong, whose lengths are in tokens."""
    hits = {model: each.astype(np.float64) for model, each in right.items()}
    return RowScores(hits, np.ones(weights.shape[1]), weights, lengths, "tokens", classes)


def slices_of(case: Case, scores: RowScores) -> list[Slice]:
    """All slices of the test rows, the worst first.

    By the lower end of the interval of the drop, so that a large drop of which little is known does not lead; those
    with few rows come after all others, for their intervals say too little.
    """
    found = []
    if scores.classes is not None:
        found += _measured(scores, "class", None, _by_value(list(scores.classes), len(case.class_names)))
    if scores.lengths:
        found += _measured(scores, "length", None, _by_length(scores))
    for field in case.recipe.evaluate.slices:
        found += _measured(scores, "field", field, _by_value(_values(case, field, scores.numbers), MOST_VALUES))
    return sorted(found, key=lambda each: _badness(each.record))


def field_values(rows: Sequence[object], field: str) -> list[str | None]:
    """The value of a field in each of these rows, which are read with it; None where it says nothing."""
    assert isinstance(rows, OnDisk)
    return rows.values_of(field)


def _values(case: Case, field: str, numbers: Sequence[int] | None) -> list[str | None]:
    values = field_values(case.test, field)
    return values if numbers is None else [values[number] for number in numbers]


def _by_value(values: Sequence[str | None], most: int) -> list[tuple[str, Numbers]]:
    """The rows of each value, of the most frequent ones alone."""
    rows: dict[str | None, list[int]] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, []).append(row)
    without = rows.pop(None, [])
    ordered = sorted(rows.items(), key=lambda pair: (-len(pair[1]), str(pair[0])))
    others = sorted(row for _, of_value in ordered[most:] for row in of_value)
    named = [(str(value), of_value) for value, of_value in ordered[:most]]
    named += [(name, each) for name, each in ((OTHERS, others), (WITHOUT, without)) if each]
    return [(name, np.array(each, dtype=np.int64)) for name, each in named]


def _by_length(scores: RowScores) -> list[tuple[str, Numbers]]:
    """The rows in quarters by their length, of equal lengths all in the lower one."""
    lengths = np.asarray(scores.lengths, dtype=np.int64)
    quarter = np.searchsorted(np.quantile(lengths, QUARTERS), lengths, side="left")
    found = []
    for number in np.unique(quarter).tolist():
        rows = np.flatnonzero(quarter == number)
        shortest, longest = lengths[rows].min(), lengths[rows].max()
        span = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        found.append((f"{span} {scores.unit}", rows))
    return found


def _measured(
    scores: RowScores,
    by: Literal["class", "length", "field"],
    field: str | None,
    parts: Sequence[tuple[str, Numbers]],
) -> list[Slice]:
    return [
        Slice(rows, _record(scores, by, field, name, rows)) for name, rows in parts if scores.counts[rows].sum() > 0
    ]


def _record(
    scores: RowScores, by: Literal["class", "length", "field"], field: str | None, name: str, rows: Numbers
) -> SliceRow:
    weights, counts = scores.weights[:, rows], scores.counts[rows]
    drawn = quality.drawn_sums(weights, counts)
    # A resample in which no row of the slice was drawn says nothing of it; the first is the sample itself.
    some = drawn > 0
    shares = {model: quality.drawn_sums(weights, hits[rows])[some] / drawn[some] for model, hits in scores.hits.items()}
    accuracy = {model: float(share[0]) for model, share in shares.items()}
    return SliceRow(
        by=by,
        field=field,
        name=name,
        rows=len(rows),
        small=len(rows) < FEWEST_ROWS_OF_A_SLICE,
        teacher_accuracy=accuracy["teacher"],
        student_accuracy=accuracy["student"],
        baseline_accuracy=accuracy.get("baseline"),
        drop_points=estimate(100 * (shares["teacher"] - shares["student"])),
    )


def _badness(each: SliceRow) -> tuple[bool, float, float, str, str]:
    drop = each.drop_points
    return each.small, -drop.low, -drop.value, each.field or each.by, each.name
