"""The comparison of all models, quantity by quantity, for terminal, page and card."""

from typing import Literal

import numpy as np

from potstill.evaluation.judged_writing.sections import judgement_quantities
from potstill.evaluation.metrics import METRICS, WRITING, Metric, Unit, columns_of, metric
from potstill.evaluation.wording import WORDING
from potstill.measure import quality
from potstill.presentation.formats import number, number_span, percent, sentence, share, size, span, times
from potstill.presentation.tables import Quantity
from potstill.records import QUERIES_OF_A_PERCENTILE, Estimate, EvaluateRecord, ModelEvaluation

TAILS: tuple[Literal[95, 99], ...] = (95, 99)
"""The percentiles of latency that are shown beside the median."""
_SHOWN_LATER = (
    "ece",
    "ece_calibrated",
    "cross_entropy",
    "cross_entropy_calibrated",
    "brier",
    "brier_calibrated",
)
_NOT_SHOWN = ("top1_agreement", *(name for name in WRITING if name != "repeated_ngrams"))
"""What other tables show."""


def quantities(evaluation: EvaluateRecord) -> list[Quantity]:
    """All that is compared, with the value of each model in turn."""
    words, models = WORDING[evaluation.answers], list(evaluation.models.values())
    teacher = evaluation.models["teacher"]
    of = words.of_query
    return [
        *_of_answers(evaluation),
        *_retention(evaluation),
        *_agreement(evaluation),
        *judgement_quantities(evaluation),
        Quantity(f"Latency p50{of}, ms", [f"{m.latency_p50_ms:,.2f}" for m in models], brief=True),
        *(Quantity(f"Latency p{tail}{of}, ms", _tails(evaluation, tail), brief=tail == 95) for tail in TAILS),
        Quantity("Speed-up at p50", [times(teacher.latency_p50_ms / m.latency_p50_ms) for m in models], brief=True),
        Quantity(f"Throughput, {words.per_s}/s", [f"{m.throughput_per_s:,.0f}" for m in models], brief=True),
        Quantity("Peak memory", [size(m.peak_memory_bytes) for m in models], brief=True),
        *_own_types(evaluation, of),
        Quantity("Size of the weights, as served", [_size_as_served(m) for m in models], brief=True),
        *_expenses(evaluation),
        Quantity("Parameters", [f"{m.num_parameters:,}" for m in models], brief=True),
        Quantity("… without embeddings", [f"{m.num_parameters_without_embeddings:,}" for m in models]),
        *(
            _row(evaluation, metric(name), f"{{}}{words.of_decision}{_unit(name)}")
            for name in _SHOWN_LATER
            if _has(evaluation, name)
        ),
    ]


def _expenses(evaluation: EvaluateRecord) -> list[Quantity]:
    """What a thousand requests cost, where the recipe says what an hour does or the processor counts its energy."""
    counted = any(model.joules_per_query is not None for model in evaluation.models.values())
    how = {"cost_per_1000": "estimate", "energy_wh_per_1000": "measured, whole processor" if counted else "estimate"}
    shown = []
    for name, told in how.items():
        values = [metric(name).of_model(model) for model in evaluation.models.values()]
        if any(value is not None for value in values):
            title = f"{sentence(metric(name).words)} ({told})"
            shown.append(Quantity(title, [number(value) if isinstance(value, float) else "–" for value in values]))
    return shown


def floor_lines(evaluation: EvaluateRecord) -> list[str]:
    """What the floors reach, as lines below the table."""
    primary = metric(evaluation.primary_metric).name
    lines = []
    for name, floor in evaluation.floors.items():
        lines.append(f"TF-IDF floor, {floor.labelled_rows:,} {name.replace('_', ' ')}: {floor.score(primary):.1%}")
    return lines


def _unit(name: str) -> str:
    return ", nats" if metric(name).unit is Unit.NATS else ""


def _has(evaluation: EvaluateRecord, name: str) -> bool:
    return any(metric(name).in_record(evaluation, model) is not None for model in evaluation.models)


