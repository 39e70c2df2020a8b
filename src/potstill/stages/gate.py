"""gate: the recipe's thresholds against what was measured."""

from potstill.recipe import GateSettings, Recipe
from potstill.records import Check, EvaluateRecord, GateRecord
from potstill.run_dir import RunDir, fingerprint


def gate(run: RunDir, recipe: Recipe, evaluation: EvaluateRecord) -> GateRecord:
    """The verdict with its reasons."""
    depends = {"gate": recipe.gate, "evaluation": fingerprint(evaluation)}
    return run.once("gate", depends, GateRecord, lambda _: judge(recipe.gate, evaluation))


def judge(settings: GateSettings, evaluation: EvaluateRecord) -> GateRecord:
    """Every threshold that is set, passed or failed; a quantity that was not measured fails."""
    student = evaluation.models["student"]
    gain, kl_gain = evaluation.gain_over_baseline_points, evaluation.kl_gain_over_baseline
    agreement = evaluation.agreement.get("student")
    measured: dict[str, float | None] = {
        "min_retention": evaluation.retention.value,
        "max_drop_points": evaluation.drop_points.value,
        "min_speedup": evaluation.speedup,
        "max_latency_p95_ms": evaluation.tail_ms("student", 95),
        "max_size_bytes": student.size_bytes,
        "max_peak_memory_bytes": student.peak_memory_bytes,
        "min_agreement": agreement.all_rows.value if agreement else None,
        "max_kl_from_teacher": student.kl_mean,
        "min_kl_gain_over_baseline": kl_gain.value if kl_gain else None,
        "min_gain_over_baseline_points": gain.value if gain else None,
    }
    checks = []
    for field in GateSettings.model_fields:
        threshold = getattr(settings, field)
        if threshold is None:
            continue
        bound, _, name = field.partition("_")
        value = measured[field]
        within = value is not None and (value >= threshold if bound == "min" else value <= threshold)
        sign = ">=" if bound == "min" else "<="
        checks.append(Check(name=name, required=f"{sign} {threshold:g}", measured=value, passed=within))
    return GateRecord(passed=all(check.passed for check in checks), checks=checks)
