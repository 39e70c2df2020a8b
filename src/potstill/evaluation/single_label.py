"""One class for each text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from potstill.data.rows import Row
from potstill.evaluation import references
from potstill.evaluation.answers import (
    SHOWN_CHARACTERS,
    Judged,
    agreed,
    class_rows,
    differing,
    disagreement,
    outputs_of,
    texts_of,
)
from potstill.evaluation.calibration import Temperature, calibration_records, temperatures_of
from potstill.evaluation.case import Case
from potstill.evaluation.floors import measured_floors
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Measured
from potstill.evaluation.regressions import ShownRow, regressions_of
from potstill.evaluation.slices import slices_of, whole_rows
from potstill.measure import quality
from potstill.measure.floor import tfidf_predictions
from potstill.records import Agreement
from potstill.runtimes.predictor import Outputs, Predictor
from potstill.tasks.problem_types import SingleLabel

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SingleLabelAnswers:
    """The logits of each model, rows x classes, and the true classes."""

    logits: Mapping[str, Outputs]
    truth: npt.NDArray[np.int64]
    classes: int
    weights: quality.Weights
    """Resamples of the rows."""
    temperatures: Mapping[str, Temperature] = field(default_factory=dict)
    lengths: Sequence[int] = ()
    """The tokens of each row, as the teacher reads it."""

    independent = True

    @property
    def models(self) -> Sequence[str]:
        return list(self.logits)

    @property
    def outputs(self) -> Mapping[str, Outputs]:
        return self.logits

    def predicted(self, model: str) -> npt.NDArray[np.int64]:
        return np.asarray(self.logits[model].argmax(axis=1))

    def right(self, model: str) -> Right:
        return np.asarray(self.predicted(model) == self.truth)

    def share(self, values: Right) -> Resampled:
        return quality.accuracies(values, self.weights)

    def distributions(self, model: str) -> tuple[Outputs, npt.NDArray[np.int64]]:
        return self.logits[model], self.truth

    def confidence(self, model: str) -> tuple[npt.NDArray[np.float64], Right]:
        return quality.confidences(*self.distributions(model))

    def agreement(self, model: str) -> Agreement:
        same = self.predicted("teacher") == self.predicted(model)
        kl = quality.kl(self.logits["teacher"], self.logits[model])
        return agreed(self.share(same), same, ~self.right("teacher"), kl)


def answers_of(case: Case, predictors: Mapping[str, Predictor]) -> SingleLabelAnswers:
    """What each model answers to the test rows."""
    logits, encoded = outputs_of(case, predictors)
    weights = quality.bootstrap_weights(len(case.test), seed=case.recipe.seed)
    temperatures = temperatures_of(case, predictors, lambda outputs, rows: (outputs, rows.labels))
    return SingleLabelAnswers(
        logits, encoded.labels, len(case.class_names), weights, temperatures, lengths=encoded.lengths
    )


def kept(case: Case, answers: SingleLabelAnswers, model: str) -> ModelRows:
    """What is kept of a model's answers, row by row."""
    said = [case.class_names[number] for number in answers.predicted(model).tolist()]
    return ModelRows(said, answers.right(model), {"confidence": answers.confidence(model)[0]})


def truth(case: Case, answers: SingleLabelAnswers) -> list[str]:
    """The true class of each row."""
    return [case.class_names[number] for number in answers.truth.tolist()]


def judged(case: Case, answers: SingleLabelAnswers, measured: Measured) -> Judged:
    truth, weights, names = answers.truth, answers.weights, case.class_names
    accuracy = measured["accuracy"]
    predicted = {model: answers.predicted(model) for model in answers.models}

    def floor(taught: Sequence[Row], texts: Sequence[str]) -> dict[str, Resampled]:
        known = SingleLabel().targets(taught, names).tolist()
        given = np.array(tfidf_predictions([row.text for row in taught], known, texts, seed=case.recipe.seed))
        return {
            "accuracy": quality.accuracies(given == truth, weights),
            "macro_f1": quality.macro_f1s(truth, given, len(names), weights[:1]),
        }

    floors = measured_floors(case, "accuracy", accuracy, floor)
    differ = np.nonzero(predicted["student"] != predicted["teacher"])[0].tolist()
    recalls = {model: quality.per_class_accuracy(truth, classes, len(names)) for model, classes in predicted.items()}
    right = {model: answers.right(model) for model in answers.models}
    sure = {model: answers.confidence(model)[0] for model in ("teacher", "student")}
    slices = slices_of(case, whole_rows(right, weights, answers.lengths, [names[number] for number in truth]))

    def shown(row: int) -> ShownRow:
        said = {model: names[classes[row]] for model, classes in predicted.items()}
        return ShownRow(
            case.test[row].text, names[truth[row]], said, {model: float(each[row]) for model, each in sure.items()}
        )

    return Judged(
        answers=answers,
        queries=texts_of(case),
        floors=floors.fitted,
        floors_missing=floors.missing,
        references=[
            *references.of_floor(floors, "accuracy", accuracy["teacher"], "logistic"),
            *references.of_single_label(case, truth, accuracy["teacher"], weights),
        ],
        classes=class_rows(names, np.bincount(truth, minlength=len(names)), recalls),
        disagreements=[
            disagreement(
                case,
                row,
                truth=names[truth[row]],
                answers={model: names[classes[row]] for model, classes in predicted.items()},
                text=case.test[row].text[:SHOWN_CHARACTERS],
            )
            for row in differing(case, differ)
        ],
        more={
            "calibration": calibration_records(answers),
            "slices": [each.record for each in slices],
            "regressions": regressions_of(case, right, slices, shown, sure["student"]),
        },
    )
