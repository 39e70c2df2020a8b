"""What models cost: their weights, their parameters, and their speed, measured in processes of their own."""

from collections.abc import Mapping
from typing import Any

from potstill.evaluation.case import Case
from potstill.evaluation.expenses import energy_method, expenses_of
from potstill.evaluation.speed_points import made, points_of, series_of
from potstill.measure.speed import Speed, measure_speed
from potstill.measure.weights import BYTES_IN_COMMON, HALF, SavedWeights
from potstill.records import Measurement
from potstill.runtimes.predictor import Parameters, Predictor, Queries
from potstill.runtimes.timing import SpeedRequest


def costs_of(
    case: Case, predictors: Mapping[str, Predictor], queries: Queries, device: str
) -> dict[str, dict[str, Any]]:
    """For each model the fields of a `ModelEvaluation` that are about its costs."""
    weights = {name: predictor.weights() for name, predictor in predictors.items()}
    speed = _speeds(case, predictors, weights, queries, device)
    # What was counted of one model is not set beside what is estimated of another.
    counted = all(each.joules_per_query is not None for each in speed.values())
    return {
        name: {
            **_fields(weights[name], predictor.parameters(), speed[name], queries),
            **expenses_of(
                case.recipe.evaluate.expenses,
                request_ms(speed[name], queries),
                speed[name].joules_per_query if counted else None,
            ),
        }
        for name, predictor in predictors.items()
    }


def request_ms(speed: Speed, queries: Queries) -> float:
    """How long one request takes: a text, a document, or all that is written after a prompt."""
    if not queries.one_by_one or speed.first_p50_ms is None:
        return speed.latency_p50_ms
    return speed.first_p50_ms + (queries.settings["new_tokens"] - 1) * speed.latency_p50_ms


def measurement(case: Case, queries: Queries, device: str, *, counted: bool = False) -> Measurement:
    """How the speed of all models was measured, and their energy, where it was `counted`."""
    settings = case.recipe.evaluate
    return Measurement(
        threads=settings.threads,
        device=device,
        rows=len(queries.items),
        rounds=settings.rounds,
        warmup=settings.warmup,
        batch_size_throughput=1 if queries.one_by_one else settings.batch_size,
        queries_of_a_length=made(case, queries),
        energy=energy_method(settings.expenses, device, counted=counted),
    )


def _speeds(
    case: Case, predictors: Mapping[str, Predictor], weights: Mapping[str, SavedWeights], queries: Queries, device: str
) -> dict[str, Speed]:
    """The speed of each model in float32, and in its own type where that is another that can be timed."""
    settings = case.recipe.evaluate
    as_teacher = queries.items, series_of(case, queries, case.tokenizer)
    as_student = as_teacher
    if queries.of_student is not None and case.own_tokenizer is not None:
        as_student = queries.of_student, series_of(case, queries, case.own_tokenizer)

    def request(predictor: Predictor) -> SpeedRequest:
        items, series = as_teacher if predictor.tokenizer is case.tokenizer else as_student
        return SpeedRequest(
            loads=predictor.loads(),
            form=queries.form,
            queries=items,
            threads=settings.threads,
            warmup=settings.warmup,
            batch_size=settings.batch_size,
            device=device,
            settings=queries.settings,
            series=series,
        )

    requests = {name: request(predictor) for name, predictor in predictors.items()}
    own = {
        name: request.in_type(weights[name].type) for name, request in requests.items() if weights[name].type in HALF
    }
    rounds = settings.rounds
    with case.progress.task("evaluate: speed", rounds * (len(requests) + len(own)), "processes") as advance:
        return measure_speed(requests, rounds=rounds, advance=advance, own_types=own)


def _fields(weights: SavedWeights, parameters: Parameters, speed: Speed, queries: Queries) -> dict[str, Any]:
    own = speed.in_own_type
    of_tokens = {
        "time_to_first_token_ms": speed.first_p50_ms,
        "time_per_token_ms": speed.latency_p50_ms,
        "tokens_per_s": speed.throughput_per_s,
    }
    return {
        "weights_type": weights.type,
        "size_bytes": weights.size_bytes,
        "size_in_float32_bytes": BYTES_IN_COMMON * parameters.total,
        "num_parameters": parameters.total,
        "num_parameters_without_embeddings": parameters.without_embeddings,
        "latency_p50_ms": speed.latency_p50_ms,
        "latency_p95_ms": speed.latency_p95_ms,
        "latency_p99_ms": speed.latency_p99_ms,
        "throughput_per_s": speed.throughput_per_s,
        "peak_memory_bytes": speed.peak_memory_bytes,
        "memory_above_floor_bytes": speed.memory_above_floor_bytes,
        "load_ms": speed.load_ms,
        "latency_p50_range_ms": speed.latency_p50_range_ms,
        "speed_points": points_of(speed.points),
        "own_type_latency_p50_ms": own and own.latency_p50_ms,
        "own_type_throughput_per_s": own and own.throughput_per_s,
        "own_type_peak_memory_bytes": own and own.peak_memory_bytes,
        **(of_tokens if queries.one_by_one else {}),
    }
