"""What models write, counted, and a student that goes in circles where its teacher does not."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from potstill.data.special_tokens import token_ids
from potstill.evaluation.answers import measured_by
from potstill.evaluation.evaluate import points
from potstill.evaluation.metrics import WRITING
from potstill.evaluation.sections import detail_sections
from potstill.evaluation.tables import quantities
from potstill.evaluation.writing import Response, Written, as_teacher_reads
from potstill.evaluation.writing_checks import MOST_REPETITION, MOST_UNENDED, degenerate_writing, writing_checks
from potstill.measure import quality
from potstill.measure.writing import distinct_share, repeated_share
from potstill.presentation.page import render_html
from potstill.presentation.terminal import verdict_lines
from potstill.progress import Progress
from potstill.recipe import GateSettings
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Comparison, Estimate, EvaluateRecord, Generation
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.gate import judge
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import make_chat_project
from tests.unit.finished_run import HOSTILE, evaluation, inputs, sections


def naive_repeated(tokens: Sequence[Any], n: int = 4) -> float:
    """Walks along, and looks back at each step."""
    seen: list[list[Any]] = []
    again = 0
    for end in range(n, len(tokens) + 1):
        gram = list(tokens[end - n : end])
        again += gram in seen
        seen.append(gram)
    return again / len(seen) if seen else 0.0


def drawn_tokens(seed: int, most: int = 40) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(3) for _ in range(draw.randrange(most))]


def test_repetition_is_what_occurred_before() -> None:
    for seed in range(60):
        tokens = drawn_tokens(seed)
        assert repeated_share(tokens) == pytest.approx(naive_repeated(tokens)), tokens
    assert repeated_share([7] * 10) == pytest.approx(6 / 7)
    assert repeated_share(["a", "b", "c", "d", "a", "b", "c", "d"]) == pytest.approx(1 / 5)
    assert repeated_share(list(range(30))) == 0


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_short_response_has_nothing_that_could_repeat(length: int) -> None:
    assert repeated_share([5] * length) == 0
    assert repeated_share([5] * 4) == 0, "one 4-gram is the first of its kind"
    assert repeated_share([5] * 5) == 0.5


def test_variety_is_over_all_responses_together() -> None:
    texts = [drawn_tokens(seed) for seed in range(8)]
    pairs = [(a, b) for text in texts for a, b in itertools.pairwise(text)]
    assert distinct_share(texts) == pytest.approx(len(set(pairs)) / len(pairs))
    assert distinct_share([[1, 2], [1, 2]]) == 0.5, "what another response says is said again"
    assert distinct_share([[1], [2], []]) == 0, "no 2-gram across responses"


def written(prompts: int = 12) -> Written:
    tokens = {
        name: [drawn_tokens(100 * place + n) for n in range(prompts)]
        for place, name in enumerate(("teacher", "student"))
    }
    draw = np.random.default_rng(3)
    ended = {name: draw.random(prompts) < share for name, share in (("teacher", 0.8), ("student", 0.3))}
    return Written(tokens, ended, quality.bootstrap_weights(prompts, seed=5, resamples=50))


def test_means_are_over_prompts_and_resamples_draw_prompts() -> None:
    found = written()
    for number, weights in enumerate(found.weights):
        drawn = [prompt for prompt, times in enumerate(weights) for _ in range(times)]
        own, teachers = (found.tokens[name] for name in ("student", "teacher"))
        lengths = [np.mean([len(each[prompt]) for prompt in drawn]) for each in (own, teachers)]
        expected = {
            "repeated": np.mean([naive_repeated(own[prompt]) for prompt in drawn]),
            "ended": np.mean([found.came_to_end["student"][prompt] for prompt in drawn]),
            "lengths": lengths[0],
            "length_ratios": lengths[0] / lengths[1],
        }
        for name, value in expected.items():
            assert getattr(found, name)("student")[number] == pytest.approx(value), name
    assert found.distinct("student") == pytest.approx(distinct_share(found.tokens["student"]))


def test_of_who_wrote_nothing_nothing_is_measured() -> None:
    found = written()
    for name in ("repeated", "distinct", "ended", "lengths", "length_ratios"):
        assert getattr(found, name)("baseline") is None
    silent = Written(found.tokens | {"teacher": [[]] * 12}, found.came_to_end, found.weights)
    assert silent.length_ratios("student") is None and silent.lengths("teacher").max() == 0  # type: ignore[union-attr]


def test_a_resample_in_which_the_teacher_is_silent_counts_as_the_sample() -> None:
    tokens = {"teacher": [[1, 2], []], "student": [[1], [2, 3, 4]]}
    found = Written(tokens, {}, np.array([[1, 1], [0, 2], [2, 0]], dtype=np.uint8))
    assert found.length_ratios("student").tolist() == [2.0, 2.0, 0.5]  # type: ignore[union-attr]


def test_what_a_student_with_other_tokens_wrote_is_read_by_its_teacher(
    tmp_path: Path, chat_teacher_folder: Path
) -> None:
    """Letters of words are more tokens, and repeat more often, than the words."""
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe = load_recipe(project / "recipe.yaml")
    case = case_of(recipe, read_inputs(recipe, project), Progress())
    letters = sorted(set("red is the colour"))
    core = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate([*letters, "<end>"])}))
    core.decoder = decoders.Fuse()
    own = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    model = recipe.task.load_model(str(chat_teacher_folder))
    words = token_ids(case.tokenizer, "red is the colour", split_special_tokens=True)
    spelt = [letters.index(letter) for letter in "red is the colour"]
    other = replace(case, own_tokenizer=own)
    for tokenizer, ids, end in ((own, spelt, len(letters)), (case.tokenizer, words, 3)):
        predictor = TransformersPredictor(None, recipe.task, tokenizer, torch.device("cpu"), 1, model=model)
        assert as_teacher_reads(other, predictor, Response([*ids, end], ended=True)) == words
        assert as_teacher_reads(other, predictor, Response(ids, ended=False)) == words
    assert len(words) == 4 and len(spelt) == 17


class Answers:
    """What judges have of language models, without their tokens."""

    models = ("teacher", "student", "baseline")

    def __init__(self, found: Written | None) -> None:
        self.written = found

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_metrics_of_writing_are_recorded_of_who_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.evaluation import metrics

    monkeypatch.setattr(metrics, "METRICS", tuple(each for each in metrics.METRICS if each.of_writing))
    measured = measured_by(Answers(written()), "text")
    assert {name: set(values) for name, values in measured.items()} == {
        name: {"student"} if name == "response_length_ratio" else {"student", "teacher"} for name in WRITING
    }
    differences = points(measured, "student", "teacher")
    assert set(differences) == {"repeated_ngrams", "ended"}
    paired = 100 * (measured["ended"]["student"] - measured["ended"]["teacher"])
    assert differences["ended"].low == pytest.approx(np.quantile(paired[1:], 0.025))
    assert measured_by(Answers(None), "text") == {name: {} for name in WRITING}


def writes(
    *,
    repeated: tuple[float, float] = (0.04, 0.61),
    ended: tuple[float, float] = (0.9, 0.9),
    low: float | None = 5.0,
    prompts: int = 32,
    said: str = "I'm sorry, I'm sorry, I'm sorry, I'm sorry,",
) -> EvaluateRecord:
    """A language model's record; shares are of teacher and student, `low` the nearer end of both differences."""
    found = evaluation(with_baseline=True)
    models = {}
    for name, each in found.models.items():
        place = int(name != "teacher")
        scores = {"repeated_ngrams": repeated[place], "ended": ended[place]}
        alone = {metric: Estimate(value=value, low=value, high=value) for metric, value in scores.items()}
        models[name] = each.model_copy(update={"scores": alone | {"distinct_ngrams": 0.25}})
    more = 100 * (repeated[1] - repeated[0])
    less = 100 * (ended[1] - ended[0])
    pairs: list[Comparison] = []
    for pair in found.comparisons:
        scores = {}
        if low is not None and pair.against == "teacher":
            scores = {
                "repeated_ngrams": Estimate(value=more, low=low, high=more + 9),
                "ended": Estimate(value=less, low=less - 9, high=-low),
            }
        pairs.append(pair.model_copy(update={"score_points": scores}))
    shown = [
        Generation(id="1", prompt="p", truth="t", said={"teacher": "fine", "student": text}) for text in ("Hello", said)
    ]
    changes = {"primary_metric": "token_accuracy", "models": models, "comparisons": pairs, "generations": shown}
    return found.model_copy(update=changes | {"written_prompts": prompts})


