"""What the judges of all kinds of answer share: the answers themselves, and what is made of them in the same way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from potstill.data.encoded import Encoded
from potstill.data.splits import stable_order
from potstill.evaluation.case import Case
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Measured, computed_for
from potstill.measure import quality
from potstill.records import (
    Agreement,
    AnswerKind,
    ClassRow,
    Comparison,
    Disagreement,
    Estimate,
    Floor,
    Generation,
    Reference,
)
from potstill.runtimes.predictor import Outputs, Predictor, Queries

Right = npt.NDArray[np.bool_]
SHOWN_CHARACTERS = 600
OVER_BASELINE = ("student", "baseline")
CAME = "pretrained"
"""A student that existed already, as it was before it was trained."""
_PAIRS = (("student", "teacher"), OVER_BASELINE, ("baseline", "teacher"), ("student", CAME), ("baseline", CAME))


@runtime_checkable
class Answers(Protocol):
    """The answers of all models to the test rows, of one kind."""

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def independent(self) -> bool:
        """Whether `right` is of rows, which McNemar's test can compare; the words of a document are not independent."""
        ...

    def right(self, model: str) -> Right | None:
        """Whether each row, word or token is right; None where an answer can be near, but not right."""
        ...

    def share(self, values: Right) -> Resampled:
        """The share of the rows, words or tokens that `values` is true of, over resamples of whole rows."""
        ...

    def agreement(self, model: str) -> Agreement | None:
        """How often a model answers as the teacher does."""
        ...


@dataclass(frozen=True)
class Judged:
    """What the answers tell of the models, whatever their kind."""

    answers: Answers
    queries: Queries
    """By which speed is measured."""
    floors: Mapping[str, Floor] = field(default_factory=dict)
    floors_missing: Mapping[str, str] = field(default_factory=dict)
    references: Sequence[Reference] = ()
    classes: Sequence[ClassRow] = ()
    disagreements: Sequence[Disagreement] = ()
    generations: Sequence[Generation] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the `EvaluateRecord` that this kind alone has."""


@dataclass(frozen=True)
class Judge:
    """How answers of one kind are judged."""

    answers_of: Callable[[Case, Mapping[str, Predictor]], Any]
    """What each model answers to the test rows."""
    judged: Callable[[Case, Any, Measured], Judged]
    """What these answers tell, once all metrics are computed of them."""
    queries: Callable[[Case], Queries]
    """By which speed is measured."""
    kept: Callable[[Case, Any, str], ModelRows]
    """What is kept of a model's answers, row by row."""
    truth: Callable[[Case, Any], Sequence[str] | None] = lambda case, answers: None
    """What is right of each test row, in words, where its text does not say so."""
    more: Callable[[Case, Any], Mapping[str, Any]] = lambda case, answers: {}
    """Fields of the `EvaluateRecord` that this kind alone has, and that are of the answers alone."""
    again: Callable[[Case, Mapping[str, Predictor], Any], Any] | None = None
    """What a further form of the student answers, beside what the other models answered to an earlier one, or None;
    where it is not given, all of them are asked."""
    compared: Callable[[Case, Predictor, Predictor], Agreement] | None = None
    """How often a form answers as the model that it was made of, given as the first; where it is not given, of their
    answers."""
    beside: Callable[[Case, Mapping[str, Predictor], Any], Mapping[str, Any]] = lambda case, predictors, answers: {}
    """Fields of it that are about other texts than the test rows, for which the models are asked again."""

    def answers_of_form(self, case: Case, predictors: Mapping[str, Predictor], known: Any) -> Any:
        """What `again` says: the form is the student of `predictors`."""
        return self.again(case, predictors, known) if self.again else self.answers_of(case, predictors)

    def agreement_of(self, case: Case, source: Predictor, form: Predictor) -> Agreement | None:
        """What `compared` says."""
        if self.compared is not None:
            return self.compared(case, source, form)
        found: Agreement | None = self.answers_of(case, {"teacher": source, "student": form}).agreement("student")
        return found

    def judged_again(self, case: Case, answers: Any) -> Judged:
        """What answers tell of another form of a model that was judged: not what it must be better than."""
        return Judged(answers, self.queries(case), more=self.more(case, answers))


def estimate(values: Resampled) -> Estimate:
    """The value on the sample, the first of `values`, with its 95 % interval and one-sided bounds."""
    value, low, high = quality.interval(values)
    at_least, at_most = quality.one_sided_bounds(values)
    return Estimate(value=value, low=low, high=high, at_least=at_least, at_most=at_most)


