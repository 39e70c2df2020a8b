"""What the gate and the page make of what a judge says of what models wrote."""

from typing import Any

import pytest

from potstill.evaluation.as_student import as_student
from potstill.evaluation.checks import check_of
from potstill.evaluation.judged_writing.exchanges import CONTRADICTED, NO_REFERENCE, UNREADABLE_REFERENCE
from potstill.evaluation.judged_writing.judged import share
from potstill.evaluation.tables import quantities
from potstill.presentation.page import render_html
from potstill.recipe import GateSettings
from potstill.records import Check, EvaluateRecord, ModelJudgement, WritingJudgement
from tests.unit.finished_run import HOSTILE, evaluation, inputs, sections
from tests.unit.test_judged_writing import naive_wilson


def record(judgement: WritingJudgement | None) -> EvaluateRecord:
    found = evaluation(with_baseline=True)
    return found.model_copy(update={"primary_metric": "token_accuracy", "judgement": judgement})


def judged(student: tuple[int, int] = (27, 30), baseline: tuple[int, int] = (30, 30), **other: Any) -> WritingJudgement:
    def one(hits: int, of: int) -> ModelJudgement:
        return ModelJudgement(judged=32, accuracy=share(hits, 32), as_good=share(hits, of), of=of, losses=of - hits)

    models = {"teacher": ModelJudgement(judged=32, accuracy=share(30, 32))}
    models |= {"student": one(*student), "baseline": one(*baseline)}
    return WritingJudgement(**{"kind": "exact_match", "prompts": 32, "models": models} | other)


def check(found: EvaluateRecord, **required: str) -> Check:
    return check_of(next(iter(GateSettings(min_retention=None, **required).requirements())), found)


def test_the_gate_requires_what_a_judge_says() -> None:
    found = record(judged())
    assert check(found, as_good_as_teacher=">= 0.9").passed and check(found, written_accuracy="> 84 %").passed
    assert not check(found, as_good_as_teacher="> 0.9").passed and not check(found, written_accuracy="> 0.85").passed
    sure = check(found, as_good_as_teacher=">= 0.9 (95%)")
    assert not sure.passed and sure.bound == pytest.approx(naive_wilson(27, 30, 1.644854)[0], abs=1e-4)
    assert check(found, as_good_as_teacher=">= 0.77 (95%)").passed
    # The baseline in the student's place is judged by its own answers.
    instead = as_student(found, "baseline")
    assert check(instead, as_good_as_teacher=">= 1").passed and not check(found, as_good_as_teacher=">= 1").passed
    # One whose answers nobody judged has none, and not those of the student.
    alone = judged()
    other = as_student(record(alone.model_copy(update={"models": {"student": alone.models["student"]}})), "baseline")
    unknown = check(other, as_good_as_teacher=">= 0")
    assert not unknown.passed and "measured of other models of the run, and not of this one" in str(unknown.why)
    # A share of few has no bound, however many were judged.
    few = check(record(judged(student=(5, 5))), as_good_as_teacher=">= 0.1 (95%)")
    assert not few.passed and "nothing of fewer than 6 judged prompts" in str(few.why) and "there are 5" in str(few.why)
    assert check(record(judged(student=(6, 6))), as_good_as_teacher=">= 0.1 (95%)").passed
    assert check(record(judged(student=(5, 5))), written_accuracy=">= 0.01 (95%)").passed


@pytest.mark.parametrize(
    ("judgement", "metric", "why"),
    [
        (None, "as_good_as_teacher", "evaluate.judge names nobody"),
        (
            WritingJudgement(
                kind="server",
                prompts=4,
                models={"student": ModelJudgement(judged=0, not_judged={"HTTP 500": 3, "no reply in time": 1})},
            ),
            "as_good_as_teacher",
            "no answer was judged: HTTP 500 (3), no reply in time (1)",
        ),
        (
            WritingJudgement(kind="exact_match", prompts=4, models={"student": ModelJudgement(judged=4)}),
            "as_good_as_teacher",
            "the teacher has none of the judged answers right",
        ),
        (
            WritingJudgement(kind="server", prompts=4, models={"student": ModelJudgement(judged=4)}),
            "written_accuracy",
            "its judge only compares answers",
        ),
    ],
)
def test_what_no_judge_said_fails_and_says_why(judgement: WritingJudgement | None, metric: str, why: str) -> None:
    found = check(record(judgement), **{metric: ">= 0.5"})
    assert not found.passed and found.measured is None and why in str(found.why)


