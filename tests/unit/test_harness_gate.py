"""What a gate requires of tasks of lm-evaluation-harness: met by what was measured, refused where it never can be."""

from pathlib import Path
from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.evaluation.as_student import as_student, in_place_of_student
from potstill.evaluation.harness_gate import require_harness
from potstill.evaluation.harness_names import DEFAULTS, metrics_of
from potstill.evaluation.harness_tasks import HarnessTask
from potstill.presentation.page import render_html
from potstill.presentation.terminal import verdict_lines
from potstill.recipe import GateSettings, Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Check, EvaluateRecord, GateRecord, HarnessRecord, HarnessScore, HarnessValue
from potstill.stages.gate import judge
from tests.unit.finished_run import evaluation, inputs

Z = 1.6448536269514722
"""The 95th percentile of a normal distribution, from a table."""


def score(task: str, metric: str, documents: int = 500, **models: tuple[float, float | None]) -> HarnessScore:
    values = {name: HarnessValue(value=value, standard_error=error) for name, (value, error) in models.items()}
    return HarnessScore(task=task, metric=metric, documents=documents, models=values)


ACC = score("arc_easy", "acc", teacher=(0.5, 0.02), student=(0.45, 0.02), baseline=(0.3, 0.02))
STRICT = score("gsm8k", "exact_match (strict-match)", teacher=(0.0, 0.0), student=(0.01, None), baseline=(0.02, 0.1))
FEW = score("few", "acc", documents=5, teacher=(1.0, 0.0), student=(1.0, 0.0))
LOSS = score("wikitext", "word_perplexity", teacher=(20.0, None), student=(30.0, 0.5))
OTHERS = score("others", "acc", teacher=(0.5, 0.1))
NOBODY = score("nobody", "acc")


def found(*scores: HarnessScore) -> EvaluateRecord:
    harness = HarnessRecord(version="0", few_shot=None, limit=None, scores=list(scores))
    return evaluation(with_baseline=True).model_copy(update={"harness": harness})


ALL = found(ACC, STRICT, FEW, LOSS, OTHERS, NOBODY)


def verdict(record: EvaluateRecord, **required: str) -> GateRecord:
    return judge(GateSettings(min_retention=None, harness=required), record)


def check(record: EvaluateRecord, name: str, required: str) -> Check:
    (found,) = [each for each in verdict(record, **{name: required}).checks if each.name == f"harness.{name}"]
    return found


@pytest.mark.parametrize(
    ("name", "required", "measured", "bound", "passed"),
    [
        ("arc_easy.acc", ">= 0.45", 0.45, None, True),
        ("arc_easy.acc", "> 0.45", 0.45, None, False),
        ("arc_easy.acc", ">= 45 %", 0.45, None, True),
        ("arc_easy.acc", ">= 0.41 (95%)", 0.45, 0.45 - Z * 0.02, True),
        ("arc_easy.acc", ">= 0.42 (95%)", 0.45, 0.45 - Z * 0.02, False),
        ("arc_easy.acc", "<= 0.5 (95%)", 0.45, 0.45 + Z * 0.02, True),
        ("arc_easy.acc", "<= 0.48 (95%)", 0.45, 0.45 + Z * 0.02, False),
        ("arc_easy.acc.retention", ">= 90 %", 0.9, None, True),
        ("arc_easy.acc.retention", ">= 0.91", 0.9, None, False),
        ("gsm8k.exact_match (strict-match)", ">= 0.01", 0.01, None, True),
        ("wikitext.word_perplexity", "<= 31 (95%)", 30.0, 30 + Z * 0.5, True),
        ("wikitext.word_perplexity", "<= 30.5 (95%)", 30.0, 30 + Z * 0.5, False),
        ("wikitext.word_perplexity.retention", "<= 1.5", 1.5, None, True),
    ],
)
def test_a_requirement_is_met_by_what_was_measured(
    name: str, required: str, measured: float, bound: float | None, passed: bool
) -> None:
    one = check(ALL, name, required)
    assert one.measured == pytest.approx(measured) and one.passed is passed and one.why is None
    assert one.bound == (None if bound is None else pytest.approx(bound, rel=1e-9)) and one.required == required
    verdict_of_all = verdict(ALL, **{name: required})
    assert verdict_of_all.passed is passed and bool(verdict_of_all.advice) is not passed
    if not passed:
        told = verdict_of_all.advice[0]
        assert told.startswith(f"harness.{name}: its ") and f"is not {required}" in told
        assert ("95 % bound, " in told) is (bound is not None)


