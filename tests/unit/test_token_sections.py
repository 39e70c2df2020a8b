"""What page, findings and gate say of language models on other texts than the test rows."""

from typing import Any

import pytest

from potstill.evaluation.as_student import as_student, in_place_of_student
from potstill.evaluation.checks import check_of, drawn
from potstill.evaluation.findings import findings
from potstill.evaluation.metrics import metric
from potstill.evaluation.robustness.sections import robustness_sections
from potstill.presentation.section_charts import drawn as drawn_chart
from potstill.recipe import GateSettings
from potstill.records import (
    ChangedPromptScores,
    Estimate,
    EvaluateRecord,
    ModelTokenRobustness,
    OutOfDomainTokens,
    QueryAnswers,
    QueryScores,
    SeverityTokenScores,
    TokenOutOfDomain,
    TokenRobustness,
    TokenScores,
    UnanswerableQueries,
)
from tests.unit.finished_run import HOSTILE, evaluation, robustness

WAYS = [("ocr", 1), ("look_alikes", 3)]
NAMES = {"teacher": 1.0, "student": 2.0, "baseline": 3.0}


def about(value: float, low: float | None = None) -> Estimate:
    least = 0.9 * value if low is None else low
    return Estimate(value=value, low=least, high=1.1 * value, at_least=least, at_most=1.05 * value)


def tokens(perplexity: float, name: str) -> TokenScores:
    compared = name != "teacher"
    kl, same = (about(0.1 * perplexity), about(0.5)) if compared else (None, None)
    return TokenScores(perplexity=about(perplexity), kl=kl, agreement=same)


def of_model(name: str, over: Estimate, further: Estimate) -> ModelTokenRobustness:
    size, compared = NAMES[name], name != "teacher"
    return ModelTokenRobustness(
        clean=tokens(size, name),
        robust_perplexity=about(1.5 * size),
        robust_perplexity_ratio=about(1.4 + size / 10),
        robust_kl=about(0.3 * size) if compared else None,
        robust_agreement=about(0.4) if compared else None,
        ratio_over_teacher=over if compared else None,
        kl_over_clean=further if compared else None,
        by_severity=[
            SeverityTokenScores(severity=n, perplexity_ratio=about(size + n), kl=about(0.1) if compared else None)
            for n in (1, 3)
        ],
        perturbed=[
            ChangedPromptScores(
                perturbation=way, severity=n, perplexity_ratio=about(2), **dict(tokens(10 * size + n, name))
            )
            for way, n in WAYS
        ],
    )


def queries(**changes: Any) -> UnanswerableQueries:
    models = {
        name: QueryScores(
            kl=about(size) if name != "teacher" else None,
            agreement=about(0.3) if name != "teacher" else None,
            ended=about(0.6),
            ended_as_teacher=about(0.7) if name != "teacher" else None,
            repeats=about(0.2),
            repeats_as_teacher=about(0.8) if name != "teacher" else None,
        )
        for name, size in NAMES.items()
    }
    return UnanswerableQueries(
        **{
            "source": HOSTILE,
            "queries": 48,
            "first_tokens": 16,
            "answer_tokens": 64,
            "models": models,
            "counts": {HOSTILE: 48},
            "by_kind": {HOSTILE: models},
            "examples": [QueryAnswers(id=HOSTILE, query=HOSTILE, said={"teacher": "no", "student": HOSTILE})],
            **changes,
        }
    )


def record(
    *,
    over: Estimate | None = None,
    further: Estimate | None = None,
    outside: Estimate | None = None,
    rows: int = 32,
    asked: UnanswerableQueries | None = None,
    **changes: Any,
) -> EvaluateRecord:
    over, further, outside = over or about(1.2, 0.9), further or about(0.1, -0.1), outside or about(1.1, 0.8)
    found = TokenRobustness(
        rows=rows,
        tokens=999,
        plain_texts=3,
        left_out=2,
        models={name: of_model(name, over, further) for name in NAMES},
        unanswerable=asked or queries(),
    )
    domain = TokenOutOfDomain(
        source=HOSTILE,
        rows=rows,
        tokens=77,
        test_rows=2000,
        models={
            name: OutOfDomainTokens(
                inside=tokens(size, name),
                outside=tokens(7 * size, name),
                perplexity_ratio=about(7),
                ratio_over_teacher=outside if name != "teacher" else None,
            )
            for name, size in NAMES.items()
        },
    )
    told = {"primary_metric": "token_accuracy", "robustness": None, "out_of_domain": None}
    told |= {"token_robustness": found, "token_out_of_domain": domain} | changes
    made = evaluation(with_baseline=True)
    models = {name: each.model_copy(update={"kl_mean": 0.4, "perplexity": 3.0}) for name, each in made.models.items()}
    return made.model_copy(update={"models": models, **told})


READ = {
    "robust_kl": lambda e, m: e.token_robustness.models[m].robust_kl,
    "robust_perplexity": lambda e, m: e.token_robustness.models[m].robust_perplexity,
    "robust_perplexity_ratio": lambda e, m: e.token_robustness.models[m].robust_perplexity_ratio,
    "robust_agreement": lambda e, m: e.token_robustness.models[m].robust_agreement,
    "unanswerable_kl": lambda e, m: e.token_robustness.unanswerable.models[m].kl,
    "unanswerable_agreement": lambda e, m: e.token_robustness.unanswerable.models[m].agreement,
    "ood_kl": lambda e, m: e.token_out_of_domain.models[m].outside.kl,
    "ood_perplexity": lambda e, m: e.token_out_of_domain.models[m].outside.perplexity,
}