def test_a_student_that_goes_in_circles_fails_however_near_it_is() -> None:
    """Its retention is 97 %, which is all that is asked for."""
    verdict = judge(GateSettings(), writes())
    assert not verdict.passed
    failed = [check for check in verdict.checks if not check.passed]
    assert [(check.name, check.required, check.unit) for check in failed] == [
        ("repetition_over_teacher_points", "<= 20 points", "points")
    ]
    assert failed[0].measured == pytest.approx(57)
    assert verdict.degenerate is not None
    assert verdict.degenerate.startswith(
        "The student writes the same four words again 61.0 % of the time, its teacher 4.0 %"
    )
    assert "as in \"I'm sorry, I'm sorry" in verdict.degenerate and "Hello" not in verdict.degenerate
    assert "Repetition over teacher: 37 points more than the 20 points allowed." in verdict.advice
    allowed = judge(GateSettings(allow_degenerate_writing=True), writes())
    assert allowed.passed and allowed.degenerate == verdict.degenerate
    assert "allowed by allow_degenerate_writing" in allowed.checks[1].required


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"repeated": (0.04, 0.04 + MOST_REPETITION / 100 + 0.001)}, "repetition"),
        ({"repeated": (0.04, 0.04 + MOST_REPETITION / 100 - 0.001)}, None),
        ({"repeated": (0.5, 0.61)}, None),
        ({"repeated": (0.61, 0.04)}, None),
        # As great a difference that may be chance, unless there is no interval to trust.
        ({"low": -0.1}, None),
        ({"low": -0.1, "prompts": 5}, "repetition"),
        ({"low": -0.1, "prompts": 6}, None),
        ({"low": None}, "repetition"),
        ({"repeated": (0, 0), "ended": (0.9, 0.9 - MOST_UNENDED / 100 - 0.001)}, "unended"),
        ({"repeated": (0, 0), "ended": (0.9, 0.9 - MOST_UNENDED / 100 + 0.001)}, None),
        ({"repeated": (0, 0), "ended": (0.3, 0.9)}, None),
        ({"repeated": (0, 0), "ended": (0.9, 0.1), "low": -0.1}, None),
        ({"repeated": (0, 0), "ended": (0.9, 0.1), "low": None}, "unended"),
        # Where nothing ends, as in texts that go on, nobody ends less often.
        ({"repeated": (0, 0), "ended": (0.0, 0.0)}, None),
    ],
)
def test_it_fails_where_it_is_far_worse_than_its_teacher_and_not_by_chance(changes: Any, fails: str | None) -> None:
    found = writes(**changes)
    checks = writing_checks(found, allowed=False)
    assert [check.name for check in checks] == ["repetition_over_teacher_points", "unended_over_teacher_points"]
    assert [check.name.split("_")[0] for check in checks if not check.passed] == ([fails] if fails else [])
    assert (degenerate_writing(found) is not None) is (fails is not None)
    if "low" in changes and changes["low"] is not None and fails is None:
        assert any("by chance, for its interval holds 0" in check.required for check in checks)


