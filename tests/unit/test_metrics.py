"""The registry of metrics: names, directions, and what a gate may require of which kind of answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from potstill.cli import app
from potstill.errors import RecipeError
from potstill.evaluation import metrics
from potstill.evaluation.evaluate import _REQUIRED, model_evaluation
from potstill.evaluation.judges import JUDGES
from potstill.evaluation.metrics import FEWEST_ROWS, METRICS, Metric, Unit, computed_for, metric, metric_for, names_for
from potstill.evaluation.queries import require_measurable, thresholds_upside_down
from potstill.evaluation.tables import quantities
from potstill.evaluation.wording import WORDING
from potstill.presentation.page import render_html
from potstill.presentation.terminal import verdict_lines
from potstill.progress import Progress
from potstill.recipe import GateSettings
from potstill.recipe.requirements import parse_requirement
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AnswerKind, Estimate, EvaluateRecord, ModelEvaluation
from potstill.run_dir import fingerprint
from potstill.stages.gate import judge
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import make_chat_project
from tests.unit.finished_run import evaluation, inputs

OF_PROBABILITIES = {
    *("ece", "cross_entropy", "brier"),
    *("ece_calibrated", "cross_entropy_calibrated", "brier_calibrated"),
}


def measured(**changes: Any) -> EvaluateRecord:
    return evaluation(with_baseline=True).model_copy(update=changes)


def bounded(value: float, *, at_least: float, at_most: float) -> Estimate:
    return Estimate(value=value, low=at_least - 1, high=at_most + 1, at_least=at_least, at_most=at_most)


def test_each_metric_has_one_name_and_its_place_in_records() -> None:
    names = [each.name for each in METRICS]
    assert len(names) == len(set(names))
    for each in METRICS:
        assert each.stored_as is None or each.stored_as in ModelEvaluation.model_fields, each.name
        # What nobody computes from answers, and lies in no field, is read of the record, or is another's second name.
        assert each.resampled or each.formula or each.stored_as or each.read or each.same_as in names, each.name
        assert each.resampled is None or each.formula is None, each.name
        assert each.resampled or not each.column, each.name
    assert {each.name for each in METRICS if each.better == "lower"} == {
        *("rmse", "rmse_from_teacher", "rms_probability_difference"),
        *("perplexity", "cross_entropy", "kl_from_teacher", "kl_median", "kl_p99", "ece", "drop_points"),
        *("nll", "brier", "ece_calibrated", "cross_entropy_calibrated", "brier_calibrated"),
        *("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "time_to_first_token_ms", "time_per_token_ms"),
        *("peak_memory_bytes", "size_bytes", "num_parameters", "num_parameters_without_embeddings"),
        *("memory_above_floor_bytes", "load_ms", "cost_per_1000", "energy_wh_per_1000"),
        "repeated_ngrams",
        *("attack_success_rate", "ood_fpr95"),
        *("robust_kl", "robust_perplexity", "robust_perplexity_ratio", "unanswerable_kl", "ood_kl", "ood_perplexity"),
    }
    assert {each.name for each in METRICS if each.better is None} == {"response_tokens", "response_length_ratio"}


@pytest.mark.parametrize(
    ("kind", "computed"),
    [
        ("single_label", {"accuracy", "macro_f1", *OF_PROBABILITIES}),
        ("multi_label", {"micro_f1", "accuracy", "macro_f1", *OF_PROBABILITIES}),
        ("regression", {"r2", "spearman", "rmse", "rmse_from_teacher"}),
    ],
)
def test_what_is_computed_of_answers_of_a_kind(kind: AnswerKind, computed: set[str]) -> None:
    assert {each.name for each, _ in computed_for(kind)} == computed


def test_every_kind_has_the_metric_that_it_is_judged_by() -> None:
    primary = {
        "single_label": "accuracy",
        "multi_label": "micro_f1",
        "regression": "r2",
        "tags": "entity_f1",
        "text": "token_accuracy",
        "target": "exact_match",
    }
    assert set(primary) == set(get_args(AnswerKind)) == set(JUDGES) == set(WORDING)
    for kind, name in primary.items():
        assert name in names_for(kind)  # type: ignore[arg-type]
        assert measured(primary_metric=name).answers == kind
    with pytest.raises(KeyError, match="ndcg"):
        _ = measured(primary_metric="ndcg").answers


def test_a_metric_without_an_interval_is_an_entry_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower-is-better one: measured, recorded, read again, shown and judged."""
    new = Metric("slips", "slips", Unit.NUMBER, "lower", title="Slips", formula=lambda answers, model: len(model) / 2)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, new))
    monkeypatch.setattr("potstill.evaluation.tables.METRICS", (*METRICS, new))
    monkeypatch.setitem(metrics._BY_NAME, "slips", new)
    assert [each.name for each, _ in computed_for("single_label")][-1] == "slips"
    old = measured().models["student"].model_dump()
    costs = {name: value for name, value in old.items() if name not in (*_REQUIRED, "scores")}
    values = {model: new.formula_for("single_label")(None, model) for model in measured().models}  # type: ignore[misc]
    model = model_evaluation("student", {"slips": values}, costs)
    model = ModelEvaluation.model_validate_json(model.model_dump_json())
    assert model.scores == {"slips": 3.5}
    models = {name: each.model_copy(update={"scores": model.scores}) for name, each in measured().models.items()}
    row = next(each for each in quantities(measured(models=models)) if each.name == "Slips")
    assert row.values == ["3.5"] * 3
    for required, passed in (("<= 3.5", True), ("< 3.5", False)):
        settings = GateSettings(min_retention=None, require={"slips": required})
        assert judge(settings, measured(models=models)).checks[-1].passed is passed


