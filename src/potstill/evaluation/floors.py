"""The floor of each task that has one: TF-IDF and a linear model on the labels of student and teacher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from potstill.data.rows import Row, labelled_rows
from potstill.evaluation.answers import estimate
from potstill.evaluation.case import Case
from potstill.evaluation.formulas import Resampled
from potstill.measure.floor import unfit
from potstill.records import Floor


@dataclass(frozen=True)
class Floors:
    """Those that could be fitted, and why the others could not, by whose labels they are fitted on."""

    fitted: dict[str, Floor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def measured_floors(
    case: Case,
    primary: str,
    scores: Mapping[str, Resampled],
    judge: Callable[[Sequence[Row], Sequence[str]], Mapping[str, Resampled]],
) -> Floors:
    """The floors of student and teacher, where the recipe asks for them.

    `judge` fits one on labelled rows and gives its metrics on the texts of test, the `primary` one over the resamples
    by which `scores` are those of the models.
    """
    found = Floors()
    if not case.recipe.evaluate.floor:
        return found
    test = [row.text for row in case.test]
    sets = {
        "student_labels": ("student", case.splits["train"].rows),
        "teacher_labels": ("teacher", case.adapt_rows),
    }
    with case.progress.task("evaluate: TF-IDF floor", len(sets), "fits") as advance:
        for name, (model, rows) in sets.items():
            taught: Sequence[Row] = labelled_rows(rows)
            if reason := unfit([row.text for row in taught], [row.label for row in taught]):
                found.missing[name] = reason
            else:
                found.fitted[name] = _floor(len(taught), primary, scores[model], judge(taught, test))
            advance(1)
    return found


def _floor(labelled: int, primary: str, model: Resampled, metrics: Mapping[str, Resampled]) -> Floor:
    values = {name: float(each[0]) for name, each in metrics.items()}
    return Floor(
        labelled_rows=labelled,
        accuracy=values.pop("accuracy", None),
        macro_f1=values.pop("macro_f1", None),
        scores=values,
        margin=estimate(100 * (model - metrics[primary])),
    )
