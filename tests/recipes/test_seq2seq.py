"""Encoder-decoders from recipe to report, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pair_models import make_pair_project, make_pair_teacher, pair_teacher_folder, write_pairs
from tests.recipes.test_cli import potstill, record, stages_that_worked

__all__ = ["pair_teacher_folder"]


@pytest.fixture
def pair_project(tmp_path: Path, pair_teacher_folder: Path) -> Path:
    return make_pair_project(tmp_path, pair_teacher_folder)


def changed(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "label/teacher/logits/manifest.json").read_text())
    return found


def test_a_teacher_that_writes_the_targets_and_a_student_that_learns_them(pair_project: Path) -> None:
    recipe, out = pair_project / "recipe.yaml", pair_project / "run"
    write_pairs(pair_project / "data/train.jsonl", 80, seed=2, answered=0)
    generated = changed("label.responses={kind: generated, max_new_tokens: 8, temperature: 0}")
    shown = potstill("plan", recipe, "--out", out, *generated)
    assert "the teacher writes what is learnt after it" in shown.stdout
    assert "teacher      4 + 3 x 32" in shown.stdout and "student      2 + 2 x 16" in shown.stdout
    potstill("run", recipe, "--out", out, *generated)
    written = record(out, "label/responses")
    assert (written["written"], written["cut"], written["prompts_dropped"]) == (80, 0, 0)
    assert record(out, "label/teacher/logits")["positions"] == manifest(out)["positions"]["positions"]
    evaluation = record(out, "evaluate")
    assert evaluation["primary_metric"] == "exact_match" and evaluation["learnt_from"] == "generated"
    models = evaluation["models"]
    teacher, student = (models[name]["scores"]["exact_match"] for name in ("teacher", "student"))
    # The teacher knows the task, and the student learnt it of what the teacher wrote, for no target was given.
    assert teacher["value"] == 1.0 and student["value"] > 0.8
    assert student["low"] <= student["value"] <= student["high"]
    assert evaluation["retention"]["value"] == pytest.approx(student["value"] / teacher["value"])
    assert models["student"]["kl_mean"] < evaluation["initial_kl_mean"]
    assert models["student"]["time_to_first_token_ms"] > 0 and models["student"]["time_per_token_ms"] > 0
    sample = evaluation["generations"][0]
    assert sample["said"]["teacher"] == sample["truth"] and "what colour" in sample["prompt"]
    assert "exact match" in (out / "report/report.html").read_text().lower()
    assert record(out, "export")["artefacts"][0]["passed"]
    # Another threshold measures nothing again.
    again = potstill("run", recipe, "--out", out, *generated, *changed("gate.min_retention=0.02"))
    assert stages_that_worked(again.stderr) == {"plan", "gate", "export", "report"} - {"plan", "export"}


@pytest.mark.long
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_stored_and_online_labels_of_given_targets(tmp_path: Path, family: str) -> None:
    project = make_pair_project(tmp_path, make_pair_teacher(tmp_path / "teacher", family))
    for mode in ("stored", "online"):
        out = project / mode
        potstill("run", project / "recipe.yaml", "--out", out, *changed(f"label.mode={mode}", "train.baseline=false"))
        models = record(out, "evaluate")["models"]
        assert models["teacher"]["scores"]["exact_match"]["value"] == 1.0
        assert models["student"]["kl_mean"] < 0.5 * record(out, "evaluate")["initial_kl_mean"]
    assert (project / "stored/label/teacher/logits/manifest.json").exists()
    assert not (project / "online/label/teacher/logits/manifest.json").exists()


def test_targets_that_are_missing_and_several_teachers_are_refused(pair_project: Path) -> None:
    recipe = pair_project / "recipe.yaml"
    said = potstill("check", recipe, *changed("label.encoding={kind: dense}"), check=1)
    assert "dense does not fit seq2seq" in said.stderr
    write_pairs(pair_project / "data/train.jsonl", 80, seed=2, answered=70)
    said = potstill("check", recipe, check=1)
    assert "data.train: 10 of 80 rows have no target" in said.stderr