@pytest.mark.parametrize(
    ("record", "name", "required", "why"),
    [
        (evaluation(with_baseline=True), "arc_easy.acc", ">= 0", "it was not put to tasks of lm-evaluation-harness"),
        (found(ACC, FEW), "arc_easy.acc_norm", ">= 0", "its tasks have arc_easy.acc, few.acc"),
        (ALL, "others.acc", ">= 0", "it was measured of other models of the run, and not of this one"),
        (ALL, "nobody.acc", ">= 0", "the harness gave no number"),
        (ALL, "gsm8k.exact_match (strict-match).retention", ">= 0", "its teacher has nothing of it that it could keep"),
        (in_place_of_student(ALL, ALL.models["student"]), "arc_easy.acc", ">= 0", "not of this one"),
    ],
)
def test_what_was_not_measured_fails_and_says_why(record: EvaluateRecord, name: str, required: str, why: str) -> None:
    one = check(record, name, required)
    assert not one.passed and one.measured is None and why in str(one.why)
    told = verdict(record, **{name: required}).advice[0]
    assert told == f"harness.{name} was not measured: {one.why}."


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gsm8k.exact_match (strict-match)", "it is measured without a standard error, so nothing of it holds with"),
        ("few.acc", "nothing of fewer than 6 documents holds with 95 % confidence, and there are 5"),
        ("arc_easy.acc.retention", "it is measured without a standard error"),
    ],
)
def test_what_has_no_bound_fails_where_one_is_required(name: str, why: str) -> None:
    one = check(ALL, name, ">= 0 (95%)")
    assert not one.passed and one.measured is not None and one.bound is None and why in str(one.why)
    told = verdict(ALL, **{name: ">= 0 (95%)"}).advice[0]
    assert told == f"harness.{name}: {one.why}."
    enough = ALL.harness and [each.model_copy(update={"documents": 6}) for each in ALL.harness.scores]
    assert check(found(*(enough or [])), "few.acc", ">= 0 (95%)").passed


def test_another_model_in_the_students_place_has_its_own_tasks() -> None:
    other = as_student(ALL, "baseline")
    assert check(other, "arc_easy.acc", "<= 1").measured == 0.3
    assert check(other, "arc_easy.acc.retention", "<= 1").measured == pytest.approx(0.6)
    assert "not of this one" in str(check(other, "few.acc", ">= 0").why)
    assert check(as_student(ALL, "student"), "arc_easy.acc", "<= 1").measured == 0.45
    low = verdict(ALL, **{"arc_easy.acc": "<= 0.4"})
    assert low.would_pass == ["baseline"] and "The baseline would pass every check" in low.advice[-1]


def test_requirements_of_metrics_and_of_tasks_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    settings = GateSettings(
        min_retention=0.99, accuracy=">= 0.99", harness={"arc_easy.acc": ">= 0.9", "few.acc": "> 0"}
    )
    told = judge(settings, ALL)
    assert [each.name for each in told.checks[-4:]] == [
        "retention",
        "accuracy",
        "harness.arc_easy.acc",
        "harness.few.acc",
    ]
    assert [each.passed for each in told.checks[-4:]] == [False, False, False, True]
    assert [sentence.split(":")[0] for sentence in told.advice] == ["Retention", "Accuracy", "harness.arc_easy.acc"]
    verdict_lines(told)
    assert "harness.arc_easy.acc >= 0.9: 0.45" in " ".join(capsys.readouterr().out.split())
    run = inputs()
    page = render_html(**run | {"run": run["run"].__class__(**{**vars(run["run"]), "gate": told})})
    assert "harness.arc easy.acc" in page


@pytest.mark.parametrize(
    ("harness", "told"),
    [
        (
            {"arc_easy": ">= 0.4"},
            'it names no metric. Write the task and one of its metrics, as in arc_easy.acc: ">= 0.4".',
        ),
        ({"arc_easy.": ">= 0.4"}, "it names no metric"),
        ({"arc_easy.acc": 0.4}, '0.4 alone does not tell which way. Write arc_easy.acc: ">= 0.4".'),
        ({"arc_easy.acc": "0.4"}, "'0.4' is no requirement"),
        ({"arc_easy.acc": ">= 40 MB"}, "the harness gives numbers without a unit, and shares. Leave out MB."),
        ({"arc_easy.acc": [1]}, "string"),
        ("arc_easy", "dict"),
    ],
)
def test_what_is_no_requirement_is_refused_where_it_stands(harness: Any, told: str) -> None:
    with pytest.raises(ValueError, match=r"harness") as error:
        GateSettings.model_validate({"harness": harness})
    assert told in str(error.value)
    assert "harness" not in GateSettings().model_dump(), "a gate that asks for none is as it was"


