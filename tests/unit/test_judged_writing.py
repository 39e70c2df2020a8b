"""Judges of what language models write: which answers are right, how they are counted, what the gate makes of it."""

import json
import math
import random
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from potstill.errors import RecipeError
from potstill.evaluation.as_student import as_student
from potstill.evaluation.case import Case
from potstill.evaluation.checks import check_of
from potstill.evaluation.judged_writing import required
from potstill.evaluation.judged_writing.exchanges import Exchange, NotJudged
from potstill.evaluation.judged_writing.judged import judgement_of, share
from potstill.evaluation.judged_writing.references import NO_REFERENCE, UNREADABLE_REFERENCE, right_after
from potstill.evaluation.queries import require_measurable
from potstill.evaluation.tables import quantities
from potstill.presentation.page import render_html
from potstill.progress import Progress
from potstill.recipe import GateSettings, Recipe
from potstill.recipe.stage_settings import EvaluateSettings
from potstill.recipe.writing_judges import AnyWritingJudge, ExactMatch, MathVerify, RegularExpression, ServerJudge
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Check, EvaluateRecord, ModelJudgement, WritingJudgement
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import make_chat_project
from tests.unit.finished_run import HOSTILE, evaluation, inputs, sections

MODELS = ("teacher", "student", "baseline")
NUMBER = RegularExpression(pattern=r"####\s*(-?\d+)")


def exchange(truth: str, *said: str, identity: str = "1", read: str | None = None) -> Exchange:
    return Exchange(
        id=identity,
        asked="What is asked?",
        truth=truth,
        truth_as_read=truth if read is None else read,
        said=dict(zip(MODELS, said, strict=False)),
    )


def is_right(judge: Any, truth: str, said: str, answer: str | None = None, read: str | None = None) -> bool:
    return right_after(judge, exchange(truth, read=read), answer)(said)


def test_an_exact_match_has_the_same_words_and_any_white_space_around_them() -> None:
    assert is_right(ExactMatch(), " four \n", "\tfour")
    assert not is_right(ExactMatch(), "four", "Four") and not is_right(ExactMatch(), "four", "four.")
    assert not is_right(ExactMatch(), "four", ""), "who says nothing is wrong"
    # What a tokenizer has no tokens for, no model could write.
    assert is_right(ExactMatch(), "4 €", "4 ", read="4") and is_right(ExactMatch(), "4 €", "4 €", read="4")
    assert not is_right(ExactMatch(), "€", "", read=""), "unless nothing is left of it"
    # A field of the row takes the place of its last response.
    named = ExactMatch(answer="result")
    assert is_right(named, "four", "4", answer=" 4") and not is_right(named, "four", "four", answer="4")


@pytest.mark.parametrize(
    ("judge", "truth", "answer", "said", "right"),
    [
        (NUMBER, "so 2 + 2\n#### 4", None, "I say #### 4", True),
        (NUMBER, "so 2 + 2\n#### 4", None, "#### 4, no: #### 5", False),
        (NUMBER, "so 2 + 2\n#### 4", None, "#### 5, no: #### 4", True),
        (NUMBER, "first #### 5 then #### 4", None, "#### 4", True),
        (NUMBER, "#### 4", None, "4", False),
        (NUMBER, "#### 4", None, "", False),
        (RegularExpression(pattern=r"(\w)=(\d)", group=2), "a=4", None, "b=4", True),
        (RegularExpression(pattern=r"(\w)=(\d)"), "a=4", None, "a=5", True),
        (RegularExpression(pattern=r"(\w)=(?P<n>\d)", group="n"), "a=4", None, "b=5", False),
        (RegularExpression(pattern=r"(\w)=(\d)", group=0), "a=4", None, "b=4", False),
        (RegularExpression(pattern=r"\d+"), "17 and 4", None, "is 4", True),
        (RegularExpression(pattern=r"= *(.+)"), "=  x ", None, "= x", True),
        # A group that takes no part in the match says nothing.
        (RegularExpression(pattern=r"yes(!)?"), "yes!", None, "yes", False),
        # A field is the answer alone, or holds it as a response does.
        (NUMBER.model_copy(update={"answer": "a"}), "#### 7", " 4", "#### 4", True),
        (NUMBER.model_copy(update={"answer": "a"}), "#### 7", "long #### 4", "#### 4", True),
        (NUMBER.model_copy(update={"answer": "a"}), "#### 7", "4", "#### 7", False),
    ],
)
def test_a_pattern_takes_the_last_that_it_finds_in_both(
    judge: RegularExpression, truth: str, answer: str | None, said: str, right: bool
) -> None:
    assert is_right(judge, truth, said, answer) is right


