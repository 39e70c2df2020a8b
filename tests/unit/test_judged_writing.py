"""Judges of what language models write that know what is right: which answers are, and how they are counted."""

import math
import random
import threading
from typing import Any

import pytest

from potstill.evaluation.judged_writing.exchanges import NO_REFERENCE, UNREADABLE_REFERENCE, Exchange, NotJudged
from potstill.evaluation.judged_writing.judged import judgement_of, share
from potstill.evaluation.judged_writing.references import right_after
from potstill.progress import Progress
from potstill.recipe.writing_judges import ExactMatch, MathVerify, RegularExpression

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


def test_what_fails_at_a_text_is_no_answer_and_what_fails_at_the_machine_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    math_verify = pytest.importorskip("math_verify")
    from potstill.evaluation.judged_writing import mathematics

    def fails(kind: type[Exception]) -> list[Any]:
        def parse(*_: object, **__: object) -> None:
            raise kind("at a text")

        monkeypatch.setattr(math_verify, "parse", parse)
        return mathematics.mathematical_answer("9")

    assert fails(RecursionError) == fails(TypeError) == []
    for kind in (MemoryError, ModuleNotFoundError):
        with pytest.raises(kind):
            fails(kind)


def test_a_tower_of_powers_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    from potstill.evaluation.judged_writing import mathematics

    monkeypatch.setattr(mathematics, "TIMEOUT_S", 1)
    with pytest.raises(NotJudged, match="in time"):
        mathematics.answers_equally(
            mathematics.mathematical_answer("9"), mathematics.mathematical_answer("$9^{9^{9^{9}}}$")
        )
    right = right_after(MathVerify(), exchange("9"), None)
    assert right("$9^{9^{9^{9}}}$") is False
    assert right("9"), "and the next one is"
    exchanges = [exchange("9", "9", "$9^{9^{9^{9}}}$"), exchange("9", "9", "9")]
    found = judgement_of(MathVerify(), exchanges, ("teacher", "student"), {}, Progress()).models["student"]
    assert (found.judged, found.accuracy, found.as_good) == (2, share(1, 2), share(1, 2)) and not found.not_judged
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


def test_rows_whose_right_answer_is_too_hard_count_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.evaluation.judged_writing import judged

    def right(judge: Any, of: Exchange, answer: Any) -> Any:
        if of.truth == "?":
            raise NotJudged("too hard")
        return lambda said: said == of.truth

    monkeypatch.setattr(judged, "right_after", right)
    exchanges = [exchange("?", "?", "?"), exchange("1", "2", "1"), exchange("1", "1", "1"), exchange("1", "1", "2")]
    found = judgement_of(ExactMatch(), exchanges, ("teacher", "student"), {}, Progress()).models
    assert found["teacher"].accuracy == share(2, 3) and found["student"].accuracy == share(2, 3)
    assert (found["student"].as_good, found["student"].of) == (share(1, 2), 2)
    assert [found[name].not_judged for name in ("teacher", "student")] == [{"too hard": 1}] * 2
