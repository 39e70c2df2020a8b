"""Models side by side: what the evaluations of all tasks say of teacher, student and baseline alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from potstill.measure import quality
from potstill.measure.generation import GenerationRequest
from potstill.measure.speed import Speed, SpeedRequest, measure_speed
from potstill.measure.weights import BYTES_IN_COMMON, HALF, SavedWeights, saved_weights
from potstill.measure.word_speed import WordRequest
from potstill.recipe import Recipe
from potstill.records import (
    AdaptRecord,
    Agreement,
    ClassRow,
    Comparison,
    Disagreement,
    Estimate,
    Floor,
    Measurement,
    ModelEvaluation,
    Reference,
)
from potstill.run_dir import RunDir
from potstill.stages.common import Files
from potstill.stages.models import ModelFolder
from potstill.teachers import Routed, lead_name
from potstill.training.engine import Engine

DISAGREEMENT_CHARACTERS = 600
Timed = TypeVar("Timed", SpeedRequest, WordRequest, GenerationRequest)
OVER_BASELINE = ("student", "baseline")
_PAIRS = (("student", "teacher"), OVER_BASELINE, ("baseline", "teacher"))


@dataclass(frozen=True)
class Judged:
    """What the answers about whole texts say of the models, whatever the form of the answers."""

    quality: Mapping[str, dict[str, Any]]
    """For each model the fields of its `ModelEvaluation` that are about its answers."""
    primary: Mapping[str, npt.NDArray[np.float64]]
    """For each model the primary metric over the resamples."""
    agreement: dict[str, Agreement]
    comparisons: list[Comparison]
    floors: dict[str, Floor]
    floors_missing: dict[str, str]
    references: list[Reference]
    classes: list[ClassRow]
    disagreements: list[Disagreement]


def pairs(names: Mapping[str, object]) -> list[tuple[str, str]]:
    """The pairs of these models that are compared, the first against the second."""
    others = [name for name in names if name not in {"teacher", "student", "baseline"}]
    return [pair for pair in (*_PAIRS, *(("student", other) for other in others)) if set(pair) <= set(names)]


def headline(
    models: Mapping[str, ModelEvaluation],
    primary: str,
    scores: Mapping[str, npt.NDArray[np.float64]],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """The fields of an `EvaluateRecord` that set the student against teacher and baseline, by the primary metric.

    `scores` are that metric's values of each model over the resamples.
    """
    teacher, student = models["teacher"], models["student"]
    gain = next((each.points(primary) for each in comparisons if (each.of, each.against) == OVER_BASELINE), None)
    return {
        "primary_metric": primary,
        "retention": estimate(retained(scores["student"], scores["teacher"])),
        "drop_points": estimate(100 * (scores["teacher"] - scores["student"])),
        "speedup": teacher.latency_p50_ms / student.latency_p50_ms,
        "speedup_in_own_types": _speedup_in_own_types(teacher, student),
        "throughput_ratio": student.throughput_per_s / teacher.throughput_per_s,
        "size_ratio": teacher.size_bytes / student.size_bytes,
        "size_ratio_in_float32": teacher.num_parameters / student.num_parameters,
        "gain_over_baseline_points": gain,
    }


def _speedup_in_own_types(teacher: ModelEvaluation, student: ModelEvaluation) -> float | None:
    own = [model.own_type_latency_p50_ms for model in (teacher, student)]
    if own == [None, None]:
        return None
    return (own[0] or teacher.latency_p50_ms) / (own[1] or student.latency_p50_ms)


def retained(student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Student / teacher; 0 where the teacher has nothing to keep, or, as an R² can be, less than nothing."""
    return np.divide(student, teacher, out=np.zeros_like(student), where=teacher > 0)


def parameters(recipe: Recipe, model: PreTrainedModel) -> tuple[int, int]:
    """All parameters of a model, and those that are no embeddings."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - recipe.task.embedding_parameters(model)


def served_as(folder: ModelFolder, adapted: AdaptRecord, source: Files) -> ModelFolder:
    """The folder of a teacher, with what it would be served as instead of its student.

    What lies in the run is in float32. A teacher in a quantised file is served as that file, and one that was adapted
    in the type that it came in, where that is one that a model can be trained in.
    """
    if adapted.converted and Path(source.location).exists():
        return replace(folder, served=saved_weights(Path(source.location)))
    weights = saved_weights(folder.path)
    if (adapted.adapted or adapted.converted) and (came_in := _type_of(source)) in HALF:
        weights = SavedWeights(came_in, weights.size_bytes // 2)
    return replace(folder, served=weights)


def _type_of(source: Files) -> str:
    """The type of a teacher's own files; of one on a hub as its configuration says."""
    path = Path(source.location)
    if path.is_dir():
        return saved_weights(path).type
    return str(getattr(source.config, "dtype", None)).removeprefix("torch.")


