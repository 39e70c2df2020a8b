"""What a teacher must be better than, against plain counting; and floors where nothing can be fitted."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from potstill.data.pairs import Pair
from potstill.data.prepare import Split
from potstill.evaluation import references, single_label
from potstill.evaluation.answers import measured_by
from potstill.evaluation.case import Case
from potstill.evaluation.references import is_beaten
from potstill.measure.entities import entities_of
from potstill.measure.floor import unfit
from potstill.measure.language import TokensOfRows
from potstill.measure.quality import bootstrap_weights
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.judged_rows import case_of
from potstill.stages.plan import make_plan
from tests.conftest import make_chat_project, make_project
from tests.tagged_project import make_tagged_project


def loaded(project: Path, *changes: str) -> tuple[Recipe, Inputs]:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return recipe, read_inputs(recipe, project)


@pytest.fixture
def project(tmp_path: Path, teacher_folder: Path) -> Path:
    return make_project(tmp_path, teacher_folder)


def judged(project: Path, *changes: str) -> Case:
    recipe, inputs = loaded(project, *changes)
    return case_of(recipe, inputs, Progress())


def write(project: Path, split: str, texts: Sequence[str], labels: Sequence[object]) -> None:
    rows = [
        {"id": f"{split}-{number}", "text": text, "label": label}
        for number, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    (project / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_most_frequent_class_is_that_of_the_rows_that_teach(project: Path) -> None:
    texts = [f"w{number} w1" for number in range(9)]
    write(project, "train", texts, ["metal", "beast", "beast", *[None] * 6])
    write(project, "adapt", [f"{text} w2" for text in texts], ["metal"] * 5 + ["beast"] * 3 + ["fruit"])
    write(project, "test", [f"{text} w3" for text in texts], ["fruit"] * 5 + ["metal"] * 3 + ["beast"])
    inputs = judged(project, "data.near_copies=null")
    truth, weights = np.array([1] * 5 + [2] * 3 + [0]), bootstrap_weights(9, seed=0, resamples=40)
    teacher = np.full(41, 0.5)
    most, guess = references.of_single_label(inputs, truth, teacher, weights)
    assert (most.value, guess.value) == (3 / 9, 1 / 3)
    assert is_beaten(most) and most.margin is not None and most.margin.value == pytest.approx(100 * (0.5 - 3 / 9))
    assert most.margin.low < most.margin.value < most.margin.high
    assert not is_beaten(references.of_single_label(inputs, truth, np.full(41, 1 / 3), weights)[1]), (
        "at it is not above it"
    )


def test_the_same_labels_are_those_that_serve_the_rows_that_teach(project: Path) -> None:
    sets: list[list[str]] = [["a"], ["a", "b"], ["a", "b", "c"], ["b"], []]
    for split in ("train", "adapt", "validation", "test"):
        write(project, split, [f"{split} {number} text" for number in range(5)], sets)
    inputs = judged(project, "task.problem_type=multi_label_classification", "data.near_copies=null")
    truth = np.array([[label in each for label in "abc"] for each in sets])
    (found,) = references.of_multi_label(inputs, truth, np.ones(41), bootstrap_weights(5, seed=0, resamples=40))
    # a and b at every row: 6 of 10 are right, and 7 are there.
    assert found.value == pytest.approx(2 * 6 / (10 + 7))


def test_a_tag_at_every_word_is_the_best_of_all(tmp_path: Path, teacher_folder: Path) -> None:
    inputs = judged(make_tagged_project(tmp_path, teacher_folder))
    rows = inputs.test
    truth = [entities_of(row.tags) for row in rows]
    found, nothing = references.of_tags(inputs, truth, np.ones(2001), bootstrap_weights(len(rows), seed=0))
    words, there = sum(len(row.tokens) for row in rows), sum(map(len, truth))
    tag = found.name.split()[2]
    alone = sum(end - start == 1 and kind == tag[2:] for each in truth for kind, start, end in each)
    assert tag[:2] == "B-" and found.value == pytest.approx(2 * alone / (words + there))
    assert (nothing.name, nothing.value, is_beaten(nothing)) == ("no entity at all", 0, True)


def test_a_teacher_that_finds_nothing_where_nothing_is_has_not_been_tested(
    tmp_path: Path, teacher_folder: Path
) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    write_tags(project, "test", ["O", "O"], ["O", "O"])
    recipe, inputs = loaded(project, "data.near_copies=null")
    perfect, weights = np.ones(2001), bootstrap_weights(2, seed=0)
    always, nothing = references.of_tags(case_of(recipe, inputs, Progress()), [[], []], perfect, weights)
    assert (nothing.value, is_beaten(nothing), is_beaten(always)) == (1, False, True)
    assert any(line.startswith("test: no document has") for line in make_plan(recipe, inputs, project).warnings)


def write_tags(project: Path, split: str, *tags: Sequence[str]) -> None:
    rows = [
        {"id": f"{split}-{number}", "tokens": [f"w{number}{word}" for word in range(len(each))], "tags": each}
        for number, each in enumerate(tags)
    ]
    (project / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_language_model_must_beat_counting_its_tokens(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    for split, texts in {
        "train": ["w1 w1 w2"],
        "adapt": ["w1 w3 w3"],
        "validation": ["w4 w5"],
        "test": ["w6 w7"],
    }.items():
        rows = [json.dumps({"id": f"{split}-{n}", "text": text}) for n, text in enumerate(texts)]
        (project / f"data/{split}.jsonl").write_text("\n".join(rows) + "\n")
    inputs = judged(project)
    ids = inputs.tokenizer.convert_tokens_to_ids(["w1", "w2", "w9"])
    tokens = TokensOfRows(np.array([0, 0, 1]), np.array(ids), bootstrap_weights(2, seed=0, resamples=40))
    losses = {"teacher": np.array([1.0, 1.0, 1.0]), "untrained": np.array([0.5, 0.5, 0.5])}
    counted, untrained = references.of_tokens(inputs, tokens, losses, 80)
    # Learnt are w1 w2 <end> and w3 w3 <end>: nothing predicts a first token. Each of 80 tokens counts once more.
    expected = -np.log(np.array([2, 2, 1]) / 86).mean()
    assert np.log(counted.value) == pytest.approx(expected) and is_beaten(counted)
    assert counted.margin is not None and counted.margin.value == pytest.approx(expected - 1)
    assert untrained.value == pytest.approx(np.exp(0.5)) and not is_beaten(untrained)
    # A student that begins as a whole copy of its teacher says nothing of it; the tokens still do.
    same = references.of_tokens(inputs, tokens, losses | {"untrained": losses["teacher"] + 1e-7}, 80)
    assert [reference.name for reference in same] == [counted.name]


@pytest.mark.parametrize(("same", "told"), [(1, False), (2, True)])
def test_always_one_target_is_a_rule_only_where_it_is_frequent(project: Path, same: int, told: bool) -> None:
    taught = [Pair(f"t{n}", "x", "one" if n < same else f"target {n}") for n in range(120)]
    test = [Pair("a", "x", "one"), Pair("b", "y", "two")]
    inputs = replace(judged(project), splits={"train": Split(taught, 120), "test": Split(test, 2)})
    found = references.of_whole_responses(inputs, np.zeros(41), bootstrap_weights(2, seed=0, resamples=40))
    assert [(each.value, is_beaten(each)) for each in found] == ([(0.5, False)] if told else [])


def test_floors_that_cannot_be_fitted_are_told_and_fail_nothing(project: Path) -> None:
    texts = [f"w{number} w1" for number in range(9)]
    write(project, "train", texts, ["metal"] * 9)
    write(project, "adapt", ["🦊", "🐻 🐺", "a b c"], ["metal", "beast", "fruit"])
    write(project, "test", [f"{text} w3" for text in texts], ["fruit", "metal", "beast"] * 3)
    write(project, "validation", [f"{text} w4" for text in texts], ["fruit", "metal", "beast"] * 3)
    case = judged(project, "data.near_copies=null")
    logits = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    outputs, truth = dict.fromkeys(("teacher", "student"), logits), np.array([1, 2, 0] * 3)
    answers = single_label.SingleLabelAnswers(outputs, truth, 3, bootstrap_weights(9, seed=0))
    found = single_label.judged(case, answers, measured_by(answers, "single_label"))
    assert found.floors == {}
    assert found.floors_missing == {
        "student_labels": "all of them have the same label",
        "teacher_labels": "none of their texts has a word of two letters or more",
    }
    assert [reference.metric for reference in found.references] == ["accuracy", "accuracy"]


def test_what_can_be_fitted_is() -> None:
    assert unfit(["two words", "🦊"], [1, 2]) is None
    assert unfit(["two words", "others"], [(), ()]) is not None


def test_plan_warns_of_a_test_that_one_answer_gets_right(project: Path) -> None:
    def warnings() -> list[str]:
        recipe, inputs = loaded(project, "data.near_copies=null")
        return [line for line in make_plan(recipe, inputs, project).warnings if line.startswith("test:")]

    assert warnings() == []
    write(project, "test", ["w1 w2", "w3 w4"], ["metal", "metal"])
    assert warnings()[0].startswith("test: all rows have the same label (metal), so no teacher can be better")


@pytest.mark.parametrize(
    ("labels", "problem_type", "alike"),
    [
        (["metal", "metal"], "single_label", "all rows have the same label (metal)"),
        (["metal"], "single_label", "there is but one row"),
        ([[], []], "multi_label", "all rows have the same label (none)"),
        ([3.0, 3.0], "regression", "all rows have the same number (3)"),
        (["metal", "beast"], "single_label", None),
        ([["metal"], []], "multi_label", None),
        ([3.0, 2.5], "regression", None),
    ],
)
def test_plan_warns_of_a_validation_that_cannot_choose(
    project: Path, labels: list[object], problem_type: str, alike: str | None
) -> None:
    others: dict[str, list[object]] = {
        "single_label": ["metal", "beast", "fruit"],
        "multi_label": [["metal"], ["beast", "metal"], []],
        "regression": [1.0, 2.0, 3.0],
    }
    for start, split in ((10, "train"), (20, "adapt"), (30, "test")):
        write(project, split, [f"w{start + number} w3" for number in range(3)], others[problem_type])
    write(project, "validation", [f"w{number} w2" for number in range(len(labels))], labels)
    form = problem_type if problem_type == "regression" else f"{problem_type}_classification"
    recipe, inputs = loaded(project, "data.near_copies=null", f"task.problem_type={form}")
    found = [line for line in make_plan(recipe, inputs, project).warnings if line.startswith("validation:")]
    assert [line.partition(", so the checkpoint")[0] for line in found] == ([f"validation: {alike}"] if alike else [])


def test_plan_warns_of_a_validation_without_entities(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    write_tags(project, "validation", ["O", "O"], ["O", "O"])
    recipe, inputs = loaded(project, "data.near_copies=null")
    assert any(line.startswith("validation: no document has") for line in make_plan(recipe, inputs, project).warnings)
