"""A student that is its teacher, and is trained for the rounding of its file alone."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record, stages_that_worked
from tests.conftest import make_chat_project
from tests.gguf_models import write_llama

SETTINGS = ["task.max_length=128", "adapt.epochs=12", "student.width=64", "student.layers=3", "train.epochs=0"]
GATE = ["gate.min_speedup=0.01", "gate.min_kl_gain_over_baseline=null", "gate.max_kl_from_teacher=0.5"]
FORMS = (
    "export=[{kind: gguf, precision: q4_0}, {kind: gguf, precision: q4_0, distil: {steps: 60, learning_rate: 1e-3}}]"
)


def changed(*changes: str) -> list[str]:
    return [part for change in (*SETTINGS, *GATE, FORMS, *changes) for part in ("--set", change)]


@pytest.mark.long
def test_a_copy_of_the_teacher_is_trained_for_its_file_alone(tmp_path: Path) -> None:
    folder = make_chat_project(tmp_path, write_llama(tmp_path / "teacher", width=64, layers=3))
    recipe, run = folder / "recipe.yaml", tmp_path / "run"
    done = potstill("run", recipe, "--out", run, *changed("train.baseline=false"))
    trained = record(run, "train/student")
    assert trained["steps"] == trained["planned_steps"] == trained["best_step"] == 0
    assert trained["digest"] and trained["best_validation_loss"] < 1e-3
    evaluation = record(run, "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] == evaluation["initial_kl_mean"] < 1e-6
    assert "fall" not in done.stdout, "what was not trained did not fail to learn"
    plain, distilled = record(run, "export")["artefacts"]
    (rival,) = record(run, "export")["rivals"]
    # The same numbers, rounded alike; and after its training the file is nearer to what was rounded.
    assert plain["model"]["kl_mean"] == pytest.approx(rival["model"]["kl_mean"], rel=1e-3)
    assert distilled["model"]["kl_mean"] < 0.6 * plain["model"]["kl_mean"]
    cards = [(run / each["folder"] / "MODEL_CARD.md").read_text() for each in (plain, distilled)]
    assert "It was not trained, and is judged beside" in cards[0] and "distilled from" not in cards[0]
    assert "It was distilled from" in cards[1] and "not trained" not in cards[1]
    card = (run / "report/MODEL_CARD.md").read_text()
    assert "It was not trained, but for the rounding of its artefacts" in card and "4. For gguf in q" in card
    page = (run / "report/report.html").read_text()
    assert "was left as it begins" in page and "0 of 0 steps" not in page
    again = potstill("run", recipe, "--out", run, *changed("train.baseline=false"))
    assert not stages_that_worked(again.stderr)
    assert json.loads((run / "train/student/metrics.jsonl").read_text().splitlines()[0])["kind"] == "validation"


def test_no_steps_are_planned_as_such_and_a_baseline_of_none_is_refused(tmp_path: Path) -> None:
    folder = make_chat_project(tmp_path, write_llama(tmp_path / "teacher", width=64, layers=3))
    said = potstill("check", folder / "recipe.yaml", *changed(), check=1).stderr
    assert "train.baseline: in 0 epochs it would stay as it begins" in said
    shown = potstill("check", folder / "recipe.yaml", *changed("train.baseline=false")).stdout
    assert "left as it begins" in shown and "0 steps" not in shown
