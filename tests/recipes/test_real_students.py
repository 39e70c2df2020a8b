"""Students that exist already with real teachers and data, shortened to a minute or two each."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record
from tests.recipes.test_license_notices import shrink
from tests.recipes.test_real_language_models import SHORT, keep_first

pytestmark = pytest.mark.long

KEPT_LAYERS = [each for each in SHORT if not each.startswith("student.")]


def changed(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def test_a_small_encoder_with_its_own_word_pieces_learns_from_minilm(tmp_path: Path) -> None:
    shown = potstill("init", "own-tokenizer", tmp_path).stdout
    assert "4,000 word pieces" in shown
    shrink(tmp_path / "data")
    taught = {json.loads(line)["label"] for line in (tmp_path / "data/adapt.jsonl").read_text().split("\n") if line}
    for name in ("validation", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"data/{name}.jsonl").read_text().split("\n") if line]
        kept = [json.dumps(row) + "\n" for row in rows if row["label"] in taught]
        (tmp_path / f"data/{name}.jsonl").write_text("".join(kept))
    shorter = changed(
        "adapt.epochs=4", "train.epochs=5", "train.baseline=false", "evaluate.latency_rows=30", "evaluate.rounds=1"
    )
    done = potstill("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *shorter, check=None)
    assert done.returncode in (0, 3), done.stderr
    evaluation, plan = record(tmp_path / "run", "evaluate"), record(tmp_path / "run", "plan")
    assert (plan["student"]["vocabulary"], plan["teacher"]["vocabulary"]) == (4000, 30522)
    # As for a student that reads as its teacher does: the most frequent class has about a tenth of the rows.
    assert evaluation["models"]["student"]["accuracy"] > 0.4
    assert evaluation["agreement"]["student"]["all_rows"]["value"] > 0.5
    assert (tmp_path / "run/report/report.html").is_file()


def test_a_padded_teacher_and_the_same_model_without_padding_are_at_no_distance(tmp_path: Path) -> None:
    potstill("init", "padded-chat", tmp_path)
    for name, rows in (("train", 6), ("validation", 2), ("test", 2)):
        keep_first(tmp_path / f"data/{name}.jsonl", rows)
    short = changed(*KEPT_LAYERS, "train.epochs=1", "train.learning_rate=1e-6", "train.baseline=false")
    shown = " ".join(potstill("check", tmp_path / "recipe.yaml", *short).stdout.split())
    assert "49,152 tokens in common; of the 49,280 logits of the teacher and 49,152 of the student" in shown
    potstill("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *short, check=None)
    models = record(tmp_path / "run", "evaluate")["models"]
    # Rows of padding that counted on one side alone would take mass from the tokens.
    assert models["pretrained"]["kl_mean"] < 1e-5
    assert models["teacher"]["perplexity"] < 60
    assert models["pretrained"]["perplexity"] == pytest.approx(models["teacher"]["perplexity"], rel=1e-4)


def test_the_student_of_a_chat_goes_on_from_where_it_was(tmp_path: Path) -> None:
    potstill("init", "support-chat", tmp_path)
    for name, rows in (("train", 10), ("validation", 2), ("test", 2)):
        keep_first(tmp_path / f"data/{name}.jsonl", rows)
    potstill("evaluate", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *changed(*SHORT))
    student = f"student={{kind: pretrained, model: {tmp_path / 'run'}}}"
    later = changed(*KEPT_LAYERS, student, "train.learning_rate=2e-4")
    potstill("run", tmp_path / "recipe.yaml", "--out", tmp_path / "later", *later, check=None)
    before, after = (record(tmp_path / name, "evaluate")["models"] for name in ("run", "later"))
    assert after["pretrained"]["kl_mean"] == pytest.approx(before["student"]["kl_mean"], rel=1e-4)
    assert after["student"]["kl_mean"] < after["pretrained"]["kl_mean"]