def test_a_metric_by_name_is_that_one_or_none() -> None:
    model, pair, floor = measured().models["student"], measured().comparisons[0], measured().floors["student_labels"]
    for name in ("accuracy", "token_accuracy"):
        assert model.score(name) == model.accuracy_interval
        assert pair.points(name) == pair.accuracy_points
        assert floor.score(name) == floor.accuracy
    assert model.score("macro_f1") == model.macro_f1_interval
    assert pair.points("macro_f1") == pair.macro_f1_points
    assert floor.score("macro_f1") == floor.macro_f1
    for ask in (model.score, pair.points, floor.score):
        with pytest.raises(KeyError, match="entity_f1"):
            ask("entity_f1")
    with pytest.raises(KeyError, match="slips"):
        model.model_copy(update={"scores": {"slips": 3.5}}).score("slips")


@pytest.mark.parametrize(
    ("name", "passes", "fails"),
    [
        ("accuracy", ">= 0.812", "> 0.812"),
        ("accuracy", "<= 0.812", "< 0.812"),
        ("ece", "<= 0.043", "< 0.043"),
        ("expected_calibration_error", "<= 0.05", "<= 0.04"),
        ("macro_f1", ">= 0.78", ">= 0.79"),
        ("gain_over_baseline_points", "> 7", "> 7.1"),
        ("drop_points", "<= 2.2", "< 2.2"),
        ("latency_p95_ms", "<= 3", "<= 2"),
        ("num_parameters", "<= 1e+07", "<= 7e+06"),
        ("agreement", ">= 0.9", ">= 0.94"),
    ],
)
def test_a_threshold_of_any_metric_in_either_direction(name: str, passes: str, fails: str) -> None:
    for required, expected in ((passes, True), (fails, False)):
        verdict = judge(GateSettings(min_retention=None, require={name: required}), measured())
        _, check = verdict.checks
        assert (check.name, check.required, check.passed, verdict.passed) == (name, required, expected, expected)
        assert check.measured is not None and check.bound is None


@pytest.mark.parametrize(("at_least", "passed"), [(0.1, True), (0.0, False), (-0.1, False)])
def test_what_must_hold_with_confidence_is_judged_by_the_one_sided_bound(at_least: float, passed: bool) -> None:
    """The two-sided interval would refuse all of them: it begins a point lower."""
    gain = bounded(5.0, at_least=at_least, at_most=9.0)
    settings = GateSettings(min_retention=None, require={"gain_over_baseline_points": "> 0 (95%)"})
    check = judge(settings, measured(gain_over_baseline_points=gain)).checks[-1]
    assert (check.measured, check.bound, check.passed) == (5.0, at_least, passed)
    below = GateSettings(min_retention=None, require={"drop_points": "< 4 ( 95 % )"})
    check = judge(below, measured(drop_points=bounded(2.0, at_least=0.0, at_most=3.9))).checks[-1]
    assert (check.required, check.bound, check.passed) == ("< 4 (95%)", 3.9, True)
    assert not judge(below, measured(drop_points=bounded(2.0, at_least=0.0, at_most=4.0))).passed


