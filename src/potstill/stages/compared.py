"""Models side by side: what the evaluations of all tasks say of teacher, student and baseline alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from potstill.measure import quality
from potstill.measure.speed import Speed
from potstill.recipe import Recipe
from potstill.records import Agreement, ClassRow, Comparison, Disagreement, Estimate, Floor, ModelEvaluation

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
