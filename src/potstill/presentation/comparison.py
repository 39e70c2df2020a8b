"""The comparison of all models as rows of a table, for page and card."""

from collections.abc import Sequence
from typing import Literal

from potstill.presentation.formats import number, number_span, percent, sentence, share, size, span, times
from potstill.records import QUERIES_OF_A_PERCENTILE, EvaluateRecord, ModelEvaluation, accuracy_name, metric_name

TAILS: tuple[Literal[95, 99], ...] = (95, 99)
"""The percentiles of latency that are shown beside the median."""


def comparison_rows(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    """The rows of the comparison table: the name of a quantity, and its value for each model in turn."""
    teacher = evaluation.models["teacher"]

    def row(name: str, values: Sequence[str]) -> tuple[str, list[str]]:
        return name, list(values)

    models = evaluation.models
    agreement = {"teacher": "–"} | {
        name: f"{percent(found.all_rows.value)} ({span(found.all_rows)})"
        for name, found in evaluation.agreement.items()
    }
    each = models.values()
    of = " of a token" if evaluation.test_tokens is not None else ""
    scores = [
        row(f"{sentence(metric_name(metric))} (95 % interval)", [share(m.score(metric)) for m in each])
        for metric in teacher.scores
    ]
    return [
        *scores,
        *_accuracy_row(evaluation),
        *_quality_rows(evaluation),
        *(
            [row("Agreement with the teacher", [agreement.get(name, "–") for name in models])]
            if evaluation.agreement
            else []
        ),
        row(f"Latency p50{of}, ms", [f"{m.latency_p50_ms:,.2f}" for m in each]),
        *(row(f"Latency p{share}{of}, ms", _tails(evaluation, share)) for share in TAILS),
        row("Speed-up at p50", [times(teacher.latency_p50_ms / m.latency_p50_ms) for m in each]),
        row(f"Throughput, {'tokens' if of else 'rows'}/s", [f"{m.throughput_per_s:,.0f}" for m in each]),
        row("Peak memory", [size(m.peak_memory_bytes) for m in each]),
        *_own_type_rows(evaluation, of),
        row("Size of the weights, as served", [_size_as_served(m) for m in each]),
        row("Parameters", [f"{m.num_parameters:,}" for m in each]),
        row("… without embeddings", [f"{m.num_parameters_without_embeddings:,}" for m in each]),
        *_likelihood_rows(evaluation),
    ]


def _own_type_rows(evaluation: EvaluateRecord, of: str) -> list[tuple[str, list[str]]]:
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
        (f"Latency p50{of} in its own type, ms", [f"{latency:,.2f}" for latency in latencies]),
        ("… speed-up", [times(of_teacher / latency) for latency in latencies]),
        ("… peak memory", [size(each) for each in memory]),
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


def _accuracy_row(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    intervals = [model.accuracy_interval for model in evaluation.models.values()]
    name = f"{sentence(accuracy_name(evaluation))} (95 % interval)"
    return [(name, [share(i) if i else "–" for i in intervals])] if any(intervals) else []


def _likelihood_rows(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    """What is measured of the probabilities of answers, which numbers have none of."""
    by_label = " of a label" if evaluation.problem_type == "multi_label_classification" else ""
    each = evaluation.models.values()
    rows = {
        f"Calibration error (ECE){by_label}": [m.expected_calibration_error for m in each],
        f"Cross-entropy{by_label}, nats": [m.cross_entropy for m in each],
    }
    return [
        (name, ["–" if value is None else f"{value:.3f}" for value in values])
        for name, values in rows.items()
        if any(value is not None for value in values)
    ]


def _quality_rows(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    """The rows that only classifiers have, or only language models."""
    each = list(evaluation.models.values())
    if evaluation.problem_type == "regression":
        return [
            ("RMSE (95 % interval)", [number_span(m.rmse) for m in each]),
            ("RMSE from the teacher (95 % interval)", [number_span(m.rmse_from_teacher) for m in each]),
        ]
    if evaluation.test_tokens is None:
        intervals = [m.macro_f1_interval for m in each]
        return [("Macro-F1 (95 % interval)", [share(i) if i else "–" for i in intervals])] if any(intervals) else []
    return [
        ("Perplexity of the true responses", [number(m.perplexity) for m in each]),
        ("KL from the teacher: mean, nats", [number(m.kl_mean) for m in each]),
        ("… median", [number(m.kl_median) for m in each]),
        ("… 99 % of tokens below", [number(m.kl_p99) for m in each]),
        ("RMS difference of the top probability", [percent(m.rms_probability_difference) for m in each]),
        ("Time to the first token, ms", [number(m.time_to_first_token_ms) for m in each]),
    ]