def test_confidence_of_few_rows_or_of_no_interval_is_none() -> None:
    settings = GateSettings(min_retention=None, require={"gain_over_baseline_points": "> 0 (95%)"})
    gain = bounded(5.0, at_least=4.0, at_most=9.0)
    assert judge(settings, measured(gain_over_baseline_points=gain)).passed
    assert not judge(settings, measured(gain_over_baseline_points=gain, test_rows=5)).passed
    assert not judge(settings, measured(gain_over_baseline_points=None)).passed
    # Of an earlier version, which recorded the two-sided interval alone.
    assert judge(settings, measured(gain_over_baseline_points=Estimate(value=5, low=0.1, high=9))).passed
    assert not judge(settings, measured(gain_over_baseline_points=Estimate(value=5, low=-0.1, high=9))).passed


@pytest.mark.parametrize("text", ["0.9", "=> 0.9", ">= x", ">= 0.9 (90%)", ">= nan", "> 1e999", ">=", "> 0 95%"])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is no requirement\. Write a sign and a number"):
        GateSettings(require={"accuracy": text})


def test_a_requirement_replaces_a_default_and_contradicts_what_was_written() -> None:
    settings = GateSettings(require={"retention": ">= 0.9"})
    assert [str(each) for each in settings.requirements()] == [">= 0.9"]
    # As it stands in the recipe of a run, where every default is written out.
    assert GateSettings.model_validate(settings.model_dump()) == settings
    with pytest.raises(ValidationError, match=r"min_retention and require\.retention are thresholds of the same"):
        GateSettings(min_retention=0.8, require={"retention": ">= 0.9"})


