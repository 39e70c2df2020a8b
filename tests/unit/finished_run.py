"""The records of a run that never was, with texts that try to become markup, for the tests of what is shown."""

import math
from typing import Any, Literal

from potstill.evaluation.artefact_sections import artefact_section
from potstill.evaluation.card import card_of
from potstill.evaluation.sections import comparison_sections, detail_sections, page_words
from potstill.records import (
    AdaptRecord,
    Agreement,
    Artefact,
    AttackExample,
    Attacks,
    CalibrationRecord,
    Check,
    ClassRow,
    Comparison,
    Detection,
    Disagreement,
    Estimate,
    EvaluateRecord,
    ExportRecord,
    FinishedRun,
    Floor,
    GateRecord,
    LabelRecord,
    Measurement,
    ModelAttack,
    ModelEvaluation,
    ModelRobustness,
    OutOfDomain,
    OutOfDomainScores,
    PerturbedScores,
    PlanRecord,
    Reference,
    RegressionRow,
    RegressionsRecord,
    ReliabilityBin,
    Robustness,
    ScoreHistogram,
    SeverityScores,
    ShapeRecord,
    SliceRow,
    SplitCounts,
    TrainRecord,
)

HOSTILE = (
    "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} \x00\x1b[31m \u202egnp.exe 🦊 | `code` ```\n"
    "<img src=http://example.invalid/x onerror=alert(1)> $\\frac{1}{2}$ ]]> --> ' \""
)
RECIPE = f"""\
# {HOSTILE.splitlines()[0].replace(chr(0), "").replace(chr(27), "")}
task:
  kind: text_classification
  max_length: 64
teacher:
  model: pkg:some_package/model
losses:
- kind: soft_targets
- kind: hard_labels
"""
SECTIONS = (
    "findings",
    "comparison",
    "gate",
    "trade-off",
    "significance",
    "calibration",
    "classes",
    "slices",
    "regressions",
    "disagreements",
    "robustness",
    "adversarial",
    "out-of-domain",
    "training",
    "times",
    "done",
    "recipe",
    "environment",
)


def model(accuracy: float, latency: float, parameters: int) -> ModelEvaluation:
    return ModelEvaluation(
        accuracy=accuracy,
        accuracy_interval=Estimate(value=accuracy, low=accuracy - 0.017, high=accuracy + 0.016),
        macro_f1=accuracy - 0.03,
        macro_f1_interval=Estimate(value=accuracy - 0.03, low=accuracy - 0.052, high=accuracy - 0.01),
        cross_entropy=0.71,
        expected_calibration_error=0.043,
        latency_p50_ms=latency,
        latency_p95_ms=2.1 * latency,
        latency_p99_ms=2.6 * latency,
        throughput_per_s=1300 / latency,
        peak_memory_bytes=430_000_000,
        size_bytes=4 * parameters,
        num_parameters=parameters,
        num_parameters_without_embeddings=parameters // 3,
    )


def shape(layers: int, width: int) -> ShapeRecord:
    return ShapeRecord(
        family="bert",
        layers=layers,
        width=width,
        heads=width // 32,
        intermediate=4 * width,
        vocabulary=30522,
        classes=45,
        parameters=22_730_000,
        embedding_parameters=11_900_000,
    )


def split(rows: int, labelled: int) -> SplitCounts:
    return SplitCounts(
        read=rows + 12,
        rows=rows,
        labelled=labelled,
        truncated=rows // 5,
        blank_dropped=0,
        duplicates_dropped=10,
        near_copies_dropped=2,
        fingerprint="f" * 64,
    )


def trained(best: float) -> TrainRecord:
    return TrainRecord(
        digest="d" * 64,
        initial_digest="e" * 64,
        steps=2430,
        planned_steps=2430,
        best_step=2250,
        best_validation_loss=best,
        best_validation_accuracy=0.84,
        stopped_early=False,
        train_rows=7766,
        labelled_rows=1000,
    )


