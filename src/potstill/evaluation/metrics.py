"""The metrics: what each is called, its unit, which way is better, and which kinds of answer have it.

Gate, findings, terminal, page and card read them here. A new one is an entry of `METRICS`; where it is measured anew,
`formula` gives it for one model, or `resampled` over the resamples if it is to have an interval.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

import numpy as np

from potstill.evaluation.formulas import (
    Formula,
    Read,
    ResampledFormula,
    agreement,
    attacked,
    calibrated,
    calibration_error,
    calibration_error_of,
    judged_writing,
    mean_of_tokens,
    of_distributions,
    out_of_domain,
    outside,
    quantile_of_kl,
    rms_difference,
    robust,
    share_of_right,
    slower_type,
    tail,
    unanswerable,
)
from potstill.measure import quality
from potstill.measure.calibration import brier_score
from potstill.records import AnswerKind, Estimate, EvaluateRecord, ModelEvaluation

Measured = Mapping[str, Mapping[str, Any]]
"""For each metric, by name, and each model what its formula gave."""

EVERY: frozenset[AnswerKind] = frozenset(get_args(AnswerKind))
CLASSES: frozenset[AnswerKind] = frozenset({"single_label", "multi_label"})
DISTRIBUTIONS = EVERY - {"regression"}
LANGUAGE: frozenset[AnswerKind] = frozenset({"text", "target"})
OF_CLASSES = DISTRIBUTIONS - LANGUAGE
"""Whose distributions are held whole."""
FEWEST_ROWS = 6
"""Of five, all can favour one of two equal models by chance in more than one of twenty tests (2 * 0.5^5 = 6 %), so no
interval of fewer is to be trusted."""
MOST_RETENTION = 2.0
"""A student can be better than its teacher, but nobody asks for twice as good: such a figure was meant in per cent."""


MOST_BRIER = 2.0
"""Of one who is sure of a wrong class."""


class Unit(StrEnum):
    SHARE = "share"
    """From 0 to 1, shown in per cent; differences are in points of 0.01."""
    POINTS = "points"
    NATS = "nats"
    RATIO = "ratio"
    NUMBER = "number"
    MS = "ms"
    BYTES = "bytes"
    PER_S = "per_s"
    COUNT = "count"


Needed = Literal[
    "robustness",
    "robustness.attacks",
    "robustness.unanswerable",
    "out_of_domain",
    "judge",
    "expenses.price_per_hour",
    "expenses.watts",
]
ON_OTHER_TEXTS: frozenset[Needed] = frozenset(
    {"robustness", "robustness.attacks", "robustness.unanswerable", "out_of_domain"}
)
"""What is measured on other texts than the test rows, and costs as much again."""


@dataclass(frozen=True)
class Metric:
    """A quantity that is measured of a model, or of the student against another."""

    name: str
    """As the gate, and `scores` of records, call it."""
    words: str
    """As sentences call it."""
    unit: Unit
    better: Literal["higher", "lower"] | None
    """None where neither is."""
    of: frozenset[AnswerKind] = EVERY
    title: str | None = None
    """As tables call it; without one it is the words."""
    resampled: ResampledFormula | Mapping[AnswerKind, ResampledFormula] | None = None
    """How it is computed from answers over the resamples, and so has an interval."""
    formula: Formula | Mapping[AnswerKind, Formula] | None = None
    """How it is computed from answers without one. Neither where something else measures it."""
    stored_as: str | None = None
    """The field of `ModelEvaluation` that holds it; without one it lies in `scores` by its name."""
    same_as: str | None = None
    """The metric that it is another name of."""
    of_teacher: bool = True
    """Whether it is of the teacher, too."""
    read: Read | None = None
    """Where it lies in a record, if not with a model."""
    words_of: Mapping[AnswerKind, str] = field(default_factory=dict)
    """What it is called where that is another word."""
    column: bool = False
    """Of one that is resampled: whether differences in it are shown beside the accuracy's."""
    interval: bool = False
    """Of one that is read of a record: whether it has an interval there."""
    below_zero: bool = False
    """Whether it can be less than zero."""
    most: float | None = None
    """The most that a student can have, where there is one; of shares that say nothing else it is 1."""
    needs_baseline: bool = False
    """Whether it is measured against the baseline."""
    of_writing: bool = False
    """Whether it is measured of what models write after `evaluate.written` prompts."""
    needs_temperature: bool = False
    """Whether it is measured with the temperature that is fitted on the validation rows."""
    needs: Needed | None = None
    """The setting of `evaluate` without which it is not measured."""
    brief: bool = True
    """Whether it is shown where there is little room."""

    @property
    def has_interval(self) -> bool:
        return self.measured_as.resampled is not None or self.interval

    @property
    def ceiling(self) -> float:
        """Above which no student has it."""
        if self.most is not None:
            return self.most
        return 1.0 if self.unit is Unit.SHARE else math.inf

    @property
    def measured_as(self) -> "Metric":
        """The metric under whose name it is computed and recorded."""
        return self if self.same_as is None else metric(self.same_as)

    def named(self, answers: AnswerKind) -> str:
        return self.words_of.get(answers, self.words)

    def formula_for(self, answers: AnswerKind) -> Formula | ResampledFormula | None:
        if answers not in self.of:
            return None
        formula = self.formula if self.resampled is None else self.resampled
        return formula.get(answers) if isinstance(formula, Mapping) else formula

    def of_model(self, model: ModelEvaluation) -> Estimate | float | None:
        """Its value of a model, with the interval where there is one."""
        if self.same_as is not None:
            return self.measured_as.of_model(model)
        if self.stored_as is None:
            return model.scores.get(self.name)
        interval: Estimate | None = getattr(model, f"{self.stored_as}_interval", None)
        if interval is not None:
            return interval
        value: Estimate | float | None = getattr(model, self.stored_as)
        return float(value) if isinstance(value, int) else value

    def in_record(self, evaluation: EvaluateRecord, model: str = "student") -> Estimate | float | None:
        """Its value of a model, or of the student against another; None where it was not measured."""
        if self.read is not None:
            return self.read(evaluation, model)
        return self.of_model(evaluation.models[model])

    def is_better(self, one: float, other: float) -> bool:
        return one > other if self.better == "higher" else one < other


