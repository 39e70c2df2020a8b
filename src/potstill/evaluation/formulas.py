"""How metrics are computed from answers, or read of a record."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from potstill.measure import quality
from potstill.records import Estimate, EvaluateRecord

Resampled = npt.NDArray[np.float64]
Formula = Callable[[Any, str], float | None]
"""From the answers of all models and the name of one: its value on the sample; None where it was not measured."""
ResampledFormula = Callable[[Any, str], Resampled | None]
"""The same over the resamples, the first of which is the sample itself."""
Read = Callable[[EvaluateRecord, str], Estimate | float | None]


def share_of_right(answers: Any, model: str) -> Resampled:
    shares: Resampled = answers.share(answers.right(model))
    return shares


def of_distributions(measure: Callable[..., float]) -> Formula:
    return lambda answers, model: measure(*answers.distributions(model))


def calibrated(measure: Callable[..., float]) -> Formula:
    """The same of distributions at the temperature that was fitted for the model, where there is one."""

    def formula(answers: Any, model: str) -> float | None:
        temperature = answers.temperatures.get(model)
        if temperature is None or temperature.value is None:
            return None
        logits, truth = answers.distributions(model)
        return measure(logits / temperature.value, truth)

    return formula


def mean_of_tokens(name: str) -> Formula:
    return lambda answers, model: float(getattr(answers.tokens[model], name).mean())


def quantile_of_kl(share: float) -> Formula:
    return lambda answers, model: float(np.quantile(answers.tokens[model].kl, share))


def calibration_error(answers: Any, model: str) -> float:
    return quality.calibration_error(*answers.confidence(model))


def calibration_error_of(logits: Any, truth: Any) -> float:
    return quality.calibration_error(*quality.confidences(logits, truth))


def rms_difference(answers: Any, model: str) -> float:
    return float(np.sqrt((answers.tokens[model].probability_difference ** 2).mean()))


def slower_type(evaluation: EvaluateRecord, _: str) -> float:
    # The lower of both, so that no choice of a type makes the teacher slow.
    return min(evaluation.speedup, evaluation.speedup_in_own_types or evaluation.speedup)


def agreement(evaluation: EvaluateRecord, model: str) -> Estimate | None:
    found = evaluation.agreement.get(model)
    return found.all_rows if found else None


def tail(share: Literal[95, 99]) -> Read:
    return lambda evaluation, model: evaluation.tail_ms(model, share)


def robust(name: str) -> Read:
    def read(evaluation: EvaluateRecord, model: str) -> Estimate | None:
        robustness = evaluation.robustness or evaluation.token_robustness
        found = robustness.models.get(model) if robustness else None
        value: Estimate | None = getattr(found, name, None)
        return value

    return read


def unanswerable(name: Literal["kl", "agreement"]) -> Read:
    def read(evaluation: EvaluateRecord, model: str) -> Estimate | None:
        queries = evaluation.token_robustness.unanswerable if evaluation.token_robustness else None
        found = queries.models.get(model) if queries else None
        value: Estimate | None = getattr(found, name, None)
        return value

    return read


def outside(name: Literal["kl", "perplexity"]) -> Read:
    """Of language models on texts out of domain."""

    def read(evaluation: EvaluateRecord, model: str) -> Estimate | None:
        found = evaluation.token_out_of_domain.models.get(model) if evaluation.token_out_of_domain else None
        value: Estimate | None = getattr(found.outside, name) if found else None
        return value

    return read


def attacked(evaluation: EvaluateRecord, model: str) -> Estimate | None:
    attacks = evaluation.robustness.attacks if evaluation.robustness else None
    found = attacks.models.get(model) if attacks else None
    return found.success_rate if found else None


def judged_writing(name: Literal["accuracy", "as_good"]) -> Read:
    def read(evaluation: EvaluateRecord, model: str) -> Estimate | None:
        found = evaluation.judgement.models.get(model) if evaluation.judgement else None
        value: Estimate | None = getattr(found, name, None)
        return value

    return read


def out_of_domain(name: Literal["auroc", "fpr95"]) -> Read:
    def read(evaluation: EvaluateRecord, model: str) -> Estimate | None:
        found = evaluation.out_of_domain.models.get(model) if evaluation.out_of_domain else None
        value: Estimate | None = getattr(found.max_probability, name) if found else None
        return value

    return read