@pytest.mark.parametrize(
    ("truth", "answer", "said", "right"),
    [
        ("It is $\\frac{1}{2}$.", None, "0.5", True),
        ("It is 42.", None, "The answer is \\boxed{42}", True),
        ("It is 42.", None, "first 42, then 41", False),
        ("$(x+1)^2$", None, "$x^2 + 2x + 1$", True),
        ("$(x+1)^2$", None, "$x^2 + 2x$", False),
        ("It is 42.", None, "I do not know", False),
        ("It is 42.", None, "", False),
        ("", "\\frac{1}{2}", "0.5", True),
        ("", "x + 1", "so $1 + x$", True),
        ("", "1,234", "1234", True),
        ("", "$\\pi$", "$\\pi$", True),
    ],
)
def test_mathematical_answers_are_compared_by_what_they_mean(
    truth: str, answer: str | None, said: str, right: bool
) -> None:
    pytest.importorskip("math_verify")
    assert is_right(MathVerify(answer=None if answer is None else "a"), truth, said, answer) is right


def test_a_tower_of_powers_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    from potstill.evaluation.judged_writing import mathematics

    monkeypatch.setattr(mathematics, "TIMEOUT_S", 1)
    right = right_after(MathVerify(), exchange("9"), None)
    with pytest.raises(NotJudged, match="in time"):
        right("$9^{9^{9^{9}}}$")
    assert right("9"), "and the next one is"
    # Whichever of two answers is right, the other one may be too hard.
    monkeypatch.setattr(mathematics, "TIMEOUT_S", 2)
    assert mathematics.answers_equally(
        mathematics.mathematical_answer("9"), [*mathematics.mathematical_answer("$9^{9^{9^{9}}}$"), "9"]
    )


def test_mathematics_outside_the_main_thread_is_not_judged() -> None:
    pytest.importorskip("math_verify")
    told: list[str] = []

    def work() -> None:
        try:
            right_after(MathVerify(), exchange("9"), None)
        except NotJudged as reason:
            told.append(str(reason))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == ["mathematical answers are computed in the main thread alone"]


@pytest.mark.parametrize(
    ("judge", "truth", "answer", "why"),
    [
        (ExactMatch(), " \n", None, NO_REFERENCE),
        (ExactMatch(answer="a"), "four", None, NO_REFERENCE),
        (ExactMatch(answer="a"), "four", " ", NO_REFERENCE),
        (NUMBER, "four", None, UNREADABLE_REFERENCE),
        (MathVerify(), "four", None, UNREADABLE_REFERENCE),
    ],
)
def test_without_a_right_answer_nobody_is_judged(judge: Any, truth: str, answer: str | None, why: str) -> None:
    if isinstance(judge, MathVerify):
        pytest.importorskip("math_verify")
    with pytest.raises(NotJudged, match=why):
        is_right(judge, truth, "four", answer)


def naive_wilson(hits: int, of: int, z: float) -> tuple[float, float]:
    """The shares that a z-test of the share does not reject, found by trying them."""
    near = [
        p / 20000
        for p in range(20001)
        if abs(hits / of - p / 20000) <= z * math.sqrt(p / 20000 * (1 - p / 20000) / of) + 1e-12
    ]
    return near[0], near[-1]


@pytest.mark.parametrize(("hits", "of"), [(0, 5), (5, 5), (3, 7), (31, 32)])
def test_intervals_are_those_of_wilson(hits: int, of: int) -> None:
    found = share(hits, of)
    assert found is not None and found.value == hits / of
    assert (found.low, found.high) == pytest.approx(naive_wilson(hits, of, 1.959964), abs=1e-4)
    assert (found.at_least, found.at_most) == pytest.approx(naive_wilson(hits, of, 1.644854), abs=1e-4)
    assert share(0, 0) is None