@pytest.mark.parametrize("name", READ)
def test_metrics_are_read_of_each_model(name: str) -> None:
    found = record()
    for model in NAMES:
        assert metric(name).in_record(found, model) == READ[name](found, model)
    assert isinstance(metric(name).in_record(found), Estimate) and metric(name).has_interval
    without = record(token_robustness=None, token_out_of_domain=None)
    assert metric(name).in_record(without) is None


@pytest.mark.parametrize("name", READ)
def test_another_model_in_the_students_place_has_its_own_figures(name: str) -> None:
    found = record()
    other = as_student(found, "baseline")
    assert metric(name).in_record(other) == metric(name).in_record(found, "baseline")
    assert metric(name).in_record(other) != metric(name).in_record(found) or "agreement" in name
    artefact = in_place_of_student(found, found.models["student"])
    assert metric(name).in_record(artefact) is None, "an artefact was not asked unless its record says so"


def test_a_model_that_was_not_asked_has_no_figures_in_the_students_place() -> None:
    found = evaluation(with_baseline=True).model_copy(update={"robustness": robustness("x")})
    other = as_student(found, "baseline")
    assert metric("robust_accuracy").in_record(other) is metric("attack_success_rate").in_record(other) is None
    assert metric("robust_accuracy").in_record(as_student(found, "student")) == metric("robust_accuracy").in_record(
        found
    )


def test_a_bound_counts_what_it_was_drawn_over() -> None:
    found = record(rows=5)
    assert drawn(metric("robust_kl"), found)[0] == 5 == drawn(metric("ood_kl"), found)[0]
    assert drawn(metric("unanswerable_kl"), found) == (48, "queries", "evaluate.robustness.unanswerable")
    classes = evaluation(with_baseline=True)
    assert drawn(metric("robust_accuracy"), classes)[0] == 300 == drawn(metric("ood_auroc"), classes)[0]
    assert drawn(metric("attack_success_rate"), classes)[0] == 50
    settings = GateSettings(require={"robust_kl": "<= 9 (95%)"})
    requirement = next(each for each in settings.requirements() if each.metric == "robust_kl")
    failed = check_of(requirement, found)
    assert not failed.passed and failed.why is not None and "there are 5 (evaluate.robustness.rows)" in failed.why
    assert check_of(requirement, record()).passed


def test_the_gate_says_why_no_query_was_asked() -> None:
    found = record()
    assert found.token_robustness is not None
    silent = found.token_robustness.model_copy(update={"unanswerable": None, "unanswerable_missing": "it has no voice"})
    settings = GateSettings(require={"unanswerable_kl": "<= 9"})
    requirement = next(each for each in settings.requirements() if each.metric == "unanswerable_kl")
    check = check_of(requirement, found.model_copy(update={"token_robustness": silent}))
    assert not check.passed and check.why == "no queries were asked that nobody can answer: it has no voice"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"over": about(1.3, 1.01)}, "less robust than its teacher"),
        ({"over": about(1.3, 1.0)}, None),
        ({"over": about(1.3, 1.01), "rows": 5}, None),
        ({"further": about(0.3, 0.01)}, "further from its teacher"),
        ({"further": about(0.3, 0.0)}, None),
        ({"outside": about(1.3, 1.01)}, "falls behind its teacher"),
        ({"outside": about(1.3, 1.0)}, None),
        ({"outside": about(1.3, 1.01), "rows": 5}, None),
    ],
)
def test_what_is_worse_beyond_its_interval_is_said(changes: dict[str, Any], said: str | None) -> None:
    words = ("less robust", "further from its teacher", "falls behind its teacher")
    found = [each for each in findings(record(**changes)) if any(word in each for word in words)]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_the_page_has_each_model_and_change() -> None:
    robust, asked, outside = robustness_sections(record())
    (_, summary), (_, whole) = robust.tables
    assert [row[0].text for row in summary.rows] == list(NAMES)
    assert [row[0].text for row in whole.rows] == ["as they are", "OCR, 1", "Look-alikes, 3"]
    assert whole.rows[1][2].text.startswith("21 (") and whole.rows[2][1].text.startswith("13 (")
    assert [row[0].text for row in outside.tables[0][1].rows][:2] == ["teacher, test rows", "teacher, other texts"]
    for section in (robust, asked, outside):
        for _, table in section.tables:
            assert all(len(row) == len(table.head) or not table.head for row in table.rows)
    assert "3 of these rows are texts without a prompt" in robust.notes[1] and robust.notes[2].startswith("2 rows were")
    described = drawn_chart(robust.charts[0])
    assert "at 1, 3: teacher 200.0, 400.0; student 300.0, 500.0; baseline 400.0, 600.0" in described
    # Hostile texts are cells like all others, which the page escapes.
    assert asked.tables[1][0] == HOSTILE and asked.tables[1][1].rows[0][1].text == HOSTILE


def test_the_page_says_what_was_not_measured() -> None:
    nothing = record(token_robustness=None, token_out_of_domain=None)
    assert [each.empty is not None for each in robustness_sections(nothing)] == [True, True]
    found = record()
    assert found.token_robustness is not None
    silent = found.token_robustness.model_copy(update={"unanswerable": None, "unanswerable_missing": "it has no voice"})
    told = list(robustness_sections(found.model_copy(update={"token_robustness": silent})))
    assert told[1].empty == "Not asked: it has no voice."
