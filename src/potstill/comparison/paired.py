"""Two models on the same rows: which rows changed, and whether more changed than chance would explain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from potstill.evaluation.answers import estimate
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.kept_rows import KeptRows, ModelRows, Numbers
from potstill.evaluation.metrics import Unit
from potstill.measure import quality
from potstill.records import AnswerKind, Estimate

MEAN_ABSOLUTE_ERROR = "mean_absolute_error"

Places = npt.NDArray[np.int64]
Formula = Callable[[KeptRows, ModelRows, quality.Weights], Resampled]


@dataclass(frozen=True)
class Measure:
    """What is compared of two models, with an interval."""

    name: str
    """That of a metric, or of the mean absolute error, which is none."""
    unit: Unit
    better: Literal["higher", "lower"]
    values: Formula
    """Of one model over the resamples."""
    of_teacher: bool = True


@dataclass(frozen=True)
class Change:
    """From one model to another on the same rows."""

    worse: Places
    """The rows that the first alone has right, or to which the second is further away where none is right or wrong; the
    worst first."""
    better: Places
    """The other way round, the best first."""
    p: float | None
    """Of McNemar's exact test; None where no row is right or wrong."""
    differences: Mapping[str, Estimate]
    """The second minus the first by the name of the measure; of shares in points of 0.01."""
    left_out: int = 0
    """Rows of which only one of the two read a token; they are in none of the others."""
    of_rows: bool = True
    """Whether rows can be worse or better at all: the distance of a teacher from itself is none."""


def compared(
    rows: KeptRows, first: ModelRows, second: ModelRows, weights: quality.Weights, *, teachers: bool = False
) -> Change:
    """The second model against the first, over these resamples of the rows; of two `teachers` nothing is measured that
    is a distance from the teacher."""
    alone = _read_by_one(rows, first, second)
    if alone.any():
        weights = weights * ~alone
    differences = {
        each.name: _difference(each, rows, first, second, weights)
        for each in MEASURES[rows.kind]
        if each.of_teacher or not teachers
    }
    further = np.where(alone, 0.0, distance(rows.kind, second) - distance(rows.kind, first))
    worse, better, p = further > 0, further < 0, None
    if first.right is not None and second.right is not None:
        worse, better = first.right & ~second.right & ~alone, second.right & ~first.right & ~alone
        *_, p = quality.mcnemar(first.right[~alone], second.right[~alone])
    # Of a classifier the surest of its new answer lead, of all others those that moved furthest.
    sure = second.numbers.get("confidence")
    return Change(
        worse=_most_first(worse, further if sure is None else sure),
        better=_most_first(better, -further if sure is None else sure),
        p=p,
        differences=differences,
        left_out=int(alone.sum()),
        of_rows=not (teachers and rows.kind == "text"),
    )


def _read_by_one(rows: KeptRows, first: ModelRows, second: ModelRows) -> npt.NDArray[np.bool_]:
    """The rows that compare nothing, since one of the two had no place for a token of them."""
    if rows.kind not in ("text", "target"):
        return np.zeros(len(rows.ids), dtype=np.bool_)
    return np.asarray((first.numbers["tokens"] > 0) != (second.numbers["tokens"] > 0))


def _most_first(which: npt.NDArray[np.bool_], by: Numbers) -> Places:
    """The rows that are chosen, in the order of these numbers; equal ones in the order of the rows."""
    places = np.flatnonzero(which)
    return np.asarray(places[np.argsort(-by[places], kind="stable")])


def distance(kind: AnswerKind, model: ModelRows) -> Numbers:
    """How far each answer is from what it should be: from the teacher's in nats a token, in words that are wrong, or
    from the true number; of classes 0 where they are right, else 1."""
    numbers = model.numbers
    if kind == "regression":
        return np.asarray(np.abs(numbers["value"] - numbers["true"]))
    if kind == "tags":
        return np.asarray(numbers["words"] - numbers["right_words"])
    if kind in ("text", "target"):
        return np.asarray(numbers["kl"] / np.maximum(numbers["tokens"], 1))
    assert model.right is not None
    return (~model.right).astype(np.float64)


def _difference(
    each: Measure, rows: KeptRows, first: ModelRows, second: ModelRows, weights: quality.Weights
) -> Estimate:
    scale = 100 if each.unit is Unit.SHARE else 1
    return estimate(scale * (each.values(rows, second, weights) - each.values(rows, first, weights)))


def _of_rows(_: KeptRows, model: ModelRows, weights: quality.Weights) -> Resampled:
    """The share of the rows that are right."""
    assert model.right is not None
    return quality.accuracies(model.right, weights)


def _mean(sums: str, counts: str) -> Formula:
    """A mean over tokens or words, of which whole rows are drawn."""
    return lambda _, model, weights: quality.pooled_shares(model.numbers[sums], model.numbers[counts], weights)


def _f1(_: KeptRows, model: ModelRows, weights: quality.Weights) -> Resampled:
    """F1 over all labels or entities together."""
    hits, given, true = (quality.drawn_sums(weights, model.numbers[name]) for name in ("hits", "given", "true"))
    return np.asarray(2 * hits / np.maximum(given + true, 1e-12))


def _macro_f1(rows: KeptRows, model: ModelRows, weights: quality.Weights) -> Resampled:
    assert rows.truth is not None and model.said is not None
    names = {name: number for number, name in enumerate(sorted({*rows.truth, *model.said}))}
    truth, said = (np.array([names[each] for each in side]) for side in (rows.truth, model.said))
    return quality.macro_f1s(truth, said, len(names), weights)


def _absolute_error(_: KeptRows, model: ModelRows, weights: quality.Weights) -> Resampled:
    return np.asarray(quality.drawn_sums(weights, distance("regression", model)) / weights.sum(axis=1))


def _r2(_: KeptRows, model: ModelRows, weights: quality.Weights) -> Resampled:
    return quality.r2s(model.numbers["true"], model.numbers["value"], weights)


_LANGUAGE = (
    Measure("kl_from_teacher", Unit.NATS, "lower", _mean("kl", "tokens"), of_teacher=False),
    Measure("cross_entropy", Unit.NATS, "lower", _mean("loss", "tokens")),
    Measure("token_accuracy", Unit.SHARE, "higher", _mean("right_tokens", "tokens")),
)
_ACCURACY = Measure("accuracy", Unit.SHARE, "higher", _of_rows)

MEASURES: Mapping[AnswerKind, tuple[Measure, ...]] = {
    "single_label": (_ACCURACY, Measure("macro_f1", Unit.SHARE, "higher", _macro_f1)),
    "multi_label": (Measure("micro_f1", Unit.SHARE, "higher", _f1), _ACCURACY),
    "regression": (
        Measure(MEAN_ABSOLUTE_ERROR, Unit.NUMBER, "lower", _absolute_error),
        Measure("r2", Unit.SHARE, "higher", _r2),
    ),
    "tags": (
        Measure("entity_f1", Unit.SHARE, "higher", _f1),
        Measure("accuracy", Unit.SHARE, "higher", _mean("right_words", "words")),
    ),
    "text": _LANGUAGE,
    "target": (Measure("exact_match", Unit.SHARE, "higher", _of_rows), *_LANGUAGE),
}
"""What is compared of answers of each kind, what matters most first."""