def by_server(judged: int, **not_judged: int) -> EvaluateRecord:
    """A student that is as good as its teacher in all that was judged."""
    reasons = {{"contradicted": CONTRADICTED}.get(name, name): count for name, count in not_judged.items()}
    student = ModelJudgement(judged=judged, as_good=share(judged, judged), of=judged, ties=judged, not_judged=reasons)
    return record(WritingJudgement(kind="server", model="m", prompts=200, models={"student": student}))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (by_server(180, late=12, broken=8), None),
        (by_server(179, late=12, broken=9), "21 of 200 answers were not judged, more than 10% of them: late (12)"),
        (by_server(1, late=199), "199 of 200 answers were not judged"),
        (by_server(101, contradicted=99), None),
        (by_server(100, contradicted=100), "of 100 of 200 answers its judge said otherwise once they had changed"),
        # Each by itself.
        (by_server(100, contradicted=80, late=20), None),
        (
            by_server(98, contradicted=80, late=22),
            "22 of 200 answers were not judged, more than 10% of them: late (22)",
        ),
    ],
)
def test_a_judge_that_left_out_much_is_not_gone_by(found: EvaluateRecord, why: str | None) -> None:
    for required in (">= 0.5", ">= 0.5 (95%)"):
        done = check(found, as_good_as_teacher=required)
        assert done.passed is (why is None) and done.measured == 1
        assert (done.bound is None) is (why is not None or required == ">= 0.5")
        assert done.why is None if why is None else str(done.why).startswith(why)
    # What the judge does not tell needs none.
    assert check(found, speedup=">= 0.001").passed


def test_rows_without_a_right_answer_are_no_faults() -> None:
    without = {NO_REFERENCE: 100, UNREADABLE_REFERENCE: 68}
    for late, passed in ((3, True), (4, False)):
        counts = {"accuracy": share(32, 32), "as_good": share(32, 32), "of": 32}
        student = ModelJudgement(judged=32, **counts, not_judged={**without, "late": late})
        found = record(WritingJudgement(kind="math_verify", prompts=200, models={"student": student}))
        for name in ("as_good_as_teacher", "written_accuracy"):
            done = check(found, **{name: ">= 0.5"})
            assert done.passed is passed and (done.why is None) is passed
    assert "4 of 36 answers" in str(done.why) and NO_REFERENCE not in str(done.why)


def test_page_and_table_show_what_the_judge_says() -> None:
    found = record(judged())
    shown = {each.name: each for each in quantities(found)}
    row = shown["Written answers as good as the teacher's (95 % interval)"]
    assert row.brief and row.values[0] == "–" and row.values[1].startswith("90.0 %")
    assert shown["Written answers that are right (95 % interval)"].values[0].startswith("93.8 %")
    page = render_html(**inputs() | sections(found, inputs()["run"].export))
    assert "As good as the teacher in what it writes" in page and "judged by exact_match" in page
    assert "Said otherwise in the other order" not in page
    for without in (record(None), evaluation(with_baseline=True)):
        assert not [each for each in quantities(without) if "as good" in each.name]
        assert "in what it writes" not in render_html(**inputs() | sections(without, inputs()["run"].export))


def test_a_hostile_name_of_a_judge_stays_text() -> None:
    student = ModelJudgement(
        judged=30, as_good=share(27, 30), of=30, wins=3, ties=24, losses=3, orders_disagreed=11, not_judged={HOSTILE: 2}
    )
    found = record(WritingJudgement(kind="server", model=HOSTILE, prompts=32, models={"student": student}))
    page = render_html(**inputs(hostile="plain") | sections(found, inputs(hostile="plain")["run"].export))
    section = page.split("As good as the teacher in what it writes")[1]
    assert "<script>alert" not in section and "<img" not in section and "&lt;script&gt;alert(1)" in section
    assert "3 / 24 / 3" in section and ">11<" in section.replace(" ", "").replace("\n", "")
    assert [each.values[2] for each in quantities(found) if "as good" in each.name] == ["–"]


def test_records_without_a_judge_are_as_they_were() -> None:
    assert "judgement" not in record(None).model_dump(mode="json")
    assert EvaluateRecord.model_validate(record(judged()).model_dump(mode="json")).judgement == judged()
