"""One temperature for each model, fitted on the validation rows, and how far its probabilities can be believed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from potstill.data.encoded import Encoded
from potstill.errors import DataError
from potstill.evaluation.answers import encoded_for
from potstill.evaluation.case import Case
from potstill.measure import quality
from potstill.measure.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE, fitted_temperature, reliability
from potstill.records import CalibrationRecord, ReliabilityBin
from potstill.runtimes.predictor import Outputs, Predictor

METHOD = "temperature scaling (Guo et al. 2017, arXiv:1706.04599): logits are divided by the temperature"
FEWEST_DECISIONS = 30
"""Of fewer, the standard error of the mean negative log-likelihood is about a fifth of its deviation or more, and the
temperature is fitted to chance."""

Distributions = tuple[quality.Logits, npt.NDArray[np.int64]]
"""Logits, decisions x classes, and the true classes."""


@dataclass(frozen=True)
class Temperature:
    """What was fitted of one model."""

    value: float | None
    """None where none is to be used."""
    decisions: int
    """By which it was fitted."""
    reason: str | None = None
    """Why none is used."""


@runtime_checkable
class CalibratedAnswers(Protocol):
    """Answers that are distributions over classes."""

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def temperatures(self) -> Mapping[str, Temperature]: ...

    def distributions(self, model: str) -> Distributions: ...


def temperatures_of(
    case: Case, predictors: Mapping[str, Predictor], distributions: Callable[[Outputs, Any], Distributions]
) -> dict[str, Temperature]:
    """The temperature of each model; `distributions` are those of outputs and the labels of the rows they are for."""
    if case.encode_validation is None:
        return {}
    encoded = encoded_for(predictors, case.encode_validation)
    models = sum(not predictor.asks_others for predictor in predictors.values())
    rows = len(encoded[id(predictors["teacher"].tokenizer)].ids)
    with case.progress.task("evaluate: calibration", rows * models, "rows") as advance:
        return {
            name: _of_model(predictor, encoded[id(predictor.tokenizer)], distributions, advance)
            for name, predictor in predictors.items()
        }


def _of_model(
    predictor: Predictor,
    rows: Encoded,
    distributions: Callable[[Outputs, Any], Distributions],
    advance: Callable[[int], None],
) -> Temperature:
    try:
        outputs = predictor.outputs(rows, advance)
    except DataError as error:
        # Of several teachers, one for each domain: validation rows may have others than train and test.
        return Temperature(None, 0, str(error))
    return fitted(*distributions(outputs, rows))


def fitted(logits: quality.Logits, truth: npt.NDArray[np.int64]) -> Temperature:
    """The temperature of one model by its logits on validation rows, where it is to be used."""
    if len(truth) < FEWEST_DECISIONS:
        reason = f"the validation rows have {len(truth)} decisions, and a temperature needs {FEWEST_DECISIONS}"
        return Temperature(None, len(truth), reason)
    value = fitted_temperature(logits, truth)
    if LEAST_TEMPERATURE < value < MOST_TEMPERATURE:
        return Temperature(value, len(truth))
    way, so = ("low", "right") if value == LEAST_TEMPERATURE else ("high", "no likelier than others")
    reason = f"on the validation rows the best is as {way} as {value:g} or more so, as if its answers were all {so}"
    return Temperature(None, len(truth), reason)


def calibration_records(answers: CalibratedAnswers) -> dict[str, CalibrationRecord]:
    """Of each model its temperature, and the reliability of its decisions on the test rows."""
    return {model: _record(answers, model, temperature) for model, temperature in answers.temperatures.items()}


def _record(answers: CalibratedAnswers, model: str, temperature: Temperature) -> CalibrationRecord:
    logits, truth = answers.distributions(model)

    def bins(divisor: float) -> list[ReliabilityBin]:
        return reliability(*quality.confidences(logits / divisor, truth))

    return CalibrationRecord(
        temperature=temperature.value,
        decisions=temperature.decisions,
        reason=temperature.reason,
        bins=bins(1.0),
        bins_calibrated=[] if temperature.value is None else bins(temperature.value),
    )