def test_without_requirements_settings_are_those_of_before() -> None:
    assert "require" not in GateSettings().model_dump()
    assert fingerprint(GateSettings()) == fingerprint(GateSettings(require={}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["gate.require={perplexity: '<= 9'}"], "'perplexity' is not measured of this task; there are: accuracy"),
        (["gate.require={acuracy: '>= 0.9'}"], "did you mean accuracy"),
        (["gate.max_kl_from_teacher=2"], "gate.max_kl_from_teacher: 'kl_from_teacher' is not measured of this task"),
        (["gate.require={ece: '<= 0.1 (95%)'}"], "gate.require.ece: calibration error is measured without an interval"),
        (["gate.require={accuracy: '>= 92'}"], "accuracy is a share and never above 1"),
        (["gate.require={accuracy: '> 1'}"], "accuracy is a share and never above 1, so '> 1' tells nothing"),
        (["gate.require={ece: '< 0'}"], "gate.require.ece: calibration error is never below 0, so no student meets"),
        (["gate.require={ece: '<= 5'}"], "calibration error is a share and never above 1, so '<= 5' tells nothing"),
        (["gate.require={size_ratio: '> -1'}"], "gain in size is never below 0, so every student meets '> -1'"),
        (["gate.require={size_bytes: '<= -1'}"], "size of the weights is never below 0"),
        (["gate.require={agreement: '> 1.5 (95%)'}"], "agreement with the teacher is a share and never above 1"),
        (["gate.require={latency_p99_ms: '<= 9'}"], "gate.require.latency_p99_ms: a 99th percentile needs 662 queries"),
        (
            ["gate.min_retention=95"],
            "gate.min_retention: retention is a share and of no student above 2, so '>= 95' tells",
        ),
        (
            ["gate={require: {retention: '>= 95'}}"],
            "gate.require.retention: retention is a share and of no student above 2",
        ),
        *(
            (
                [change, "train.baseline=false"],
                "gain over the baseline is measured against the baseline, which train.base",
            )
            for change in ("gate.min_gain_over_baseline_points=0", "gate.require={gain_over_baseline_points: '> 0'}")
        ),
        *(
            ([f"gate={{{key}: {text}}}"], message)
            for key, text, message in (
                ("accuracy", "'>= 920 %'", "accuracy is a share and never above 1, so '>= 920 %' tells nothing."),
                ("acuracy", "'>= 92 %'", "gate.acuracy: 'acuracy' is not measured of this task; did you mean accuracy"),
                (
                    "size_bytes",
                    "'<= 40 ms'",
                    "gate.size_bytes: size of the weights is not measured in ms. Write it in B",
                ),
                (
                    "latency_p50_ms",
                    "'<= 5 MB'",
                    "gate.latency_p50_ms: median latency is not measured in MB. Write it in ms",
                ),
                ("ece", "'<= 5 nats'", "gate.ece: calibration error is not measured in nats. Write '<= 5'."),
                (
                    "speedup",
                    "'>= 8x (95%)'",
                    "gate.speedup: speed-up is measured without an interval, so nothing of it",
                ),
            )
        ),
        (
            ["gate.require={ood_auroc: '>= 0.8'}"],
            "gate.require.ood_auroc: needs evaluate.out_of_domain, a file of texts",
        ),
        (["gate.require={ood_fpr95: '<= 0.8'}"], "gate.require.ood_fpr95: needs evaluate.out_of_domain"),
        (
            ["gate.require={robust_accuracy: '>= 0.8'}"],
            "gate.require.robust_accuracy: needs evaluate.robustness, which",
        ),
        (["gate.require={robust_agreement: '>= 0.8'}"], "gate.require.robust_agreement: needs evaluate.robustness"),
        *(
            (["gate.require={attack_success_rate: '<= 0.5'}", f"evaluate.robustness={robustness}"], message)
            for robustness, message in (
                (
                    "null",
                    "gate.require.attack_success_rate: needs evaluate.robustness.attacks, the number of test rows",
                ),
                ("{attacks: 0}", "gate.require.attack_success_rate: needs evaluate.robustness.attacks"),
                ("{attacks: 9}", None),
            )
        ),
        (
            ["gate.require={robust_accuracy: '>= 0.8 (95%)'}", "evaluate.robustness={rows: 5}"],
            "nothing of fewer than 6 rows holds with 95 % confidence, and evaluate.robustness has 5. Add rows",
        ),
        (
            ["gate.require={attack_success_rate: '<= 0.8 (95%)'}", "evaluate.robustness={rows: 9, attacks: 5}"],
            "evaluate.robustness.attacks has 5. Add rows",
        ),
        (["gate.require={robust_accuracy: '>= 0.8 (95%)'}", "evaluate.robustness={rows: 6}"], None),
        (["gate.max_latency_p95_ms=9"], "gate.max_latency_p95_ms: a 95th percentile needs 100 queries"),
    ],
)
def test_what_can_never_be_met_is_refused_before_any_work(
    project: Path, changes: list[str], message: str | None
) -> None:
    recipe = load_recipe(project / "recipe.yaml", changes)
    case = case_of(recipe, read_inputs(recipe, project), Progress())
    if message is None:
        require_measurable(case)
        return
    with pytest.raises(RecipeError) as error:
        require_measurable(case)
    assert message in str(error.value)


@pytest.mark.parametrize("rows", [FEWEST_ROWS - 1, FEWEST_ROWS])
def test_confidence_of_fewer_rows_than_give_any_is_refused(project: Path, rows: int) -> None:
    test = project / "data/test.jsonl"
    test.write_text("".join(test.read_text().splitlines(keepends=True)[:rows]))
    recipe = load_recipe(project / "recipe.yaml", ["gate.require={accuracy: '> 0.1 (95%)'}"])
    case = case_of(recipe, read_inputs(recipe, project), Progress())
    if rows == FEWEST_ROWS:
        require_measurable(case)
        return
    with pytest.raises(RecipeError, match=r"gate\.require\.accuracy: nothing of fewer than 6 test rows .* has 5\."):
        require_measurable(case)