def gate(passed: bool) -> GateRecord:
    return GateRecord(
        passed=passed,
        checks=[
            Check(name="min_retention", required=">= 0.95", measured=0.974 if passed else 0.931, passed=passed),
            Check(name="min_speedup", required=">= 5.0", measured=7.14, passed=True),
            Check(
                name="min_agreement",
                required=">= 0.92",
                measured=0.934 if passed else None,
                passed=passed,
                why=None if passed else "the recipe leaves it out <b>",
            ),
        ],
    )


def around(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.04)


def robustness(hostile: str, *, lost: Estimate | None = None, rows: int = 300) -> Robustness:
    """Two models on texts that were changed in two ways, and attacked."""

    def of(mild: float, strong: float, *, student: bool) -> ModelRobustness:
        agreement = around(0.85) if student else None
        shares = [("ocr", 1, mild), ("ocr", 3, strong), ("case", 1, mild), ("case", 3, strong)]
        return ModelRobustness(
            clean_accuracy=around(0.8),
            robust_accuracy=around((mild + strong) / 2),
            kept=around((mild + strong) / 1.6),
            kept_over_teacher_points=(lost or Estimate(value=-9, low=-12, high=1)) if student else None,
            robust_agreement=agreement,
            by_severity=[
                SeverityScores(severity=severity, accuracy=around(0.8 * kept), kept=around(kept))
                for severity, kept in ((1, mild), (3, strong))
            ],
            perturbed=[
                PerturbedScores(
                    perturbation=name,
                    severity=each,
                    accuracy=around(0.8 * kept),
                    kept=around(kept),
                    agreement=agreement,
                )
                for name, each, kept in shares
            ],
        )

    attack = ModelAttack(
        attacked=40, succeeded=10, success_rate=around(0.25), mean_queries=81.5, mean_changed_words=0.11
    )
    example = AttackExample(id=hostile, model="student", truth=hostile, answer=hostile, before=hostile, after=hostile)
    return Robustness(
        rows=rows,
        models={"teacher": of(0.9, 0.7, student=False), "student": of(0.8, 0.6, student=True)},
        attacks=Attacks(
            rows=50,
            queries=200,
            max_changed_words=0.2,
            models={"teacher": attack, "student": attack},
            examples=[example],
        ),
    )


def out_of_domain(hostile: str) -> OutOfDomain:
    histogram = ScoreHistogram(
        edges=[0.0, 0.25, 0.5, 0.75, 1.0], in_domain=[10, 40, 150, 1800], out_of_domain=[20, 140, 100, 40]
    )
    found = Detection(auroc=around(0.91), fpr95=around(0.4), histogram=histogram)
    scores = OutOfDomainScores(max_probability=found, energy=found, confident=around(0.12))
    return OutOfDomain(source=hostile, rows=300, test_rows=2000, models={"teacher": scores, "student": scores})