def drawn(seed: int, prompts: int = 40) -> list[Exchange]:
    """Answers that are right or wrong at random, some of which have nothing to be compared with."""
    draw = random.Random(seed)
    return [
        exchange(draw.choice(["1", "1", "1", ""]), *(draw.choice("12") for _ in MODELS), identity=f"{number}")
        for number in range(prompts)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_counted_beside_the_teachers(seed: int) -> None:
    exchanges = drawn(seed)
    found = judgement_of(ExactMatch(), exchanges, MODELS, {}, Progress())
    known = [each for each in exchanges if each.truth]
    assert (found.kind, found.prompts, found.compares) == ("exact_match", 40, False)
    for name in MODELS:
        own, teacher = ({e.id for e in known if e.said[model] == "1"} for model in (name, "teacher"))
        each = found.models[name]
        assert each.judged == len(known) and each.not_judged == {NO_REFERENCE: 40 - len(known)}
        assert each.accuracy == share(len(own), len(known))
        assert each.orders_disagreed is None
        if name == "teacher":
            assert (each.as_good, each.of) == (None, 0)
            continue
        assert each.as_good == share(len(own & teacher), len(teacher)) and each.of == len(teacher)
        assert (each.wins, each.losses) == (len(own - teacher), len(teacher - own))
        assert each.ties == len(known) - each.wins - each.losses


def test_answers_are_those_of_the_named_field() -> None:
    exchanges = [exchange("x", "1", "1", "2", identity="a"), exchange("x", "2", "2", "2", identity="b")]
    found = judgement_of(ExactMatch(answer="n"), exchanges, MODELS, {"a": "1", "b": None}, Progress())
    assert {name: (each.judged, each.not_judged) for name, each in found.models.items()} == {
        name: (1, {NO_REFERENCE: 1}) for name in MODELS
    }
    assert [found.models[name].accuracy for name in MODELS] == [share(1, 1), share(1, 1), share(0, 1)]


def test_what_was_not_judged_of_one_model_counts_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's answer to the first prompt, and the student's to the second."""
    from potstill.evaluation.judged_writing import judged

    def right(judge: Any, of: Exchange, answer: Any) -> Any:
        def is_right(said: str) -> bool:
            if said == "?":
                raise NotJudged("too hard")
            return said == "1"

        return is_right

    monkeypatch.setattr(judged, "right_after", right)
    exchanges = [exchange("1", "?", "1"), exchange("1", "1", "?"), exchange("1", "1", "1"), exchange("1", "1", "2")]
    found = judgement_of(ExactMatch(), exchanges, ("teacher", "student"), {}, Progress()).models
    assert found["teacher"].accuracy == share(3, 3) and found["student"].accuracy == share(2, 3)
    assert (found["student"].as_good, found["student"].of) == (share(1, 2), 2)
    assert [found[name].not_judged for name in ("teacher", "student")] == [{"too hard": 1}] * 2


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


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "regular_expression", "pattern": "(a"}, "'(a' is no regular expression"),
        ({"kind": "regular_expression", "pattern": "(a)", "group": 2}, "has no group 2. Name one of: 0, 1"),
        ({"kind": "regular_expression", "pattern": "(?P<x>a)", "group": "y"}, "Name one of: 0, 1, x"),
        ({"kind": "server", "url": "localhost:8000", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "ftp://host/v1", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "http://host:port/v1", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "https://me:secret@host/v1", "model": "m"}, "without user"),
        ({"kind": "server", "url": "https://host/v1?key=secret", "model": "m"}, "without user"),
        ({"kind": "server", "url": "http://host/v1", "model": "m", "api_key_env": "K"}, "in the clear"),
        ({"kind": "server", "url": "https://host/v1", "model": "m", "api_key": "secret"}, "api_key"),
        ({"kind": "oracle"}, "oracle"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyWritingJudge)
    with pytest.raises(ValidationError, match=re.escape(told)):
        adapter.validate_python(settings)


def test_addresses_are_taken_as_they_are_written() -> None:
    for url in ("http://localhost:8000/v1", "http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"):
        assert ServerJudge(url=url, model="m").endpoint == "http://localhost:8000/v1/chat/completions"
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert ServerJudge(url=f"http://{host}:1/v1", model="m", api_key_env="K").api_key_env == "K"


def test_the_field_of_answers_is_kept_once() -> None:
    assert EvaluateSettings(slices=("a",), judge=ExactMatch(answer="b")).kept_fields == ("a", "b")
    assert EvaluateSettings(slices=("a",), judge=ExactMatch(answer="a")).kept_fields == ("a",)
    assert EvaluateSettings(slices=("a",), judge=ExactMatch()).kept_fields == ("a",)


def prepared(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return case_of(recipe, read_inputs(recipe, project), Progress())


def with_answers(project: Path, answer: Any) -> None:
    """What `answer` gives for the number of a row becomes its field `result`, where it is something."""
    path = project / "data/test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [row | ({} if (given := answer(number)) is None else {"result": given}) for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


SERVER = "evaluate.judge={kind: server, url: 'http://localhost:1/v1', model: m, api_key_env: JUDGE_KEY}"


def test_what_a_judge_lacks_is_found_out_before_training(
    tmp_path: Path, chat_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    for judge in ("{kind: exact_match}", "{kind: regular_expression, pattern: a}"):
        require_measurable(prepared(project, f"evaluate.judge={judge}", "gate.written_accuracy='>= 0.1 (95%)'"))
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    refused = {
        "the environment variable JUDGE_KEY is not set": [SERVER],
        'no row of data.test has a value of "result"': ["evaluate.judge={kind: exact_match, answer: result}"],
        "gate.as_good_as_teacher: needs evaluate.judge, who says": ["gate.as_good_as_teacher='>= 0.9'"],
        "nothing of fewer than 6 prompts holds with 95 % confidence, and evaluate.written is 5": [
            "evaluate.judge={kind: exact_match}",
            "evaluate.written=5",
            "gate.as_good_as_teacher='>= 0.9 (95%)'",
        ],
    }
    for told, changes in refused.items():
        with pytest.raises(RecipeError, match=re.escape(told)):
            require_measurable(prepared(project, *changes))
    monkeypatch.setenv("JUDGE_KEY", "k")
    require_measurable(prepared(project, SERVER, "gate.as_good_as_teacher='>= 0.9'"))
    with pytest.raises(RecipeError, match=r"gate.written_accuracy: a judge of kind server compares answers"):
        require_measurable(prepared(project, SERVER, "gate.written_accuracy='>= 0.9'"))
    monkeypatch.setattr(required, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"math-verify. Run: pip install 'potstill\[math\]'"):
        require_measurable(prepared(project, "evaluate.judge={kind: math_verify}"))
    require_measurable(prepared(project, "evaluate.judge={kind: exact_match}"))


def test_fields_of_answers_must_be_kept_whole(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    named = "evaluate.judge={kind: exact_match, answer: result}"
    with_answers(project, lambda number: "a" * 199 if number == 7 else None)
    require_measurable(prepared(project, named))
    with_answers(project, lambda number: "a" * 200 if number == 7 else None)
    with pytest.raises(RecipeError, match=r'"result" of the row "test-7" of data\.test has 200 characters or more'):
        require_measurable(prepared(project, named))


def test_plain_texts_have_no_answer_of_their_own(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    rows = [{"id": f"{n}", "text": f"w{n} w1 w2 w3", "result": "w3"} for n in range(1, 9)]
    (project / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecipeError, match="exact_match compares with the response of a row"):
        require_measurable(prepared(project, "evaluate.judge={kind: exact_match}"))
    require_measurable(prepared(project, "evaluate.judge={kind: exact_match, answer: result}"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["evaluate.written=0", "evaluate.judge={kind: exact_match}"], "evaluate.judge: judges what is written after"),
        (
            ["evaluate.judge={kind: server, url: 'https://u:hidden@h/v1', model: m}"],
            "evaluate.judge: url: expected an address without user",
        ),
        (["evaluate.judge={kind: server, url: 'https://h/v1?k=hidden', model: m}"], "url: expected an address without"),
        (["evaluate.judge={kind: server, url: 'https://h/v1', model: m, api_key: hidden}"], "judge.api_key: unknown"),
    ],
)
def test_a_recipe_with_a_bad_judge_is_refused_without_its_secrets(
    tmp_path: Path, chat_teacher_folder: Path, changes: list[str], told: str
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    with pytest.raises(RecipeError, match=re.escape(told)) as error:
        load_recipe(project / "recipe.yaml", changes)
    assert "hidden" not in str(error.value)


def test_of_classes_nobody_judges_what_is_written() -> None:
    told = "judges what language models write, and text_classification writes nothing"
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(
            {
                "task": {"kind": "text_classification"},
                "data": {"train": "a", "validation": "b", "test": "c"},
                "teacher": {"model": "m"},
                "evaluate": {"judge": {"kind": "exact_match"}},
            }
        )