@pytest.mark.parametrize(
    "change",
    [
        "gate.min_retention=1.9",
        "gate.max_drop_points=-1",
        "gate.require={gain_over_baseline_points: '>= -3 (95%)'}",
        "gate.require={accuracy: '>= 1'}",
    ],
)
def test_what_a_good_student_can_have_is_not_refused(project: Path, change: str) -> None:
    """One that is better than its teacher loses less than nothing, and a gate may let distilling lose."""
    recipe = load_recipe(project / "recipe.yaml", [change])
    require_measurable(case_of(recipe, read_inputs(recipe, project), Progress()))


def test_what_a_language_model_is_judged_by_has_an_interval(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe = load_recipe(project / "recipe.yaml", ["gate.require={token_accuracy: '>= 0.4 (95%)'}"])
    require_measurable(case_of(recipe, read_inputs(recipe, project), Progress()))
    settings = GateSettings(min_retention=None, require={"token_accuracy": ">= 0.812 (95%)"})
    check = judge(settings, measured(primary_metric="token_accuracy")).checks[-1]
    assert (check.measured, check.bound, check.passed) == (0.812, pytest.approx(0.795), False)


@pytest.mark.parametrize(
    ("required", "said"),
    [
        (
            "ece: '>= 0.05'",
            "'>= 0.05' passes the worst students, since less calibration error is better. Should it be '<=",
        ),
        ("accuracy: '< 0.9 (95%)'", "passes the worst students, since more accuracy is better. Should it be '>= 0.9'"),
        ("ece: '<= 0.05', accuracy: '> 0.9', speedup: '>= 2', latency_p50_ms: '< 9'", None),
    ],
)
def test_a_threshold_on_the_side_of_the_worst_students_is_warned_of(
    project: Path, capsys: pytest.CaptureFixture[str], required: str, said: str | None
) -> None:
    recipe = load_recipe(project / "recipe.yaml", [f"gate.require={{{required}}}"])
    found = list(thresholds_upside_down(recipe.gate, recipe.task.answers))
    assert len(found) == (said is not None)
    assert all(said in warning for warning in found if said)
    assert app(
        ["check", str(project / "recipe.yaml"), "--set", f"gate.require={{{required}}}"], standalone_mode=False
    ) in (
        None,
        0,
    )
    printed = capsys.readouterr().out
    assert printed.count("warning: gate.require") == len(found)
    # And beside the verdict, which a run shows however quiet it is.
    verdict = judge(recipe.gate, measured())
    assert verdict.warnings == found
    assert ("warnings" in verdict.model_dump()) is bool(found), "other records are as before there were any"
    verdict_lines(verdict)
    assert " ".join(capsys.readouterr().out.split()).count("warning: gate.require") == len(found)
    page = render_html(**inputs() | {"run": replace(inputs()["run"], gate=verdict)})
    assert page.count("Warning: gate.require") == len(found)


@pytest.mark.parametrize(
    ("required", "written", "said"),
    [
        (">= 50 %", 1, None),
        (">= 50 %", 0, "gate.ended: share of responses that end is measured after the prompts that evaluate.written"),
        (">= 50 % (95%)", FEWEST_ROWS, None),
        (
            ">= 50 % (95%)",
            FEWEST_ROWS - 1,
            "gate.ended: nothing of fewer than 6 prompts holds with 95 % confidence, and ",
        ),
    ],
)
def test_what_is_written_too_little_of_can_not_be_required(
    tmp_path: Path, chat_teacher_folder: Path, required: str, written: int, said: str | None
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe = load_recipe(project / "recipe.yaml", [f"gate.ended='{required}'", f"evaluate.written={written}"])
    case = case_of(recipe, read_inputs(recipe, project), Progress())
    if said is None:
        require_measurable(case)
        return
    with pytest.raises(RecipeError) as error:
        require_measurable(case)
    assert said in str(error.value)


def test_neither_direction_of_a_length_is_warned_of() -> None:
    settings = GateSettings(require={"response_length_ratio": "<= 2x", "response_tokens": ">= 3"})
    assert list(thresholds_upside_down(settings, "text")) == []


def test_a_metric_is_told_of_the_right_task() -> None:
    assert metric_for("r2", "regression") is metric("r2")
    assert "is not measured of this task" in str(metric_for("r2", "single_label"))
    assert parse_requirement("x", "<= -1.5e-3").threshold == -0.0015