def evaluation(*, with_baseline: bool, hostile: str = HOSTILE) -> EvaluateRecord:
    models = {"teacher": model(0.834, 10.0, 22_730_000), "student": model(0.812, 1.4, 7_050_000)}
    comparisons = [comparison("student", "teacher", -2.2, 0.0004)]
    if with_baseline:
        models["baseline"] = model(0.741, 1.41, 7_050_000)
        comparisons += [comparison("student", "baseline", 7.1, 1e-12), comparison("baseline", "teacher", -9.3, 1e-14)]
    names = [hostile, *(f"licence-{number}" for number in range(44))]
    return EvaluateRecord(
        primary_metric="accuracy",
        test_rows=2000,
        robustness=robustness(hostile),
        out_of_domain=out_of_domain(hostile),
        models=models,
        retention=Estimate(value=0.974, low=0.958, high=0.989),
        drop_points=Estimate(value=2.2, low=0.9, high=3.5),
        speedup=7.14,
        throughput_ratio=7.0,
        size_ratio=3.2,
        gain_over_baseline_points=Estimate(value=7.1, low=5.4, high=8.8) if with_baseline else None,
        agreement={
            name: Agreement(
                all_rows=Estimate(value=0.934, low=0.923, high=0.944),
                teacher_wrong=0.72,
                teacher_wrong_rows=332,
                kl_from_teacher=0.184,
            )
            for name in models
            if name != "teacher"
        },
        comparisons=comparisons,
        floors={
            "student_labels": Floor(labelled_rows=1000, accuracy=0.655, macro_f1=0.601, margin=points(15.7)),
            "teacher_labels": Floor(labelled_rows=4600, accuracy=0.792, macro_f1=0.764, margin=points(4.2)),
        },
        references=[
            Reference(name="TF-IDF", metric="accuracy", value=0.792, teacher=0.834, margin=points(4.2)),
            Reference(name="guessing a class", metric="accuracy", value=1 / 45, teacher=0.834, margin=points(81.2)),
        ],
        classes=[
            ClassRow(
                label=name,
                rows=20 + number,
                teacher_accuracy=None if number == 3 else 0.9,
                student_accuracy=None if number == 3 else 0.6 + (number % 13) / 40,
                baseline_accuracy=0.7 if with_baseline else None,
            )
            for number, name in enumerate(names)
        ],
        disagreements=[
            Disagreement(
                id=f"row-{number} {hostile}",
                text=(hostile + " word") * (1 + 9 * number),
                truth="mit",
                teacher="mit" if number % 2 else "bsd-new",
                student="gpl-2.0-plus" if number % 2 else "mit",
                baseline="mit" if with_baseline else None,
            )
            for number in range(4)
        ],
        measurement=Measurement(threads=1, device="cpu", rows=200, rounds=2, warmup=20, batch_size_throughput=32),
        findings=[
            "The student gains 7.1 points (5.4 to 8.8) over the same model trained without the teacher.",
            f"The class that loses most is {hostile}.",
        ],
        calibration={name: calibration(name, hostile) for name in models},
        slices=[
            SliceRow(
                by=by,
                field=f"origin {hostile}" if by == "field" else None,
                name=f"{by} {hostile}",
                rows=rows,
                small=rows < 30,
                teacher_accuracy=0.9,
                student_accuracy=0.81,
                baseline_accuracy=0.7 if with_baseline else None,
                drop_points=points(9.0),
            )
            for by, rows in SLICES
        ],
        regressions=RegressionsRecord(
            lost=105,
            gained=61,
            rows=[
                RegressionRow(
                    id=f"lost-{number} {hostile}",
                    text=hostile * (1 + number),
                    truth=f"mit {hostile}",
                    teacher=f"mit {hostile}",
                    student=f"gpl {hostile}",
                    baseline="gpl" if with_baseline else None,
                    teacher_confidence=None if number else 0.83,
                    student_confidence=None if number else 0.97,
                    slice=None if number else f"class: {hostile}",
                )
                for number in range(2)
            ],
        ),
    )


SLICES: tuple[tuple[Literal["class", "length", "field"], int], ...] = (("class", 400), ("field", 90), ("length", 7))


def calibration(model: str, hostile: str) -> CalibrationRecord:
    """Of the baseline none is used."""

    def bins(*accuracies: float) -> list[ReliabilityBin]:
        return [
            ReliabilityBin(
                above=number / 15,
                up_to=(number + 1) / 15,
                decisions=100 * number,
                confidence=(number + 0.5) / 15,
                accuracy=accuracy,
                low=accuracy - 0.04,
                high=accuracy + 0.03,
            )
            for number, accuracy in zip((6, 9, 14), accuracies, strict=False)
        ]

    if model == "baseline":
        return CalibrationRecord(temperature=None, decisions=12, reason=f"too few {hostile}", bins=bins(0.3, 0.4, 0.8))
    calibrated = bins(0.41, 0.62)
    return CalibrationRecord(temperature=1.75, decisions=500, bins=bins(0.3, 0.5, 0.9), bins_calibrated=calibrated)


def points(difference: float) -> Estimate:
    return Estimate(value=difference, low=difference - 1.3, high=difference + 1.2)


def comparison(of: str, against: str, difference: float, p: float) -> Comparison:
    return Comparison(
        of=of,
        against=against,
        accuracy_points=points(difference),
        macro_f1_points=Estimate(value=difference - 1, low=difference - 3.1, high=difference + 1.4),
        only_of_right=61,
        only_against_right=105,
        mcnemar_p=p,
    )


