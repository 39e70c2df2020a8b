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
]


def keep_first(path: Path, rows: int) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))


@pytest.mark.long
@pytest.mark.parametrize("project", ["support-chat", "python-code"])
def test_the_project_runs_from_its_data_to_its_report(tmp_path: Path, project: str) -> None:
    potstill("init", project, tmp_path)
    for name, rows in (("train", 16), ("validation", 3), ("test", 3)):
        keep_first(tmp_path / f"data/{name}.jsonl", rows)
    changes = [part for each in SHORT for part in ("--set", each)]
    shown = potstill("check", tmp_path / "recipe.yaml", *changes).stdout
    assert "[[" in shown and "<|im_end|>" in shown
    potstill("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *changes)
    evaluation = record(tmp_path / "run", "evaluate")
    teacher, student = (evaluation["models"][name] for name in ("teacher", "student"))
    # A mask or a shift that is wrong would leave the teacher itself at a loss.
    assert teacher["perplexity"] < 60
    assert student["kl_mean"] < 0.9 * evaluation["initial_kl_mean"]
    assert teacher["time_per_token_ms"] > student["time_per_token_ms"]
    assert json.loads((tmp_path / "run/adapt/result.json").read_text())["converted"] is True
    assert (tmp_path / "run/report/report.html").is_file()