def recipe(gate: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "task": {"kind": "causal_lm"},
            "data": {"train": "a", "validation": "b", "test": "c"},
            "teacher": {"model": "m"},
            "evaluate": {"harness": {"tasks": ["arc_easy", "own.yaml"]}},
            "gate": {"harness": gate},
        }
        | more
    )


KNOWN = (HarnessTask("arc_easy", metrics=("acc", "acc_norm")), HarnessTask("own", metrics=("f1 (first)",)))
OPEN = (*KNOWN, HarnessTask("mmlu"))


@pytest.mark.parametrize("name", ["arc_easy.acc", "arc_easy.acc_norm.retention", "own.f1 (first)"])
def test_what_is_measured_can_be_required(name: str) -> None:
    for tasks in (KNOWN, OPEN):
        require_harness(recipe({name: ">= 0"}), tasks)
    require_harness(recipe({name: ">= 0"}, export=[{"kind": "safetensors"}]), KNOWN)


@pytest.mark.parametrize(
    ("name", "tasks", "told"),
    [
        ("arc_easy.ac", KNOWN, "did you mean arc_easy.acc"),
        ("arc_easy.f1", OPEN, "There are: arc_easy.acc, arc_easy.acc_norm, own.f1 (first), and each of them with"),
        ("mmlu.acc", KNOWN, "not measured by the tasks of this recipe"),
        ("own.f1", KNOWN, "did you mean own.f1 (first)"),
        ("mmlu.acc", OPEN, None),
        ("mmlu_law.acc.retention", OPEN, None),
    ],
)
def test_what_is_not_measured_is_refused_before_training(
    name: str, tasks: tuple[HarnessTask, ...], told: str | None
) -> None:
    settings = recipe({"arc_easy.acc": ">= 0", name: ">= 0"})
    if told is None:
        require_harness(settings, tasks)
        return
    with pytest.raises(RecipeError) as error:
        require_harness(settings, tasks)
    assert str(error.value).startswith(f"gate.harness.{name}: ") and told in str(error.value)


def test_what_would_never_pass_is_refused_before_training() -> None:
    require_harness(recipe({}, evaluate={}), ())
    for settings, told in (
        (recipe({"arc_easy.acc": ">= 0"}, evaluate={}), r"gate\.harness\.arc_easy\.acc: needs evaluate\.harness"),
        (recipe({"arc_easy.acc.retention": ">= 0 (95%)"}), r"has no standard error.*Leave out \(95%\)"),
        (
            recipe({"arc_easy.acc": ">= 0"}, export=[{"kind": "safetensors"}, {"kind": "gguf", "precision": "q4_0"}]),
            r"gguf-q4_0 \(export\[1\]\) is not put to tasks .* Export \{kind: safetensors\}",
        ),
    ):
        with pytest.raises(RecipeError, match=told):
            require_harness(settings, KNOWN)


@pytest.mark.parametrize(
    ("config", "metrics"),
    [
        ({"metric_list": [{"metric": "acc"}, {"metric": "f1"}]}, ("acc", "f1")),
        ({"metric_list": [{"metric": "acc"}], "filter_list": [{"name": "a"}, {"name": "none"}]}, ("acc (a)", "acc")),
        ({"output_type": "multiple_choice"}, ("acc", "acc_norm")),
        ({}, ("exact_match",)),
        ({"output_type": "unknown"}, ()),
        ({"metric_list": [{"metric": None}]}, ()),
        ({"metric_list": ["acc"]}, ()),
        ({"metric_list": [{"metric": "acc"}], "filter_list": [{}]}, ()),
        ({"metric_list": [{"metric": "acc"}], "class": None}, ()),
    ],
)
def test_the_metrics_of_a_task_are_those_that_its_files_name(config: dict[str, Any], metrics: tuple[str, ...]) -> None:
    assert metrics_of(config) == metrics


def test_metrics_by_default_are_those_of_the_harness() -> None:
    registry = pytest.importorskip("lm_eval.api.registry")
    assert {kind: list(metrics) for kind, metrics in DEFAULTS.items()} == registry.DEFAULT_METRIC_REGISTRY


def test_a_recipe_says_it_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "task: {kind: causal_lm}\ndata: {train: a, validation: b, test: c}\nteacher: {model: m}\n"
        'gate:\n  harness:\n    arc_easy.acc: ">= 40 % (95%)"\n    own.f1 (first): "<= 3"\n'
    )
    (first, second) = load_recipe(tmp_path / "recipe.yaml").gate.harness_requirements()
    assert (first.metric, first.threshold, first.confident, first.key) == (
        "arc_easy.acc",
        0.4,
        True,
        "harness.arc_easy.acc",
    )
    assert (second.metric, second.sign, second.threshold) == ("own.f1 (first)", "<=", 3)