def metrics(*, with_baseline: bool) -> dict[str, list[dict[str, Any]]]:
    def lines(start: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for step in range(1, 2431):
            done = step / 2430
            loss = start * math.exp(-4 * done) + 0.3 + 0.2 * math.sin(step * 1.7)
            found.append(
                {
                    "kind": "step",
                    "step": step,
                    "loss": loss,
                    "soft_targets": loss / 2,
                    "hard_labels": loss / 3,
                    "soft_targets.temperature": 4 - 3 * done,
                    "soft_targets.weight": 0.7 - 0.2 * done,
                    "hard_labels.weight": 0.3 + 0.2 * done,
                    "learning_rate": 1e-3 * min(done * 10, (1 - done) / 0.9),
                    "gradient_norm": 1.0,
                    "seconds": 0.08 + 0.001 * (step % 7),
                    "rows_per_s": 400.0 - step % 7,
                    "memory_bytes": 500_000_000,
                }
            )
            if step % 250 == 0:
                loss, accuracy = 0.6 + math.exp(-5 * done), 0.84 - math.exp(-5 * done)
                found.append(
                    {"kind": "validation", "step": step, "validation_loss": loss, "validation_accuracy": accuracy}
                )
        return found

    return {"student": lines(6.0)} | ({"baseline": lines(3.0)} if with_baseline else {})


def inputs(*, passed: bool = True, with_baseline: bool = True, hostile: str = HOSTILE) -> dict[str, Any]:
    artefact = Artefact(
        kind="safetensors", folder="export/x", size_bytes=28_200_000, max_logit_difference=0.0, passed=True
    )
    run = FinishedRun(
        plan=PlanRecord(
            labels=[hostile, "mit", "bsd-new"],
            splits={
                "train": split(7766, 1000),
                "validation": split(500, 500),
                "test": split(2000, 2000),
                "adapt": split(4600, 4600),
            },
            teacher=shape(6, 384),
            student=shape(2, 192),
            steps=2430,
            adapt_steps=864,
            label_store_bytes=1_400_000,
            disk_bytes=400_000_000,
            disk_free_bytes=20_000_000_000,
            warnings=[f"21 % of the texts are cut off. {hostile}"],
        ),
        adapt=AdaptRecord(
            adapted=True,
            location="model",
            digest="a" * 64,
            steps=864,
            best_step=576,
            best_validation_loss=0.702,
            best_validation_accuracy=0.84,
        ),
        label=LabelRecord(rows=8266, content_digest="c" * 64, size_bytes=1_400_000, rows_per_s=88.4),
        student=trained(0.688),
        baseline=trained(0.921) if with_baseline else None,
        evaluation=evaluation(with_baseline=with_baseline, hostile=hostile),
        gate=gate(passed),
        export=ExportRecord(skipped=not passed, artefacts=[artefact] if passed else []),
    )
    return {
        "run": run,
        "title": f"Which licence? {hostile}",
        "recipe_yaml": RECIPE,
        "metrics": metrics(with_baseline=with_baseline),
        **sections(run.evaluation, run.export),
        "seconds": [("plan", 0.4), ("adapt", 412.0), ("label/teacher/logits", 93.6), ("train/student", 3723.0)],
        "environment": {"python": "3.11.9", "processor": f"two cores {hostile}"},
    }


def sections(found: EvaluateRecord, export: ExportRecord) -> dict[str, Any]:
    """What the page is given of an evaluation and of what was exported."""
    return {
        "words": page_words(found),
        "comparison": comparison_sections(found),
        "artefacts": artefact_section(export, found),
        "details": detail_sections(found),
    }


def card_inputs(**choices: Any) -> dict[str, Any]:
    found = inputs(**choices)
    for name in ("metrics", "seconds", "comparison", "artefacts", "details"):
        del found[name]
    run = found["run"]
    return found | {"card": card_of(run.evaluation, run.plan, {"max_length": 64}, "pkg:some_package/model")}
