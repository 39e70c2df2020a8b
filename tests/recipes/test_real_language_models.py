"""The built-in projects for language models with their real teacher and data, shortened to a minute or two."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record

SHORT = [
    "task.max_length=256",
    "label.fit_positions=300",
    # Fitted on so few tokens, the encoding is not what it is in the recipe.
    "label.max_kl=5",
    "student.layers=4",
    "train.epochs=2",
    "evaluate.prompts=1",
    "evaluate.rounds=1",
    "evaluate.new_tokens=4",
    "evaluate.generations=1",
    "evaluate.generation_tokens=8",
    "gate.min_speedup=1",
    "gate.max_kl_from_teacher=null",
    "gate.min_kl_gain_over_baseline=null",
    # After so few steps a student repeats itself, as the gate says.
    "gate.allow_degenerate_writing=true",
]


def keep_first(path: Path, rows: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))


@pytest.mark.long
@pytest.mark.parametrize("project", ["support-chat", "python-code"])
def test_the_project_runs_from_its_data_to_its_report(tmp_path: Path, project: str) -> None:
    potstill("init", project, tmp_path)
    recipe = tmp_path / "recipe-layers.yaml"
    for split, rows in (("train", 16), ("validation", 3), ("test", 3)):
        keep_first(tmp_path / f"data/{split}.jsonl", rows)
    changes = [part for each in SHORT for part in ("--set", each)]
    shown = potstill("check", recipe, *changes).stdout
    assert "[[" in shown and "<|im_end|>" in shown
    potstill("run", recipe, "--out", tmp_path / "run", *changes)
    evaluation = record(tmp_path / "run", "evaluate")
    teacher, student = (evaluation["models"][name] for name in ("teacher", "student"))
    # A mask or a shift that is wrong would leave the teacher itself at a loss.
    assert teacher["perplexity"] < 60
    assert student["kl_mean"] < 0.9 * evaluation["initial_kl_mean"]
    assert teacher["time_per_token_ms"] > student["time_per_token_ms"]
    assert json.loads((tmp_path / "run/adapt/result.json").read_text())["converted"] is True
    assert (tmp_path / "run/report/report.html").is_file()


@pytest.mark.long
def test_files_for_llama_cpp_answer_as_the_models_that_they_are_made_of(tmp_path: Path) -> None:
    potstill("init", "support-chat", tmp_path)
    for name, rows in (("train", 6), ("validation", 2), ("test", 3)):
        keep_first(tmp_path / f"data/{name}.jsonl", rows)
    kinds = "f16}", "q8_0}", "q4_k_m}", "q4_0, distil: {steps: 2}}"
    forms = "[" + ", ".join(f"{{kind: gguf, precision: {each}" for each in kinds) + "]"
    passes = [
        "gate.min_retention=null",
        "gate.max_kl_from_teacher=null",
        "gate.min_kl_gain_over_baseline=null",
        "gate.min_speedup=0.01",
    ]
    changes = [part for each in [*SHORT, *passes, "train.epochs=1", f"export={forms}"] for part in ("--set", each)]
    potstill("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *changes)
    found, evaluation = record(tmp_path / "run", "export"), record(tmp_path / "run", "evaluate")
    students = {each["precision"]: each for each in found["artefacts"]}
    teachers = {each["precision"]: each for each in found["rivals"]}
    assert set(students) == set(teachers) == {"f16", "q8_0", "q4_k_m", "q4_0"} and not found["rivals_missing"]
    # The teacher came from a GGUF file itself; its divergence is from what it was before it was written again.
    divergences = {precision: each["model"]["kl_mean"] for precision, each in teachers.items()}
    assert divergences["f16"] < 1e-3
    assert divergences["f16"] < divergences["q8_0"] < 0.05
    assert divergences["q8_0"] < divergences["q4_k_m"] < min(0.2, divergences["q4_0"])
    student = evaluation["models"]["student"]["kl_mean"]
    assert abs(students["f16"]["model"]["kl_mean"] - student) < 0.01 * student
    for of in (students, teachers):
        assert of["f16"]["agreement_with_source"] > 0.98
        assert of["f16"]["size_bytes"] > 1.8 * of["q8_0"]["size_bytes"]
        assert of["q8_0"]["size_bytes"] > of["q4_k_m"]["size_bytes"]
    assert students["q4_0"]["name"] == found["smallest"] == "gguf-q4_0-distilled"
