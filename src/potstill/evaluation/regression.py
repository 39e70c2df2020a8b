"""A number for each text: how much of the numbers' variance each model explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from potstill.data.rows import Row
from potstill.evaluation import references
from potstill.evaluation.answers import SHOWN_CHARACTERS, Judged, disagreement, outputs_of, texts_of
from potstill.evaluation.case import Case
from potstill.evaluation.floors import measured_floors
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Measured
from potstill.measure import quality
from potstill.measure.floor import tfidf_numbers
from potstill.runtimes.predictor import Predictor
from potstill.tasks.problem_types import Regression

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RegressionAnswers:
    """The number that each model predicts for every row, in the unit of the labels, and the true ones."""

    values: Mapping[str, Values]
    truth: Values
    weights: quality.Weights
    """Resamples of the rows."""

    independent = True

    @property
    def models(self) -> Sequence[str]:
        return list(self.values)

    def right(self, model: str) -> None:
        """None: a number is near or far, and never right or wrong."""

    def share(self, values: npt.NDArray[np.bool_]) -> Resampled:
        return quality.accuracies(values, self.weights)

    def agreement(self, model: str) -> None:
        """None: numbers that are near each other do not agree."""


def answers_of(case: Case, predictors: Mapping[str, Predictor]) -> RegressionAnswers:
    """What each model answers to the test rows."""
    outputs, encoded = outputs_of(case, predictors)
    values = {model: each[:, 0].astype(np.float64) for model, each in outputs.items()}
    weights = quality.bootstrap_weights(len(case.test), seed=case.recipe.seed)
    return RegressionAnswers(values, encoded.labels.astype(np.float64), weights)


def kept(case: Case, answers: RegressionAnswers, model: str) -> ModelRows:
    """What is kept of a model's answers, row by row."""
    return ModelRows(numbers={"value": answers.values[model], "true": answers.truth})


def truth(case: Case, answers: RegressionAnswers) -> list[str]:
    """The number that is right for each row."""
    return [f"{value:.4g}" for value in answers.truth.tolist()]


def judged(case: Case, answers: RegressionAnswers, measured: Measured) -> Judged:
    truth, weights, values = answers.truth, answers.weights, answers.values
    r2 = measured["r2"]

    def floor(taught: Sequence[Row], texts: Sequence[str]) -> dict[str, Resampled]:
        known = Regression().targets(taught, case.class_names)
        given = tfidf_numbers([row.text for row in taught], known, texts)
        return {
            "r2": quality.r2s(truth, given, weights),
            "spearman": quality.spearmans(truth, given, weights[:1]),
        }

    floors = measured_floors(case, "r2", r2, floor)
    furthest = np.argsort(-np.abs(values["student"] - values["teacher"]), kind="stable").tolist()
    return Judged(
        answers=answers,
        queries=texts_of(case),
        floors=floors.fitted,
        floors_missing=floors.missing,
        references=[
            *references.of_floor(floors, "r2", r2["teacher"], "ridge"),
            *references.of_regression(r2["teacher"]),
        ],
        disagreements=[
            disagreement(
                case,
                row,
                truth=f"{truth[row]:.4g}",
                answers={model: f"{each[row]:.4g}" for model, each in values.items()},
                text=case.test[row].text[:SHOWN_CHARACTERS],
            )
            for row in furthest[: case.recipe.evaluate.sample_disagreements]
        ],
        more={"problem_type": "regression"},
    )