METRICS: tuple[Metric, ...] = (
    # Of answers. Those with a column come in this order, the one that a task is judged by first.
    Metric("micro_f1", "micro-F1", Unit.SHARE, "higher", frozenset({"multi_label"}), "Micro-F1",
           lambda a, model: quality.micro_f1s(a.truth, a.decisions(model), a.weights), column=True),
    Metric("r2", "R²", Unit.SHARE, "higher", frozenset({"regression"}), below_zero=True,
           resampled=lambda a, model: quality.r2s(a.truth, a.values[model], a.weights), column=True),
    Metric("spearman", "Spearman's rank correlation", Unit.SHARE, "higher", frozenset({"regression"}), below_zero=True,
           resampled=lambda a, model: quality.spearmans(a.truth, a.values[model], a.weights), column=True),
    Metric("entity_f1", "entity F1", Unit.SHARE, "higher", frozenset({"tags"}), "Entity F1",
           lambda a, model: a.f1(model), column=True),
    Metric("entity_precision", "entity precision", Unit.SHARE, "higher", frozenset({"tags"}), "Entity precision",
           lambda a, model: a.precision(model), column=True),
    Metric("entity_recall", "entity recall", Unit.SHARE, "higher", frozenset({"tags"}), "Entity recall",
           lambda a, model: a.recall(model), column=True),
    Metric("entity_f1_with_the_teacher", "entity F1 with the teacher", Unit.SHARE, "higher", frozenset({"tags"}),
           "Entity F1 with the teacher", lambda a, model: a.f1_with_teacher(model), column=True),
    Metric("exact_match", "exact match", Unit.SHARE, "higher", frozenset({"target"}), "Exact match",
           lambda a, model: quality.accuracies(a.exact[model], a.drawn.weights), column=True),
    Metric("accuracy", "accuracy", Unit.SHARE, "higher", DISTRIBUTIONS, "Accuracy", share_of_right,
           stored_as="accuracy", words_of={"multi_label": "all labels right"}, column=True),
    Metric("token_accuracy", "accuracy at the next token", Unit.SHARE, "higher", LANGUAGE, same_as="accuracy"),
    Metric("macro_f1", "macro-F1", Unit.SHARE, "higher", CLASSES, "Macro-F1",
           {"single_label": lambda a, model: quality.macro_f1s(a.truth, a.predicted(model), a.classes, a.weights),
            "multi_label": lambda a, model: quality.label_f1s(a.truth, a.decisions(model), a.weights)},
           stored_as="macro_f1", column=True),
    Metric("rmse", "root mean squared error", Unit.NUMBER, "lower", frozenset({"regression"}), "RMSE",
           lambda a, model: quality.rmses(a.truth, a.values[model], a.weights), stored_as="rmse"),
    Metric("rmse_from_teacher", "root mean squared difference from the teacher", Unit.NUMBER, "lower",
           frozenset({"regression"}), "RMSE from the teacher",
           lambda a, model: quality.rmses(a.values["teacher"], a.values[model], a.weights),
           stored_as="rmse_from_teacher", brief=False),
    Metric("perplexity", "perplexity", Unit.NUMBER, "lower", LANGUAGE, "Perplexity of the true responses",
           formula=lambda a, model: float(np.exp(a.tokens[model].loss.mean())), stored_as="perplexity"),
    Metric("kl_from_teacher", "KL from the teacher", Unit.NATS, "lower", LANGUAGE, "KL from the teacher: mean, nats",
           formula=mean_of_tokens("kl"), stored_as="kl_mean", of_teacher=False),
    Metric("kl_median", "median KL from the teacher", Unit.NATS, "lower", LANGUAGE, "… median",
           formula=quantile_of_kl(0.5), stored_as="kl_median", of_teacher=False, brief=False),
    Metric("kl_p99", "99th percentile of the KL from the teacher", Unit.NATS, "lower", LANGUAGE,
           "… 99 % of tokens below", formula=quantile_of_kl(0.99), stored_as="kl_p99", of_teacher=False, brief=False),
    Metric("top1_agreement", "agreement on the likeliest token", Unit.SHARE, "higher", LANGUAGE,
           formula=mean_of_tokens("agrees"), stored_as="top1_agreement", of_teacher=False),
    Metric("rms_probability_difference", "RMS difference of the top probability", Unit.SHARE, "lower", LANGUAGE,
           "RMS difference of the top probability", formula=rms_difference,
           stored_as="rms_probability_difference", of_teacher=False, brief=False),
    Metric("ece", "calibration error", Unit.NUMBER, "lower", DISTRIBUTIONS, "Calibration error (ECE)",
           formula=calibration_error, stored_as="expected_calibration_error", brief=False, most=1.0),
    Metric("ece_calibrated", "calibration error after temperature scaling", Unit.NUMBER, "lower", OF_CLASSES,
           "… calibrated (ECE)", formula=calibrated(calibration_error_of), brief=False, most=1.0,
           needs_temperature=True),
    Metric("cross_entropy", "cross-entropy", Unit.NATS, "lower", DISTRIBUTIONS, "Cross-entropy",
           formula=dict.fromkeys(OF_CLASSES, of_distributions(quality.cross_entropy))
           | dict.fromkeys(LANGUAGE, mean_of_tokens("loss")), stored_as="cross_entropy", brief=False),
    # Of what models write.
    Metric("repeated_ngrams", "repetition in responses", Unit.SHARE, "lower", LANGUAGE, "4-grams that repeat",
           lambda a, model: a.written and a.written.repeated(model), of_writing=True),
    Metric("distinct_ngrams", "variety over responses", Unit.SHARE, "higher", LANGUAGE, "Distinct 2-grams",
           formula=lambda a, model: a.written and a.written.distinct(model), of_writing=True, brief=False),
    Metric("ended", "share of responses that end", Unit.SHARE, "higher", LANGUAGE, "Responses that end",
           lambda a, model: a.written and a.written.ended(model), of_writing=True, brief=False),
    Metric("response_tokens", "length of responses in tokens", Unit.COUNT, None, LANGUAGE, "Tokens of a response",
           lambda a, model: a.written and a.written.lengths(model), of_writing=True, brief=False),
    Metric("response_length_ratio", "length of responses against the teacher's", Unit.RATIO, None, LANGUAGE,
           "… against the teacher's", lambda a, model: a.written and a.written.length_ratios(model), of_writing=True,
           of_teacher=False, brief=False),
    Metric("written_accuracy", "share of written answers that are right", Unit.SHARE, "higher", LANGUAGE,
           "Written answers that are right", read=judged_writing("accuracy"), interval=True, needs="judge"),
    Metric("as_good_as_teacher", "share of written answers as good as the teacher's", Unit.SHARE, "higher", LANGUAGE,
           "Written answers as good as the teacher's", read=judged_writing("as_good"), interval=True, needs="judge",
           of_teacher=False),
    Metric("nll", "negative log-likelihood", Unit.NATS, "lower", DISTRIBUTIONS, same_as="cross_entropy"),
    Metric("cross_entropy_calibrated", "cross-entropy after temperature scaling", Unit.NATS, "lower", OF_CLASSES,
           "… calibrated (cross-entropy)", formula=calibrated(quality.cross_entropy), brief=False,
           needs_temperature=True),
    Metric("brier", "Brier score", Unit.NUMBER, "lower", OF_CLASSES, "Brier score",
           formula=of_distributions(brier_score), brief=False, most=MOST_BRIER),
    Metric("brier_calibrated", "Brier score after temperature scaling", Unit.NUMBER, "lower", OF_CLASSES,
           "… calibrated (Brier score)", formula=calibrated(brier_score), brief=False, most=MOST_BRIER,
           needs_temperature=True),
    # Of the student against teacher and baseline.
    Metric("retention", "retention", Unit.SHARE, "higher", read=lambda e, _: e.retention, interval=True,
           below_zero=True, most=MOST_RETENTION),
    Metric("drop_points", "drop", Unit.POINTS, "lower", read=lambda e, _: e.drop_points, interval=True,
           below_zero=True),
    Metric("gain_over_baseline_points", "gain over the baseline", Unit.POINTS, "higher",
           read=lambda e, _: e.gain_over_baseline_points, interval=True, below_zero=True, needs_baseline=True),
    Metric("kl_gain_over_baseline", "gain in KL over the baseline", Unit.NATS, "higher", LANGUAGE,
           read=lambda e, _: e.kl_gain_over_baseline, interval=True, below_zero=True, needs_baseline=True),
    Metric("loss_gain_over_baseline", "gain in cross-entropy over the baseline", Unit.NATS, "higher", LANGUAGE,
           read=lambda e, _: e.loss_gain_over_baseline, interval=True, below_zero=True, needs_baseline=True),
    Metric("kl_gain_over_start", "gain in KL over the start", Unit.NATS, "higher", LANGUAGE,
           read=lambda e, _: e.kl_gain_over_start, interval=True, below_zero=True),
    Metric("agreement", "agreement with the teacher", Unit.SHARE, "higher", DISTRIBUTIONS,
           read=agreement, interval=True),
    # On other texts than the test rows.
    Metric("robust_accuracy", "accuracy on changed texts", Unit.SHARE, "higher", CLASSES,
           words_of={"multi_label": "all labels right on changed texts"}, read=robust("robust_accuracy"),
           interval=True, needs="robustness"),
    Metric("robust_entity_f1", "entity F1 on changed texts", Unit.SHARE, "higher", frozenset({"tags"}),
           read=robust("robust_accuracy"), interval=True, needs="robustness"),
    Metric("robust_agreement", "agreement with the teacher on changed texts", Unit.SHARE, "higher",
           CLASSES | LANGUAGE | {"tags"},
           words_of=dict.fromkeys(LANGUAGE, "agreement on the likeliest token after changed prompts"),
           read=robust("robust_agreement"), interval=True, needs="robustness"),
    Metric("robust_kl", "KL from the teacher after changed prompts", Unit.NATS, "lower", LANGUAGE,
           read=robust("robust_kl"), interval=True, needs="robustness", of_teacher=False),
    Metric("robust_perplexity", "perplexity after changed prompts", Unit.NUMBER, "lower", LANGUAGE,
           read=robust("robust_perplexity"), interval=True, needs="robustness"),
    Metric("robust_perplexity_ratio", "perplexity after changed prompts against that after the prompts as they are",
           Unit.RATIO, "lower", LANGUAGE, read=robust("robust_perplexity_ratio"), interval=True, needs="robustness"),
    Metric("unanswerable_kl", "KL from the teacher on queries that nobody can answer", Unit.NATS, "lower",
           frozenset({"text"}), read=unanswerable("kl"), interval=True, needs="robustness.unanswerable",
           of_teacher=False),
    Metric("unanswerable_agreement", "agreement on the likeliest token on queries that nobody can answer", Unit.SHARE,
           "higher", frozenset({"text"}), read=unanswerable("agreement"), interval=True,
           needs="robustness.unanswerable", of_teacher=False),
    Metric("attack_success_rate", "share of attacks that succeed", Unit.SHARE, "lower", CLASSES, read=attacked,
           interval=True, needs="robustness.attacks"),
    Metric("ood_auroc", "AUROC of the top probability against texts out of domain", Unit.SHARE, "higher", OF_CLASSES,
           read=out_of_domain("auroc"), interval=True, needs="out_of_domain"),
    Metric("ood_fpr95", "share of texts out of domain accepted with 95 % of the test rows", Unit.SHARE, "lower",
           OF_CLASSES, read=out_of_domain("fpr95"), interval=True, needs="out_of_domain"),
    Metric("ood_kl", "KL from the teacher on texts out of domain", Unit.NATS, "lower", LANGUAGE,
           read=outside("kl"), interval=True, needs="out_of_domain", of_teacher=False),
    Metric("ood_perplexity", "perplexity on texts out of domain", Unit.NUMBER, "lower", LANGUAGE,
           read=outside("perplexity"), interval=True, needs="out_of_domain"),
    # What a model costs, measured as it runs.
    Metric("speedup", "speed-up", Unit.RATIO, "higher", read=slower_type),
    Metric("throughput_ratio", "gain in throughput", Unit.RATIO, "higher", read=lambda e, _: e.throughput_ratio),
    Metric("size_ratio", "gain in size", Unit.RATIO, "higher", read=lambda e, _: e.size_ratio),
    Metric("latency_p50_ms", "median latency", Unit.MS, "lower", stored_as="latency_p50_ms"),
    Metric("latency_p95_ms", "95th percentile of the latency", Unit.MS, "lower", read=tail(95)),
    Metric("latency_p99_ms", "99th percentile of the latency", Unit.MS, "lower", read=tail(99)),
    Metric("throughput_per_s", "throughput", Unit.PER_S, "higher", stored_as="throughput_per_s"),
    Metric("time_to_first_token_ms", "time to the first token", Unit.MS, "lower", LANGUAGE,
           "Time to the first token, ms", stored_as="time_to_first_token_ms"),
    Metric("time_per_token_ms", "time per token", Unit.MS, "lower", LANGUAGE, stored_as="time_per_token_ms"),
    Metric("tokens_per_s", "tokens a second", Unit.PER_S, "higher", LANGUAGE, stored_as="tokens_per_s"),
    Metric("peak_memory_bytes", "peak memory", Unit.BYTES, "lower", stored_as="peak_memory_bytes"),
    Metric("memory_above_floor_bytes", "memory above that of the libraries", Unit.BYTES, "lower",
           stored_as="memory_above_floor_bytes"),
    Metric("load_ms", "time to load", Unit.MS, "lower", stored_as="load_ms"),
    Metric("size_bytes", "size of the weights", Unit.BYTES, "lower", stored_as="size_bytes"),
    Metric("cost_per_1000", "cost of a thousand requests", Unit.NUMBER, "lower", stored_as="cost_per_1000",
           needs="expenses.price_per_hour"),
    Metric("energy_wh_per_1000", "energy of a thousand requests, Wh", Unit.NUMBER, "lower",
           stored_as="energy_wh_per_1000", needs="expenses.watts"),
    Metric("num_parameters", "parameters", Unit.COUNT, "lower", stored_as="num_parameters"),
    Metric("num_parameters_without_embeddings", "parameters without embeddings", Unit.COUNT, "lower",
           stored_as="num_parameters_without_embeddings"),
)  # fmt: skip
_BY_NAME = {metric.name: metric for metric in METRICS} | {
    metric.stored_as: metric for metric in METRICS if metric.stored_as
}