def test_nothing_is_asked_of_what_was_not_measured() -> None:
    """As of classifiers, and of records from before it was."""
    assert writing_checks(evaluation(with_baseline=True), allowed=False) == []
    assert degenerate_writing(evaluation(with_baseline=True)) is None


def test_what_it_writes_is_shown_and_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    found = writes(said=f"{HOSTILE} " * 4)
    verdict = judge(GateSettings(), found)
    verdict_lines(verdict)
    printed = capsys.readouterr().out
    assert "verdict: FAILED. The student writes the same" in " ".join(printed.split())
    assert not set(printed) & {"\x1b", "\x00", "\u202e"}
    given = inputs(passed=False)
    run = replace(given["run"], evaluation=found, gate=verdict)
    page = render_html(**given | {"run": run} | sections(found, given["run"].export))
    assert "<script>" not in page and "<img" not in page and "&lt;script&gt;" in page
    (table,) = [each for each in detail_sections(found) if each.title == "What it writes"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.tables[0][1].rows}
    assert rows["4-grams that repeat"] == ["4.0 % (4.0–4.0)", "61.0 % (61.0–61.0)", "61.0 % (61.0–61.0)"]
    assert rows["Distinct 2-grams"] == ["25.0 %"] * 3 and rows["Tokens of a response"] == ["–"] * 3
    assert "32 prompts" in table.notes[0]
    # The others stand there alone.
    names = [each.name for each in quantities(found)]
    assert "4-grams that repeat (95 % interval)" in names and not any("istinct" in name for name in names)
    assert all(each.title != "What it writes" for each in detail_sections(writes(prompts=0)))


def test_the_baseline_is_told_of_where_it_would_pass_and_not_where_it_goes_in_circles_too() -> None:
    found = writes()
    assert judge(GateSettings(min_retention=0.5), found).would_pass == []
    models = found.models | {
        "baseline": found.models["baseline"].model_copy(update={"scores": found.models["teacher"].scores})
    }
    pairs = [
        each.model_copy(update={"score_points": {}}) if each.of == "baseline" else each for each in found.comparisons
    ]
    better = found.model_copy(update={"models": models, "comparisons": pairs})
    assert judge(GateSettings(min_retention=0.5), better).would_pass == ["baseline"]
