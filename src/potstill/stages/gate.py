"""gate: the recipe's thresholds against what was measured."""

from potstill.recipe import GateSettings, Recipe
from potstill.records import Check, EvaluateRecord, GateRecord
from potstill.run_dir import RunDir, fingerprint
from potstill.stages.findings import digits, weak_teacher


def gate(run: RunDir, recipe: Recipe, evaluation: EvaluateRecord) -> GateRecord:
    """The verdict with its reasons."""
    depends = {"gate": recipe.gate, "evaluation": fingerprint(evaluation)}
    return run.once("gate", depends, GateRecord, lambda _: judge(recipe.gate, evaluation))


def judge(settings: GateSettings, evaluation: EvaluateRecord) -> GateRecord:
    """The teacher first, then every threshold that is set; a quantity that was not measured fails."""
    student = evaluation.models["student"]
    gain, kl_gain = evaluation.gain_over_baseline_points, evaluation.kl_gain_over_baseline
    agreement = evaluation.agreement.get("student")
    measured: dict[str, float | None] = {
        "min_retention": evaluation.retention.value,
        "max_drop_points": evaluation.drop_points.value,
        # The lower of both, so that no choice of a type makes the teacher slow.
        "min_speedup": min(evaluation.speedup, evaluation.speedup_in_own_types or evaluation.speedup),
        "max_latency_p95_ms": evaluation.tail_ms("student", 95),
        "max_size_bytes": student.size_bytes,
        "max_peak_memory_bytes": student.peak_memory_bytes,
        "min_agreement": agreement.all_rows.value if agreement else None,
        "max_kl_from_teacher": student.kl_mean,
        "min_kl_gain_over_baseline": kl_gain.value if kl_gain else None,
        "min_gain_over_baseline_points": gain.value if gain else None,
    }
    checks = _of_teacher(evaluation, allowed=settings.allow_weak_teacher)
    for field in measured:
        threshold = getattr(settings, field)
        if threshold is None:
            continue
        bound, _, name = field.partition("_")
        value = measured[field]
        within = value is not None and (value >= threshold if bound == "min" else value <= threshold)
        sign = ">=" if bound == "min" else "<="
        checks.append(Check(name=name, required=f"{sign} {threshold:g}", measured=value, passed=within))
    passed = all(check.passed for check in checks)
    return GateRecord(passed=passed, checks=checks, weak_teacher=weak_teacher(evaluation))


def _of_teacher(evaluation: EvaluateRecord, *, allowed: bool) -> list[Check]:
    """Whether the teacher is worth following at all: for each metric the strongest of what it must be better than.

    A student can keep all of what a useless teacher knows, and every threshold that is relative to it.
    """
    checks = []
    for metric in dict.fromkeys(reference.metric for reference in evaluation.references):
        low = metric == "perplexity"
        of_metric = [reference for reference in evaluation.references if reference.metric == metric]
        strongest = (min if low else max)(of_metric, key=lambda reference: reference.value)
        sign, side = ("<", "below") if low else (">", "above")
        weak = not strongest.beaten
        checks.append(
            Check(
                name=f"teacher_{metric}_{side}_floor",
                required=f"{sign} {digits(strongest.value)} ({strongest.name})"
                + (", allowed by allow_weak_teacher" if weak and allowed else ""),
                measured=strongest.teacher,
                passed=allowed or not weak,
            )
        )
    return checks