def _of_answers(evaluation: EvaluateRecord) -> list[Quantity]:
    """The metrics that are computed from answers, and how long a first answer takes."""
    kind = evaluation.answers
    columns = columns_of(kind)
    others = [
        each
        for each in METRICS
        if kind in each.of
        and (each.formula_for(kind) or each.name == "time_to_first_token_ms")
        and each not in columns
        and each.name not in (*_SHOWN_LATER, *_NOT_SHOWN)
    ]
    shown = [*columns, *others]
    return [_row(evaluation, each, "{}") for each in shown if _has(evaluation, each.name)]


def _row(evaluation: EvaluateRecord, each: Metric, title: str) -> Quantity:
    values = [each.of_model(model) for model in evaluation.models.values()]
    name = title.format(each.title or sentence(each.named(evaluation.answers)))
    if each.words_of.get(evaluation.answers):
        name = sentence(each.named(evaluation.answers))
    if any(isinstance(value, Estimate) for value in values):
        name += " (95 % interval)"
    return Quantity(name, [shown(each, value) for value in values], brief=each.brief)


def shown(each: Metric, value: Estimate | float | None) -> str:
    """A value of a metric with its interval, where it has one."""
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        return share(value) if each.unit is Unit.SHARE else number_span(value)
    if each.unit is Unit.SHARE:
        return percent(value)
    return f"{value:z.3f}" if each.name in _SHOWN_LATER else number(value)


def _retention(evaluation: EvaluateRecord) -> list[Quantity]:
    scores = np.array([evaluation.primary(name).value for name in evaluation.models])
    shares = quality.retained(scores, np.full_like(scores, evaluation.primary("teacher").value))
    return [Quantity("Retention", [percent(each) for each in shares.tolist()], brief=True)]


def _agreement(evaluation: EvaluateRecord) -> list[Quantity]:
    if not evaluation.agreement:
        return []
    values = {
        name: f"{percent(found.all_rows.value)} ({span(found.all_rows)})"
        for name, found in evaluation.agreement.items()
    }
    return [Quantity("Agreement with the teacher", [values.get(name, "–") for name in evaluation.models], brief=True)]


def _own_types(evaluation: EvaluateRecord, of: str) -> list[Quantity]:
    """Speed and memory of models in the type that they are served in; those above are in float32, as are all here that
    are served in it."""
    models = evaluation.models.values()
    teacher, own = evaluation.models["teacher"], [m.own_type_latency_p50_ms for m in models]
    if not any(own):
        return []
    latencies = [value or m.latency_p50_ms for value, m in zip(own, models, strict=True)]
    of_teacher = teacher.own_type_latency_p50_ms or teacher.latency_p50_ms
    memory = [m.own_type_peak_memory_bytes or m.peak_memory_bytes for m in models]
    return [
        Quantity(f"Latency p50{of} in its own type, ms", [f"{latency:,.2f}" for latency in latencies], brief=True),
        Quantity("… speed-up", [times(of_teacher / latency) for latency in latencies], brief=True),
        Quantity("… peak memory", [size(each) for each in memory]),
    ]


def _size_as_served(model: ModelEvaluation) -> str:
    if model.weights_type is None or model.size_in_float32_bytes is None:
        return size(model.size_bytes)
    if model.weights_type == "float32":
        return f"{size(model.size_bytes)} (float32)"
    return f"{size(model.size_bytes)} ({model.weights_type}; {size(model.size_in_float32_bytes)} in float32)"


def _tails(evaluation: EvaluateRecord, percentile: Literal[95, 99]) -> list[str]:
    """A high percentile of each model's latency, or why none is shown."""
    values = [evaluation.tail_ms(name, percentile) for name in evaluation.models]
    missing = f"– (needs {QUERIES_OF_A_PERCENTILE[percentile]} queries)"
    return [missing if value is None else f"{value:,.2f}" for value in values]