def metric(name: str) -> Metric:
    """The metric of this name, or of the name of its field in records."""
    return _BY_NAME[name]


def metric_for(name: str, answers: AnswerKind) -> Metric | str:
    """The metric of this name where answers of this kind have it; else what is wrong, with the likeliest names."""
    here = names_for(answers)
    known = _BY_NAME.get(name)
    if known is not None and answers in known.of:
        return known
    close = difflib.get_close_matches(name, here, n=3, cutoff=0.5)
    instead = f"did you mean {' or '.join(close)}? All: {', '.join(here)}" if close else f"there are: {', '.join(here)}"
    return f"{name!r} is not measured of this task; {instead}."


WRITING = tuple(metric.name for metric in METRICS if metric.of_writing)


def names_for(answers: AnswerKind) -> list[str]:
    return [metric.name for metric in METRICS if answers in metric.of]


def name_in_words(name: str, answers: AnswerKind | None = None) -> str:
    """A metric in words; of one that is not known, such as in a record of a later version, its name."""
    known = _BY_NAME.get(name)
    if known is None:
        return name.replace("_", " ")
    return known.words if answers is None else known.named(answers)


def computed_for(answers: AnswerKind) -> Iterable[tuple[Metric, Formula | ResampledFormula]]:
    """The metrics that are computed from answers of this kind, with their formulas."""
    for each in METRICS:
        formula = each.formula_for(answers)
        if formula is not None:
            yield each, formula


def columns_of(answers: AnswerKind) -> list[Metric]:
    """The metrics in which models of this kind are compared one by one."""
    return [metric for metric in METRICS if metric.column and answers in metric.of]
