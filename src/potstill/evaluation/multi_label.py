"""Any number of labels for each text: which of them each model gives."""

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
from potstill.evaluation.calibration import Distributions, Temperature, calibration_records, temperatures_of
from potstill.evaluation.case import Case
from potstill.evaluation.floors import measured_floors
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Measured
from potstill.evaluation.regressions import ShownRow, regressions_of
from potstill.evaluation.slices import slices_of, whole_rows
from potstill.measure import quality
from potstill.measure.floor import tfidf_labels
from potstill.records import Agreement
from potstill.runtimes.predictor import Outputs, Predictor
from potstill.tasks.problem_types import MultiLabel

Decisions = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MultiLabelAnswers:
    """The log-odds of each label, rows x labels, and whether it is true."""

    log_odds: Mapping[str, Outputs]
    truth: Decisions
    weights: quality.Weights
    """Resamples of the rows."""
    temperatures: Mapping[str, Temperature] = field(default_factory=dict)
    lengths: Sequence[int] = ()
    """The tokens of each row, as the teacher reads it."""

    independent = True

    @property
    def models(self) -> Sequence[str]:
        return list(self.log_odds)

    @property
    def outputs(self) -> Mapping[str, Outputs]:
        return self.log_odds

    def decisions(self, model: str) -> Decisions:
        """A label is given where its probability is above one half."""
        return self.log_odds[model] > 0

    def right(self, model: str) -> Decisions:
        """Whether a row has exactly the right labels."""
        return np.asarray((self.decisions(model) == self.truth).all(axis=1))

    def share(self, values: Decisions) -> Resampled:
        return quality.accuracies(values, self.weights)

    def distributions(self, model: str) -> tuple[Outputs, npt.NDArray[np.int64]]:
        return _distributions(self.log_odds[model], self.truth)

    def confidence(self, model: str) -> tuple[npt.NDArray[np.float64], Decisions]:
        return quality.confidences(*self.distributions(model))

    def surety(self, model: str) -> npt.NDArray[np.float64]:
        """The probability that a model gives to exactly the labels of its answer, each by itself."""
        sure = self.confidence(model)[0].reshape(self.truth.shape)
        return np.asarray(np.exp(np.log(sure).sum(axis=1)))

    def agreement(self, model: str) -> Agreement:
        """Of decisions, each of which counts by itself."""
        same = self.decisions("teacher") == self.decisions(model)
        each_row = np.full(len(self.truth), float(self.truth.shape[1]))
        shares = quality.pooled_shares(same.sum(axis=1).astype(np.float64), each_row, self.weights)
        kl = quality.kl(self.distributions("teacher")[0], self.distributions(model)[0])
        return agreed(shares, same, self.decisions("teacher") != self.truth, kl)


def _distributions(log_odds: Outputs, truth: Decisions) -> Distributions:
    """Of two classes for each decision."""
    pairs = np.stack([np.zeros_like(log_odds), log_odds], axis=-1).reshape(-1, 2)
    return pairs, truth.reshape(-1).astype(np.int64)


def answers_of(case: Case, predictors: Mapping[str, Predictor]) -> MultiLabelAnswers:
    """What each model answers to the test rows."""
    log_odds, encoded = outputs_of(case, predictors)
    weights = quality.bootstrap_weights(len(case.test), seed=case.recipe.seed)
    temperatures = temperatures_of(case, predictors, lambda outputs, rows: _distributions(outputs, rows.labels == 1))
    return MultiLabelAnswers(log_odds, encoded.labels == 1, weights, temperatures, lengths=encoded.lengths)


def kept(case: Case, answers: MultiLabelAnswers, model: str) -> ModelRows:
    """What is kept of a model's answers, row by row."""
    given, true = answers.decisions(model), answers.truth
    counts = {"hits": given & true, "given": given, "true": true}
    numbers = {name: each.sum(axis=1).astype(np.float64) for name, each in counts.items()}
    said = [_named(case.class_names, each) for each in given]
    return ModelRows(said, answers.right(model), {"confidence": answers.surety(model), **numbers})


def truth(case: Case, answers: MultiLabelAnswers) -> list[str]:
    """The true labels of each row."""
    return [_named(case.class_names, each) for each in answers.truth]


def _named(names: Sequence[str], given: Decisions) -> str:
    return ", ".join(names[number] for number in np.nonzero(given)[0].tolist()) or "(none)"


def judged(case: Case, answers: MultiLabelAnswers, measured: Measured) -> Judged:
    truth, weights, names = answers.truth, answers.weights, case.class_names
    decisions = {model: answers.decisions(model) for model in answers.models}
    micro_f1 = measured["micro_f1"]

    def floor(taught: Sequence[Row], texts: Sequence[str]) -> dict[str, Resampled]:
        known = MultiLabel().targets(taught, names) == 1
        given = tfidf_labels([row.text for row in taught], known, texts, seed=case.recipe.seed)
        return {
            "accuracy": quality.accuracies((given == truth).all(axis=1), weights[:1]),
            "macro_f1": quality.label_f1s(truth, given, weights[:1]),
            "micro_f1": quality.micro_f1s(truth, given, weights),
        }

    floors = measured_floors(case, "micro_f1", micro_f1, floor)
    differ = np.nonzero((decisions["student"] != decisions["teacher"]).any(axis=1))[0].tolist()
    recalls = {model: quality.label_recalls(truth, given) for model, given in decisions.items()}
    right = {model: answers.right(model) for model in answers.models}
    sure = {model: answers.surety(model) for model in ("teacher", "student")}
    slices = slices_of(case, whole_rows(right, weights, answers.lengths))

    def shown(row: int) -> ShownRow:
        said = {model: _named(names, given[row]) for model, given in decisions.items()}
        return ShownRow(
            case.test[row].text,
            _named(names, truth[row]),
            said,
            {model: float(each[row]) for model, each in sure.items()},
        )

    return Judged(
        answers=answers,
        queries=texts_of(case),
        floors=floors.fitted,
        floors_missing=floors.missing,
        references=[
            *references.of_floor(floors, "micro_f1", micro_f1["teacher"], "logistic"),
            *references.of_multi_label(case, truth, micro_f1["teacher"], weights),
        ],
        classes=class_rows(names, truth.sum(axis=0), recalls),
        disagreements=[
            disagreement(
                case,
                row,
                truth=_named(names, truth[row]),
                answers={model: _named(names, given[row]) for model, given in decisions.items()},
                text=case.test[row].text[:SHOWN_CHARACTERS],
            )
            for row in differing(case, differ)
        ],
        more={
            "problem_type": "multi_label_classification",
            "calibration": calibration_records(answers),
            "slices": [each.record for each in slices],
            "regressions": regressions_of(case, right, slices, shown, sure["student"]),
        },
    )
