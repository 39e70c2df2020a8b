"""The test rows that the student lost: its teacher has them right, and it has not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from potstill.evaluation.answers import SHOWN_CHARACTERS, Right
from potstill.evaluation.case import Case
from potstill.evaluation.slices import Slice
from potstill.records import RegressionRow, RegressionsRecord


@dataclass(frozen=True)
class ShownRow:
    """A row as it is shown: what is right, and what each model answers how surely."""

    text: str
    truth: str
    answers: Mapping[str, str]
    confidences: Mapping[str, float]
    """Of teacher and student in what they answer, where it is measured."""


def regressions_of(
    case: Case,
    right: Mapping[str, Right],
    slices: Sequence[Slice],
    shown: Callable[[int], ShownRow],
    surety: npt.NDArray[np.float64] | None = None,
) -> RegressionsRecord:
    """Those rows of which the student is surest that it is right, the rows of the worst slice first.

    `right` tells of teacher and student which test rows they have right, and `surety` the student's confidence in each
    of its answers.
    """
    teacher, student = right["teacher"], right["student"]
    lost = np.flatnonzero(teacher & ~student)
    sure = np.zeros(len(teacher)) if surety is None else surety
    ids = {row: case.test[row].id for row in lost.tolist()}
    chosen = sorted(ids, key=lambda row: (-sure[row], ids[row]))[: case.recipe.evaluate.sample_regressions]
    worst = {row: number for number, each in reversed(list(enumerate(slices))) for row in each.rows.tolist()}
    ordered = sorted(chosen, key=lambda row: (worst.get(row, len(slices)), -sure[row], ids[row]))
    return RegressionsRecord(
        lost=len(lost),
        gained=int((student & ~teacher).sum()),
        rows=[_row(ids[row], shown(row), slices[worst[row]] if row in worst else None) for row in ordered],
    )


def _row(identity: str, row: ShownRow, worst: Slice | None) -> RegressionRow:
    return RegressionRow(
        id=identity,
        text=row.text[:SHOWN_CHARACTERS],
        truth=row.truth,
        teacher=row.answers["teacher"],
        student=row.answers["student"],
        baseline=row.answers.get("baseline"),
        teacher_confidence=row.confidences.get("teacher"),
        student_confidence=row.confidences.get("student"),
        slice=None if worst is None else slice_name(worst.record.by, worst.record.field, worst.record.name),
    )


def slice_name(by: str, field: str | None, name: str) -> str:
    """A slice in words."""
    return f"{field or by}: {name}"