def measured_by(answers: Any, kind: AnswerKind) -> Measured:
    """Every metric of this kind of answer, for each model of which it was measured."""
    found = {
        metric.name: {
            model: value
            for model in answers.models
            if metric.of_teacher or model != "teacher"
            if (value := formula(answers, model)) is not None
        }
        for metric, formula in computed_for(kind)
    }
    return {
        name: {model: value for model, value in values.items() if value is not None} for name, values in found.items()
    }


def encoded_for(
    predictors: Mapping[str, Predictor], encode: Callable[[PreTrainedTokenizerBase], Encoded]
) -> dict[int, Encoded]:
    """Rows as each of the predictors reads them, by the id of its tokenizer."""
    encoded: dict[int, Encoded] = {}
    for predictor in predictors.values():
        if id(predictor.tokenizer) not in encoded:
            encoded[id(predictor.tokenizer)] = encode(predictor.tokenizer)
    return encoded


def outputs_of(case: Case, predictors: Mapping[str, Predictor]) -> tuple[dict[str, Outputs], Any]:
    """What the head of each model gave for the test rows, and these rows as the teacher reads them."""
    encoded = encoded_for(predictors, case.encode)
    as_teacher = encoded[id(predictors["teacher"].tokenizer)]
    models = sum(not predictor.asks_others for predictor in predictors.values())
    with case.progress.task("evaluate: quality", len(as_teacher.ids) * models, "rows") as advance:
        outputs = {
            name: predictor.outputs(encoded[id(predictor.tokenizer)], advance) for name, predictor in predictors.items()
        }
    return outputs, as_teacher


def texts_of(case: Case) -> Queries:
    """The texts of test rows, by which speed is measured, of pairs both."""
    texts = tuple(row.text if row.second_at is None else list(row.texts) for row in case.timed_rows)
    return Queries("texts", texts, {"max_length": case.recipe.task.max_length})


def pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of these models that are compared, the first against the second."""
    others = [name for name in models if name not in {"teacher", "student", "baseline", CAME}]
    return [pair for pair in (*_PAIRS, *(("student", other) for other in others)) if set(pair) <= set(models)]


def comparison(answers: Answers, of: str, against: str, points: Mapping[str, Estimate]) -> Comparison:
    """Two models on the same rows; `points` are the differences by metric."""
    only_of: int | None = None
    only_against: int | None = None
    p: float | None = None
    first, second = answers.right(of), answers.right(against)
    if first is not None and second is not None and answers.independent:
        only_of, only_against, p = quality.mcnemar(first, second)
    elif first is not None and second is not None:
        only_of, only_against = int((first & ~second).sum()), int((second & ~first).sum())
    scores = dict(points)
    return Comparison(
        of=of,
        against=against,
        accuracy_points=scores.pop("accuracy", None),
        macro_f1_points=scores.pop("macro_f1", None),
        score_points=scores,
        only_of_right=only_of,
        only_against_right=only_against,
        mcnemar_p=p,
    )


def agreed(shares: Resampled, same: Right, teacher_wrong: Right, kl: float) -> Agreement:
    """Where a model decides as the teacher does, and how often it does where the teacher is wrong."""
    return Agreement(
        all_rows=estimate(shares),
        teacher_wrong=float(same[teacher_wrong].mean()) if teacher_wrong.any() else None,
        teacher_wrong_rows=int(teacher_wrong.sum()),
        kl_from_teacher=kl,
    )


def class_rows(
    names: Sequence[str], counts: Sequence[int] | npt.NDArray[np.int64], recalls: Mapping[str, Sequence[float | None]]
) -> list[ClassRow]:
    """The classes with the number of their rows, and the share of these that each model recognises."""
    nothing = [None] * len(names)
    return [
        ClassRow(
            label=name,
            rows=int(counts[number]),
            teacher_accuracy=recalls["teacher"][number],
            student_accuracy=recalls["student"][number],
            baseline_accuracy=recalls.get("baseline", nothing)[number],
        )
        for number, name in enumerate(names)
    ]


def differing(case: Case, rows: Sequence[int]) -> list[int]:
    """A sample of the test rows on which student and teacher differ, by stable hash."""
    chosen = stable_order(rows, lambda row: case.test[row].id, salt="disagreements")
    return chosen[: case.recipe.evaluate.sample_disagreements]


def disagreement(case: Case, row: int, *, text: str, truth: str, answers: Mapping[str, str]) -> Disagreement:
    """A test row with what is right and what each model answers."""
    return Disagreement(
        id=case.test[row].id,
        text=text,
        truth=truth,
        teacher=answers["teacher"],
        student=answers["student"],
        baseline=answers.get("baseline"),
    )