def weights_of(recipe: Recipe, folders: Mapping[str, ModelFolder]) -> dict[str, SavedWeights]:
    """The weights of each model as it is served; several teachers have those of all of them."""
    found = {name: folder.served or saved_weights(folder.path) for name, folder in folders.items()}
    if recipe.ensemble is not None:
        members = [found[name] for name in recipe.ensemble.of]
        types = sorted({member.type for member in members})
        found["teacher"] = SavedWeights(" and ".join(types), sum(member.size_bytes for member in members))
    return found


def speeds(
    run: RunDir, recipe: Recipe, weights: Mapping[str, SavedWeights], requests: Mapping[str, Timed]
) -> dict[str, Speed]:
    """The speed of each model in float32, and in its own type where that is another that can be timed."""
    own = {
        name: replace(request, dtype=weights[name].type)
        for name, request in requests.items()
        if weights[name].type in HALF
    }
    rounds = recipe.evaluate.rounds
    with run.progress.task("evaluate: speed", rounds * (len(requests) + len(own)), "processes") as advance:
        return measure_speed(requests, rounds=rounds, advance=advance, own_types=own)


def asked_of_all(recipe: Recipe) -> tuple[str, ...]:
    """The names of several teachers of which each answers every row; those of domains answer their own."""
    ensemble = recipe.ensemble
    return () if ensemble is None or (isinstance(ensemble, Routed) and ensemble.by == "domain") else tuple(ensemble.of)


def with_ensemble(recipe: Recipe, counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The parameters of each model, and of several teachers those of all of them together."""
    if recipe.ensemble is None:
        return dict(counts)
    members = [counts[name] for name in recipe.ensemble.of]
    return {**counts, "teacher": (sum(each[0] for each in members), sum(each[1] for each in members))}


def ensemble_speed(recipe: Recipe, folders: Mapping[str, ModelFolder]) -> dict[str, Any]:
    """The fields of a request for the speed of several teachers that name those beside the first."""
    if recipe.ensemble is None:
        return {}
    others = (str(folders[name].path) for name in recipe.ensemble.of if name != lead_name(recipe.ensemble))
    return {"beside": tuple(others), "in_turn": isinstance(recipe.ensemble, Routed) and recipe.ensemble.by == "domain"}


def measurement(recipe: Recipe, engine: Engine, *, rows: int, batch_size: int) -> Measurement:
    """How the speed of all models was measured: on so many rows, and for the throughput so many at once."""
    settings = recipe.evaluate
    return Measurement(
        threads=settings.threads,
        device=engine.device.type,
        rows=rows,
        rounds=settings.rounds,
        warmup=settings.warmup,
        batch_size_throughput=batch_size,
    )


def cost_values(weights: SavedWeights, counts: tuple[int, int], speed: Speed) -> dict[str, Any]:
    """What a model costs, in the names of a `ModelEvaluation`: its weights, parameters and measured speed."""
    own = speed.in_own_type
    return {
        "weights_type": weights.type,
        "size_bytes": weights.size_bytes,
        "size_in_float32_bytes": BYTES_IN_COMMON * counts[0],
        "num_parameters": counts[0],
        "num_parameters_without_embeddings": counts[1],
        "latency_p50_ms": speed.latency_p50_ms,
        "latency_p95_ms": speed.latency_p95_ms,
        "latency_p99_ms": speed.latency_p99_ms,
        "throughput_per_s": speed.throughput_per_s,
        "peak_memory_bytes": speed.peak_memory_bytes,
        "own_type_latency_p50_ms": own and own.latency_p50_ms,
        "own_type_throughput_per_s": own and own.throughput_per_s,
        "own_type_peak_memory_bytes": own and own.peak_memory_bytes,
    }


def estimate(values: npt.NDArray[np.float64]) -> Estimate:
    """The value on the sample, the first of `values`, with the 95 % interval over the resamples."""
    value, low, high = quality.interval(values)
    return Estimate(value=value, low=low, high=high)
