"""Models side by side: what the evaluations of all tasks say of teacher, student and baseline alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from potstill.measure import quality
from potstill.measure.speed import Speed, folder_bytes
from potstill.recipe import Recipe
from potstill.records import (
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
from potstill.stages.common import ModelFolder
from potstill.teachers import Routed, lead_name
from potstill.training.engine import Engine

DISAGREEMENT_CHARACTERS = 600
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
        "throughput_ratio": student.throughput_per_s / teacher.throughput_per_s,
        "size_ratio": teacher.size_bytes / student.size_bytes,
        "gain_over_baseline_points": gain,
    }


def retained(student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Student / teacher; 0 where the teacher has nothing to keep, or, as an R² can be, less than nothing."""
    return np.divide(student, teacher, out=np.zeros_like(student), where=teacher > 0)


def parameters(recipe: Recipe, model: PreTrainedModel) -> tuple[int, int]:
    """All parameters of a model, and those that are no embeddings."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - recipe.task.embedding_parameters(model)


def sizes_of(recipe: Recipe, folders: Mapping[str, ModelFolder]) -> dict[str, int]:
    """Bytes of each model's folder; several teachers have those of all of them."""
    sizes = {name: folder_bytes(folder.path) for name, folder in folders.items()}
    if recipe.several is not None:
        sizes["teacher"] = sum(sizes[name] for name in recipe.several.of)
    return sizes


def with_several(recipe: Recipe, counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The parameters of each model, and of several teachers those of all of them together."""
    if recipe.several is None:
        return dict(counts)
    members = [counts[name] for name in recipe.several.of]
    return {**counts, "teacher": (sum(each[0] for each in members), sum(each[1] for each in members))}


def speed_of_several(recipe: Recipe, folders: Mapping[str, ModelFolder]) -> dict[str, Any]:
    """The fields of a request for the speed of several teachers that name those beside the first."""
    if recipe.several is None:
        return {}
    others = (str(folders[name].path) for name in recipe.several.of if name != lead_name(recipe.several))
    return {"beside": tuple(others), "in_turn": isinstance(recipe.several, Routed) and recipe.several.by == "domain"}


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


def speed_values(speed: Speed) -> dict[str, Any]:
    """A measured speed in the names of a `ModelEvaluation`."""
    return {
        "latency_p50_ms": speed.latency_p50_ms,
        "latency_p95_ms": speed.latency_p95_ms,
        "latency_p99_ms": speed.latency_p99_ms,
        "throughput_per_s": speed.throughput_per_s,
        "peak_memory_bytes": speed.peak_memory_bytes,
    }


def estimate(values: npt.NDArray[np.float64]) -> Estimate:
    """The value on the sample, the first of `values`, with the 95 % interval over the resamples."""
    value, low, high = quality.interval(values)
    return Estimate(value=value, low=low, high=high)
