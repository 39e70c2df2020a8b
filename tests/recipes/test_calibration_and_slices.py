"""Temperatures, slices and lost rows through the command line, where some test rows are mislabelled."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from potstill.run_dir import file_digest
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import CLASSES, make_project, write_rows

CHANGES = (
    "evaluate.slices=[origin]",
    "evaluate.sample_regressions=3",
    "adapt.epochs=12",
    "train.epochs=3",
    "gate.allow_weak_teacher=true",
    'gate.require={ece_calibrated: "<= 0.6", nll: "<= 5", brier_calibrated: "<= 0.001"}',
)
SETTINGS = [part for change in CHANGES for part in ("--set", change)]


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_project(tmp_path_factory.mktemp("calibrated"), teacher_folder)
    write_rows(project / "data/validation.jsonl", 45, seed=3)
    for name in ("train", "validation", "test", "adapt"):
        with_origins(project / f"data/{name}.jsonl", noise=0.25 if name in ("validation", "test") else 0.0)
    # The last requirement is not met, and the report is written all the same.
    potstill("run", project / "recipe.yaml", "--out", project / "run", *SETTINGS, check=3)
    return project


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_once, tmp_path / "copy"))


def with_origins(path: Path, *, noise: float) -> None:
    """Rows with an origin each, and some with a label that is wrong, so that no model can be right of all."""
    draw = random.Random(9)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["origin"] = ["web <b>bold</b>", "mail", None][number % 3]
        if draw.random() < noise:
            row["label"] = draw.choice(sorted(set(CLASSES) - {row["label"]}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def logits_of(model_folder: Path, rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """What transformers makes of these rows, and their classes."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    with torch.inference_mode():
        each = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0].double().numpy() for row in rows]
    return np.array(each), np.array([model.config.label2id[row["label"]] for row in rows])


def loss(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    scaled = torch.from_numpy(logits / temperature)
    return float(torch.nn.functional.cross_entropy(scaled, torch.from_numpy(truth)))


def test_temperatures_slices_and_lost_rows_are_in_record_files_and_report(finished: Path) -> None:
    run = finished / "run"
    evaluation = record(run, "evaluate")
    saved = json.loads((run / "evaluate/calibration.json").read_text())
    names = ("answers.parquet", "calibration.json", "recipe.yaml", "environment.json")
    assert evaluation["files"] == {name: file_digest(run / "evaluate" / name) for name in names}
    assert saved["fitted_on"]["split"] == "validation" and saved["fitted_on"]["rows"] == 45
    assert saved["models"] == {
        name: {key: each.get(key) for key in ("temperature", "decisions", "reason")}
        for name, each in evaluation["calibration"].items()
    }
    rows = {
        name: [json.loads(line) for line in (finished / f"data/{name}.jsonl").read_text().splitlines()]
        for name in ("validation", "test")
    }
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2001))
    for name in ("student", "baseline"):
        folder = run / f"train/{name}/model"
        fitted_on, judged_on = (logits_of(folder, rows[split]) for split in ("validation", "test"))
        best = grid[np.argmin([loss(*fitted_on, temperature) for temperature in grid])]
        temperature = evaluation["calibration"][name]["temperature"]
        assert temperature == pytest.approx(best, rel=4e-3)
        scores = evaluation["models"][name]["scores"]
        assert scores["cross_entropy_calibrated"] == pytest.approx(loss(*judged_on, temperature), abs=1e-4)
        assert evaluation["models"][name]["cross_entropy"] == pytest.approx(loss(*judged_on, 1.0), abs=1e-4)
        assert {"brier", "brier_calibrated", "ece_calibrated"} <= scores.keys()
        bins = evaluation["calibration"][name]["bins_calibrated"]
        gap = sum(each["decisions"] / 60 * abs(each["confidence"] - each["accuracy"]) for each in bins)
        assert gap == pytest.approx(scores["ece_calibrated"])
    origins = {row["id"]: row["origin"] or "(without)" for row in rows["test"]}
    by_origin = {each["name"]: each["rows"] for each in evaluation["slices"] if each["field"] == "origin"}
    assert by_origin == dict.fromkeys(("web <b>bold</b>", "mail", "(without)"), 20) and len(origins) == 60
    assert sum(each["rows"] for each in evaluation["slices"] if each["by"] == "class") == 60
    found = evaluation["regressions"]
    (pair,) = [each for each in evaluation["comparisons"] if (each["of"], each["against"]) == ("student", "teacher")]
    assert (found["gained"], found["lost"]) == (pair["only_of_right"], pair["only_against_right"])
    assert len(found["rows"]) == min(3, found["lost"]) and all(
        row["teacher"] == row["truth"] != row["student"] for row in found["rows"]
    )
    verdict = {check["name"]: check for check in record(run, "gate")["checks"]}
    for name, passed in (("ece_calibrated", True), ("nll", True), ("brier_calibrated", False)):
        assert verdict[name]["passed"] is passed
    assert verdict["nll"]["measured"] == evaluation["models"]["student"]["cross_entropy"]
    page = (run / "report/report.html").read_text()
    for anchor in ("calibration", "slices", "regressions"):
        assert f'<h2 id="{anchor}">' in page
    assert "web &lt;b&gt;bold&lt;/b&gt;" in page and "<b>" not in page
    assert "… calibrated (ECE)" in page and "Brier score" in page
    assert "origin" not in record(run, "plan")["splits"]["test"]["unread"]


def test_another_value_of_a_slice_is_measured_again_and_nothing_else_is_done_again(finished: Path) -> None:
    path = finished / "data/test.jsonl"
    path.write_text(path.read_text().replace('"mail"', '"letter"', 1))
    again = potstill("run", finished / "recipe.yaml", "--out", finished / "run", *SETTINGS, check=3)
    worked = stages_that_worked(again.stderr)
    assert "evaluate" in worked and worked <= {"evaluate", "gate", "export", "report"}
    names = [each["name"] for each in record(finished / "run", "evaluate")["slices"]]
    assert "letter" in names and "mail" in names
    kept = potstill("run", finished / "recipe.yaml", "--out", finished / "run", *SETTINGS, check=3)
    assert not stages_that_worked(kept.stderr)


def test_check_refuses_slices_and_thresholds_that_cannot_be_measured(finished: Path) -> None:
    wrong = potstill("check", finished / "recipe.yaml", "--set", "evaluate.slices=[colour]", check=1)
    assert 'evaluate.slices: no row of data.test has a value of "colour". Fields that are there' in wrong.stderr
    assert '"origin"' in wrong.stderr and "Traceback" not in wrong.stderr
    write_rows(finished / "data/validation.jsonl", 12, seed=3)
    few = potstill("check", finished / "recipe.yaml", *SETTINGS, check=1)
    assert "gate.require.ece_calibrated" in few.stderr and "and there are 12. Add" in few.stderr
