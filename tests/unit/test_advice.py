"""What a verdict says beside passed or failed: figures in the units that were asked for, why a figure is missing, what
would have to change, and who else would pass."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from potstill.evaluation.answers import CAME, estimate
from potstill.evaluation.as_student import as_student, in_place_of_student, others
from potstill.evaluation.evaluate import ratios
from potstill.presentation.formats import measured as shown
from potstill.presentation.page import render_html, render_model_card
from potstill.presentation.terminal import verdict_lines
from potstill.recipe import GateSettings
from potstill.records import Estimate, EvaluateRecord, GateRecord, ModelEvaluation
from potstill.stages.gate import judge
from tests.unit.finished_run import card_inputs, comparison, evaluation, inputs


def found(**changes: Any) -> EvaluateRecord:
    return evaluation(with_baseline=changes.pop("with_baseline", True)).model_copy(update=changes)


def verdict_of(evaluation: EvaluateRecord | None = None, **requirements: Any) -> GateRecord:
    return judge(GateSettings(min_retention=None, **requirements), evaluation or found())


@pytest.mark.parametrize(
    ("requirement", "figure"),
    [
        ({"size_bytes": "<= 30 MB"}, "28.2 MB"),
        ({"size_bytes": "<= 30 MiB"}, "26.89 MiB"),
        ({"size_bytes": "<= 30000 kB"}, "28,200 kB"),
        ({"size_bytes": "<= 3e7"}, "28,200,000"),
        ({"latency_p50_ms": "<= 0.002 s"}, "0.0014 s"),
        ({"latency_p50_ms": "<= 2 ms"}, "1.4 ms"),
        ({"accuracy": ">= 80 %"}, "81.2 %"),
        ({"accuracy": ">= 0.8"}, "0.812"),
        ({"speedup": ">= 7x"}, "7.14x"),
        ({"throughput_per_s": ">= 900 /s"}, "928.6/s"),
        ({"gain_over_baseline_points": "> 0 points (95%)"}, "7.1 points, at least 5.4 points (95 %)"),
        ({"drop_points": "<= 4 points (95%)"}, "2.2 points, at most 3.5 points (95 %)"),
        ({"accuracy": ">= 70 % (95%)"}, "81.2 %, at least 79.5 % (95 %)"),
        ({"max_size_bytes": 3e7}, "28,200,000"),
    ],
)
def test_a_figure_is_shown_in_the_unit_of_its_threshold(requirement: dict[str, Any], figure: str) -> None:
    verdict = verdict_of(**requirement)
    check = verdict.checks[-1]
    assert (shown(check), check.passed) == (figure, True)
    assert verdict.advice == [] and verdict.would_pass == []
    # Records say nothing of what there is nothing to say of.
    assert not {"advice", "would_pass", "degenerate"} & set(verdict.model_dump())


@pytest.mark.parametrize(
    ("requirement", "sentence"),
    [
        ({"latency_p50_ms": "<= 1.1 ms"}, "Median latency: 0.3 ms more than the 1.1 ms allowed."),
        ({"latency_p50_ms": "<= 0.001 s"}, "Median latency: 0.0004 s more than the 0.001 s allowed."),
        ({"latency_p50_ms": "< 1"}, "Median latency: 0.4 ms more than the 1 ms allowed."),
        ({"size_bytes": "<= 20 MB"}, "Size of the weights: 8.2 MB more than the 20 MB allowed."),
        ({"max_size_bytes": 2e7}, "Size of the weights: 8.2 MB more than the 20.0 MB allowed."),
        ({"accuracy": ">= 92 %"}, "Accuracy: 10.8 points less than the 92 % required."),
        ({"accuracy": ">= 0.9205"}, "Accuracy: 10.8 points less than the 92.05 % required."),
        ({"speedup": ">= 8"}, "Speed-up: 0.86x less than the 8x required."),
        ({"throughput_per_s": ">= 2e4"}, "Throughput: 19,071/s less than the 20,000/s required."),
        ({"ece": "<= 0.04"}, "Calibration error: 0.003 more than the 0.04 allowed."),
        ({"cross_entropy": "<= 0.5 nats"}, "Cross-entropy: 0.21 nats more than the 0.5 nats allowed."),
        ({"drop_points": "< 2.2"}, "Drop: exactly 2.2 points, and it must be below that."),
        ({"speedup": "> 7.14x"}, "Speed-up: exactly 7.14x, and it must be above that."),
        (
            {"gain_over_baseline_points": "> 8 (95%)"},
            "Gain over the baseline: 0.9 points less than the 8 points required; the value itself misses it, so more "
            "rows would not help.",
        ),
    ],
)
def test_a_miss_is_told_in_its_unit(requirement: dict[str, Any], sentence: str) -> None:
    verdict = verdict_of(**requirement)
    assert not verdict.passed and verdict.advice == [sentence]


def test_how_many_rows_a_bound_would_need() -> None:
    """The distance from a value to its bound shrinks with the root of the rows: 1.7 points must become 0.1 or 1.1."""
    (line,) = verdict_of(gain_over_baseline_points="> 6 (95%)").advice
    assert line == (
        "Gain over the baseline: its value, 7.1 points, is > 6 points, and its 95 % bound, 5.4 points, is not; if the "
        "value stays, about 4,800 test rows would do in place of 2,000 (data.test)."
    )
    assert round(2000 * (1.7 / 1.1) ** 2) == 4777
    (line,) = verdict_of(drop_points="<= 2.3 (95%)").advice
    assert "about 340,000 test rows would do in place of 2,000" in line
    assert round(2000 * (1.3 / 0.1) ** 2) == 338_000
    (line,) = verdict_of(drop_points="<= 2.2 (95%)").advice
    assert line.endswith("it is the threshold itself, so no number of rows would do.")
    # The bound is the one-sided one where there is one.
    gain = Estimate(value=7.1, low=5.0, high=9, at_least=5.4, at_most=8.8)
    (line,) = verdict_of(found(gain_over_baseline_points=gain), gain_over_baseline_points="> 6 (95%)").advice
    assert "about 4,800 test rows" in line


def test_what_is_over_prompts_needs_more_prompts() -> None:
    scores = {"repeated_ngrams": Estimate(value=0.1, low=0.05, high=0.3)}
    models = {name: each.model_copy(update={"scores": scores}) for name, each in found().models.items()}
    record = found(models=models, primary_metric="token_accuracy", written_prompts=32, test_rows=5)
    (line,) = verdict_of(record, repeated_ngrams="<= 20 % (95%)").advice
    assert line.endswith("about 130 prompts would do in place of 32 (evaluate.written).")
    few = verdict_of(record.model_copy(update={"written_prompts": 5}), repeated_ngrams="<= 20 % (95%)")
    assert (
        few.checks[-1].why
        == "nothing of fewer than 6 prompts holds with 95 % confidence, and there are 5 (evaluate.written)"
    )
    assert few.checks[-1].measured == 0.1 and shown(few.checks[-1]).startswith("10 %, but nothing of fewer")


@pytest.mark.parametrize(
    ("record", "requirement", "why"),
    [
        (
            {"with_baseline": False},
            {"gain_over_baseline_points": "> 0"},
            "it is measured against the baseline, which train.baseline: false leaves out",
        ),
        ({}, {"perplexity": "<= 3"}, "models that answer with a class have no perplexity"),
        (
            {"measurement": evaluation(with_baseline=True).measurement.model_copy(update={"rows": 99})},
            {"latency_p95_ms": "<= 9"},
            "a 95th percentile needs 100 queries, and 99 were timed",
        ),
        ({}, {"latency_p99_ms": "<= 9"}, "a 99th percentile needs 662 queries, and 200 were timed"),
        (
            {},
            {"ece": "<= 1 (95%)"},
            "calibration error is measured without an interval, so nothing of it holds with 95 % confidence",
        ),
        (
            {"test_rows": 5},
            {"ece": "<= 1 (95%)"},
            "calibration error is measured without an interval, so nothing of it holds with 95 % confidence",
        ),
        (
            {"test_rows": 5},
            {"accuracy": ">= 0 (95%)"},
            "nothing of fewer than 6 test rows holds with 95 % confidence, and there are 5 (data.test)",
        ),
        (
            {"primary_metric": "token_accuracy"},
            {"ended": ">= 0.5"},
            "evaluate.written is 0, so nothing of what models write was measured",
        ),
        ({"primary_metric": "token_accuracy"}, {"perplexity": "<= 3"}, "the measurements of this run do not have it"),
    ],
)
def test_what_was_not_measured_fails_and_says_why(
    record: dict[str, Any], requirement: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = verdict_of(found(**record), **requirement)
    check = verdict.checks[-1]
    assert not check.passed and check.why == why
    assert len(verdict.advice) == 1 and why in verdict.advice[0]
    assert ("was not measured: " in verdict.advice[0]) is (check.measured is None)
    verdict_lines(verdict)
    assert " ".join(capsys.readouterr().out.split()).count(why) == 2
    assert GateRecord.model_validate_json(verdict.model_dump_json(exclude={"fingerprint"})).checks[-1].why == why


def test_a_model_in_the_students_place_has_what_the_student_had() -> None:
    """All that an evaluation makes of two models and their resamples, from their records alone; but for the interval of
    a ratio."""
    record = consistent(("teacher", "student", "baseline"))
    again = as_student(record, "student")
    for name in ("drop_points", "gain_over_baseline_points"):
        for end in ("value", "low", "high", "at_least", "at_most"):
            assert getattr(getattr(again, name), end) == pytest.approx(getattr(getattr(record, name), end)), (name, end)
    for name in (
        "speedup",
        "speedup_in_own_types",
        "throughput_ratio",
        "size_ratio",
        "size_ratio_in_float32",
        "agreement",
    ):
        expected = getattr(record, name)
        assert getattr(again, name) == ({"student": expected["student"]} if name == "agreement" else expected)
    assert again.retention.value == pytest.approx(record.retention.value) and not again.retention.known


def test_the_baseline_in_the_students_place() -> None:
    record = consistent(("teacher", "student", "baseline"))
    other = as_student(record, "baseline")
    baseline, teacher = record.models["baseline"], record.models["teacher"]
    assert other.models["student"] == baseline and other.models["teacher"] == teacher
    assert other.drop_points.value == pytest.approx(100 * (score(teacher) - score(baseline)))
    assert other.drop_points.known and other.drop_points.at_least is not None
    assert other.drop_points.low <= other.drop_points.at_least < other.drop_points.value < other.drop_points.high
    assert other.retention.value == pytest.approx(score(baseline) / score(teacher))
    assert other.speedup == teacher.latency_p50_ms / baseline.latency_p50_ms
    assert other.size_ratio == teacher.size_bytes / baseline.size_bytes
    assert other.gain_over_baseline_points == Estimate(value=0, low=0, high=0, at_least=0, at_most=0)
    assert other.kl_gain_over_baseline is other.loss_gain_over_baseline is None, "a classifier has no such thing"
    assert other.agreement == {"student": record.agreement["baseline"]}
    assert {(each.of, each.against) for each in other.comparisons} == {("student", "teacher")}
    without = as_student(found(with_baseline=False), "student")
    assert without.gain_over_baseline_points is without.kl_gain_over_baseline is None


OTHER_TEXTS = {
    "robust_accuracy": lambda e, name: e.robustness.models[name].robust_accuracy,
    "robust_agreement": lambda e, name: e.robustness.models[name].robust_agreement,
    "attack_success_rate": lambda e, name: e.robustness.attacks.models[name].success_rate,
    "ood_auroc": lambda e, name: e.out_of_domain.models[name].max_probability.auroc,
    "ood_fpr95": lambda e, name: e.out_of_domain.models[name].max_probability.fpr95,
}


@pytest.mark.parametrize("name", list(OTHER_TEXTS))
def test_on_other_texts_a_model_has_its_own_figures_or_none(name: str) -> None:
    record = consistent(("teacher", "student", "baseline", "generation-1"))
    # Of the baseline are those that the teacher has; of an earlier round are none.
    assert record.robustness is not None and record.robustness.attacks is not None and record.out_of_domain is not None

    def with_baseline(part: Any) -> Any:
        return part.model_copy(update={"models": part.models | {"baseline": part.models["teacher"]}})

    attacks = with_baseline(record.robustness.attacks)
    outside = with_baseline(record.out_of_domain)
    robust = with_baseline(record.robustness).model_copy(update={"attacks": attacks})
    record = record.model_copy(update={"robustness": robust, "out_of_domain": outside})
    settings = GateSettings(min_retention=None, require={name: "<= 1"})
    for model, place in (("student", "student"), ("baseline", "teacher")):
        check = judge(settings, as_student(record, model)).checks[-1]
        expected = OTHER_TEXTS[name](record, place)
        assert check.measured == (expected and expected.value)
    form = in_place_of_student(record, record.models["student"])
    for none in (as_student(record, "generation-1"), form):
        check = judge(settings, none).checks[-1]
        assert not check.passed and check.measured is None
        assert check.why == "it was measured of other models of the run, and not of this one"
    # Where it was measured of none, that is said.
    nothing = form.model_copy(update={"robustness": None, "out_of_domain": None})
    assert judge(settings, nothing).checks[-1].why == "the measurements of this run do not have it"


def test_what_is_not_compared_row_by_row_holds_with_no_confidence() -> None:
    record = consistent(("teacher", "student", "baseline", "generation-1"))
    other = as_student(record, "generation-1")
    assert other.drop_points.value == pytest.approx(
        100 * (score(record.models["teacher"]) - score(other.models["student"]))
    )
    settings = GateSettings(min_retention=None, drop_points="<= 90 (95%)")
    check = judge(settings, other).checks[-1]
    assert not check.passed and check.bound is None
    assert check.why == "it was not compared row by row, so its interval is not known"
    assert judge(GateSettings(min_retention=None, max_drop_points=90), other).passed
    # An artefact comes with its own comparisons, whatever they call it.
    pairs = [comparison("model.gguf", "teacher", -2.0, 0.1), comparison("model.gguf", "baseline", 4.0, 0.1)]
    made = in_place_of_student(record, record.models["student"], pairs, record.agreement["student"])
    assert (made.drop_points.value, made.drop_points.low, made.drop_points.high) == (2.0, 0.8, 3.3)
    assert made.gain_over_baseline_points == pairs[1].accuracy_points
    assert {each.of for each in made.comparisons} == {"student"}


def test_gains_of_a_language_model_are_against_the_baseline_and_the_start() -> None:
    kls = {"teacher": None, "student": 0.4, "baseline": 0.9, CAME: 0.7}
    record = consistent(tuple(kls))
    models = {
        name: each.model_copy(update={"kl_mean": kls[name], "perplexity": 2.0, "cross_entropy": 1 + (kls[name] or 0)})
        for name, each in record.models.items()
    }
    record = record.model_copy(update={"models": models, "initial_kl_mean": 3.0})
    for name, gains in (("student", (0.5, 0.5, 2.6)), (CAME, (0.2, 0.2, 2.3)), ("baseline", (0.0, 0.0, 2.1))):
        other = as_student(record, name)
        values = (other.kl_gain_over_baseline, other.loss_gain_over_baseline, other.kl_gain_over_start)
        assert [each.value for each in values if each] == pytest.approx(gains)
        assert [each.known for each in values if each] == [name == "baseline"] * 2 + [False]


def test_who_else_would_pass_is_a_student_and_no_teacher() -> None:
    record = consistent(("teacher", "student", "baseline", "generation-1", "generation-2", CAME, "anna"))
    assert others(record) == ["baseline", "generation-1", "generation-2", CAME]
    # In this record each has a little more than the one before.
    scores = {name: score(each) for name, each in record.models.items()}
    threshold = (scores["generation-1"] + scores["generation-2"]) / 2
    verdict = judge(GateSettings(min_retention=None, accuracy=f">= {threshold}"), record)
    assert not verdict.passed and verdict.would_pass == ["generation-2", CAME]
    assert verdict.advice[-1] == f"'generation-2' and {CAME!r} would pass every check in the student's place."
    both = judge(GateSettings(min_retention=None, accuracy=f">= {threshold}", max_size_bytes=1), record)
    assert both.would_pass == [] and len(both.advice) == 2
    assert judge(GateSettings(min_retention=None, accuracy=">= 0"), record).would_pass == []
    low = judge(GateSettings(min_retention=None, accuracy=f"> {scores['student']}", speedup="> 0x"), record)
    assert low.advice[-1].startswith("The baseline and 'generation-1' and")


def test_page_card_and_terminal_say_what_would_have_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verdict_of(size_bytes="<= 20 MB", perplexity="<= 3")
    assert len(verdict.advice) == 2
    verdict_lines(verdict)
    printed = " ".join(capsys.readouterr().out.split())
    assert "FAIL size_bytes <= 20 MB: 28.2 MB" in printed
    assert all(f"to pass: {line}" in printed for line in verdict.advice)
    given, card = inputs(passed=False), card_inputs(passed=False)
    page = render_html(**given | {"run": replace(given["run"], gate=verdict)})
    text = render_model_card(**card | {"run": replace(card["run"], gate=verdict)})
    assert "What would have to change" in page and "size bytes (required &lt;= 20 MB, measured 28.2 MB)" in page
    for line in verdict.advice:
        assert f"<li>{line}</li>" in page and f"  - {line}" in text
    hostile = verdict.model_copy(update={"advice": ["<script>x</script>\n# y"]})
    page = render_html(**given | {"run": replace(given["run"], gate=hostile)})
    text = render_model_card(**card | {"run": replace(card["run"], gate=hostile)})
    assert "<script>x" not in page and "<script>x" not in text and "\n# y" not in text


def score(model: ModelEvaluation) -> float:
    assert model.accuracy is not None
    return model.accuracy


def consistent(names: tuple[str, ...]) -> EvaluateRecord:
    """A record whose figures are made of the same resamples, as a real one's are; each model is a little better, larger
    and slower than the one before, but for the teacher."""
    draw = np.random.default_rng(0)
    record = evaluation(with_baseline=True)
    scores, models = {}, {}
    for number, name in enumerate(names):
        at = 0.9 if name == "teacher" else 0.6 + 0.02 * number
        scores[name] = np.concatenate([[at], at + 0.01 * draw.standard_normal(400)])
        each = record.models["student"].model_copy(
            update={
                "accuracy": at,
                "accuracy_interval": Estimate(value=at, low=at - 0.1, high=at + 0.1),
                "latency_p50_ms": 10.0 if name == "teacher" else 1.0 + number,
                "own_type_latency_p50_ms": 7.0 if name == "teacher" else None,
                "throughput_per_s": 100.0 * (number + 1),
                "size_bytes": 1000 if name == "teacher" else 100 + number,
                "num_parameters": 250 if name == "teacher" else 25 + number,
            }
        )
        models[name] = ModelEvaluation.model_validate(json.loads(each.model_dump_json()))

    def against(of: str, other: str) -> Any:
        pair = comparison(of, other, 0.0, 0.5)
        return pair.model_copy(update={"accuracy_points": estimate(100 * (scores[of] - scores[other]))})

    pairs = [against("student", "teacher")]
    if "baseline" in names:
        pairs += [against("student", "baseline"), against("baseline", "teacher")]
    pairs += [against("student", name) for name in names if name not in ("teacher", "student", "baseline")]
    gain = pairs[1].accuracy_points if "baseline" in names else None
    return record.model_copy(
        update={"models": models, "comparisons": pairs, **ratios(models, scores, gain)},
    )
