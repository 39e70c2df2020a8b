"""Runs whose students have some of their teacher's pieces: nothing is relabelled, and each reads in its own."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potstill.tasks.loading import tokenizer_fingerprint
from tests.commands import potstill, record, stages_that_worked
from tests.recipes.test_flavours import ADAPTED, CHANGES, project, run  # noqa: F401
from tests.tagged_project import make_tagged_project

WORDS = "student.vocabulary"


def manifest(finished: Path, of: str = "teacher/logits") -> dict:
    return json.loads((finished / f"label/{of}/manifest.json").read_text())


def fingerprint(folder: Path) -> str:
    return tokenizer_fingerprint(AutoTokenizer.from_pretrained(folder))


def test_a_trimmed_student_and_then_a_whole_one_from_the_same_labels(project: Path) -> None:  # noqa: F811
    finished = run(project, "trimmed", "train.baseline=true")
    plan, evaluation = record(finished, "plan"), record(finished, "evaluate")
    pieces = plan["student"]["vocabulary"], plan["teacher"]["vocabulary"]
    assert pieces[0] < 150 < 340 < pieces[1]
    assert evaluation["models"]["student"]["num_parameters"] == plan["student"]["parameters"]
    # All words of validation are of the same few.
    assert plan["spelt_share"] == 0
    card = (finished / "report/MODEL_CARD.md").read_text()
    assert f"Its tokenizer has {pieces[0]} of the teacher's {pieces[1]} pieces" in card
    for folder in ("train/student/model", "train/baseline/model", "export/safetensors"):
        tokenizer = AutoTokenizer.from_pretrained(finished / folder)
        weights = load_file(finished / folder / "model.safetensors")
        assert len(tokenizer) == weights["bert.embeddings.word_embeddings.weight"].shape[0] == pieces[0]
        assert tokenizer.tokenize("w1 other7 zinc") == ["w1", "o", "##t", "##h", "##e", "##r", "##7", "zinc"]
    saved = (finished / "train/student/model/tokenizer_config.json").read_text()
    assert "/tmp" not in saved and str(project) not in saved
    before = manifest(finished)
    assert before["source"]["tokenizer"] == fingerprint(finished / "adapt/model")
    said = [part for change in (*CHANGES, *ADAPTED, f"{WORDS}=full") for part in ("--set", change)]
    again = potstill("train", project / "recipes/trimmed.yaml", "--out", finished, *said)
    assert stages_that_worked(again.stderr) == {"plan", "train/student"}
    assert manifest(finished) == before
    assert record(finished, "plan")["student"]["vocabulary"] == pieces[1]


@pytest.mark.long
def test_a_teacher_that_is_asked_says_what_was_stored_of_it(project: Path) -> None:  # noqa: F811
    losses = (
        "losses=[{kind: soft_targets, temperature: 2}, {kind: hard_labels}, {kind: hidden_states}, {kind: attention}]"
    )
    asked = run(project, "trimmed", losses, "label.mode=online", out="asked")
    stored = run(project, "trimmed", losses, out="stored")
    # Without a map between the ids, the teacher would be asked about other words.
    students = [record(each, "train/student") for each in (asked, stored)]
    assert students[0]["best_validation_loss"] == pytest.approx(students[1]["best_validation_loss"], rel=1e-3)


@pytest.mark.long
def test_later_generations_are_taught_in_the_students_own_pieces(project: Path, spelling_teacher_folder: Path) -> None:  # noqa: F811
    recipe = project / "recipes/born_again.yaml"
    recipe.write_text(recipe.read_text().replace(str(manifest_teacher(recipe)), str(spelling_teacher_folder)))
    losses = "losses=[{kind: soft_targets, temperature: 1}, {kind: hard_labels}, {kind: hidden_states}]"
    for features in ("stored", "online"):
        finished = run(project, "born_again", f"{WORDS}=trimmed", losses, f"label.features={features}", out=features)
        own = fingerprint(finished / "train/student/model")
        tokenizers = [
            manifest(finished, f"{name}/logits")["source"]["tokenizer"] for name in ("teacher", "generation-1")
        ]
        assert tokenizers == [fingerprint(finished / "adapt/model"), own]
        assert own == fingerprint(finished / "train/generation-1/model")
        shutil.rmtree(finished)


def manifest_teacher(recipe: Path) -> str:
    return recipe.read_text().split("model: ")[1].split("}")[0]


@pytest.mark.long
def test_several_teachers_are_asked_in_their_own_ids(project: Path, spelling_teacher_folder: Path) -> None:  # noqa: F811
    recipe = project / "recipes/mixture.yaml"
    recipe.write_text(recipe.read_text().replace(manifest_teacher(recipe), str(spelling_teacher_folder)))
    students = []
    for mode in ("stored", "online"):
        finished = run(project, "mixture", f"{WORDS}=trimmed", f"label.mode={mode}", out=mode)
        assert record(finished, "plan")["student"]["vocabulary"] < 150
        students.append(record(finished, "train/student"))
    assert students[0]["best_validation_loss"] == pytest.approx(students[1]["best_validation_loss"], rel=1e-3)


@pytest.mark.long
def test_words_are_tagged_by_a_distilbert_of_fewer_pieces(tmp_path: Path, spelling_teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, spelling_teacher_folder)  # noqa: F811
    path = project / "data/test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # A word that no row of train has is spelt by the student, in seven pieces for the teacher's one.
    for row in rows:
        row["tokens"] = [f"other{number}" if word == "w20" else word for number, word in enumerate(row["tokens"])]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    said = ("--set", f"{WORDS}=trimmed", "--set", "student.family=distilbert", "--set", "train.baseline=false")
    potstill("run", project / "recipe.yaml", "--out", project / "run", *said)
    evaluation = record(project / "run", "evaluate")
    assert evaluation["test_words"] == sum(len(row["tokens"]) for row in rows)
    assert evaluation["models"]["student"]["scores"]["entity_f1"]["value"] > 0.5
    assert json.loads((project / "run/train/student/model/config.json").read_text())["model_type"] == "distilbert"


@pytest.mark.long
def test_a_distilbert_follows_the_features_of_a_bert(project: Path) -> None:  # noqa: F811
    losses = (
        "losses=[{kind: soft_targets, temperature: 2}, {kind: hard_labels}, {kind: hidden_states}, {kind: attention}, "
        "{kind: relations, heads: 4}]"
    )
    finished = run(project, "hybrid", "student.family=distilbert", losses, "train.baseline=true")
    plan, evaluation = record(finished, "plan"), record(finished, "evaluate")
    assert plan["student"]["family"] == "distilbert"
    assert any("another kind of network (distilbert)" in warning for warning in plan["warnings"])
    assert evaluation["models"]["student"]["num_parameters"] == plan["student"]["parameters"]
    tokenizer = AutoTokenizer.from_pretrained(finished / "export/safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(finished / "export/safetensors")
    assert model(**tokenizer("w1 zinc", return_tensors="pt")).logits.shape == (1, 3)


@pytest.mark.long
def test_the_candidates_have_the_students_pieces(project: Path) -> None:  # noqa: F811
    recipe = project / "recipes/trimmed.yaml"
    listed = [
        potstill("students", recipe, "--most", "2", "--set", f"{WORDS}={kind}", *more).stdout
        for kind, more in (("full", ["--no-measure"]), ("trimmed", []))
    ]
    assert "(teacher)" in listed[1] and listed[0] != listed[1]
    path = project / "demo/data/validation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [json.dumps(row | {"text": "other3 " + row["text"]}) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    checked = potstill("check", recipe).stdout
    # One piece of each row's, which are some ten.
    (share,) = re.findall(r"pieces; ([\d.]+)% of those of validation are spelt with others", checked)
    assert 5 < float(share) < 15


@pytest.mark.long
def test_a_student_with_factorised_embeddings(project: Path) -> None:  # noqa: F811
    losses = "losses=[{kind: soft_targets, temperature: 2}, {kind: hard_labels}, {kind: hidden_states}]"
    finished = run(project, "response", losses, "student.vocabulary={kind: factorised, size: 4}", "train.epochs=3")
    plan = record(finished, "plan")
    assert plan["student"]["family"] == "electra" and any("another" in warning for warning in plan["warnings"])
    weights = load_file(finished / "train/student/model/model.safetensors")
    assert weights["electra.embeddings.word_embeddings.weight"].shape[1] == 4
    assert record(finished, "export")["artefacts"][0]["passed"]
