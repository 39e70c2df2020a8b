"""A program of ExecuTorch through the command line: made, judged again, asked elsewhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import potstill, record
from tests.conftest import make_project

pytest.importorskip("executorch")

NAME = "executorch-int8"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_project(tmp_path_factory.mktemp("executorch"), teacher_folder)
    potstill(
        "run",
        project / "recipe.yaml",
        "--out",
        project / "run",
        "--set",
        "export=[{kind: executorch, precision: int8}]",
        "--quiet",
    )
    return project


def elsewhere(folder: Path, lines: str) -> list[dict[str, object]]:
    """In a process that can import neither this package nor transformers."""
    barred = "import sys, runpy\nfor name in ('potstill', 'transformers'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", barred + f"runpy.run_path({str(folder / 'predict.py')!r}, run_name='__main__')"],
        input=lines, capture_output=True, text=True, cwd=folder.parent, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.long
def test_programs_are_judged_by_themselves_beside_the_teacher_in_the_same_form(finished: Path) -> None:
    exported, evaluated = record(finished / "run", "export"), record(finished / "run", "evaluate")
    (made,), (rival,) = exported["artefacts"], exported["rivals"]
    assert made["name"] == NAME and rival["name"] == f"teacher {NAME}" and exported["rivals_missing"] == {}
    model = made["model"]
    assert made["passed"] and made["agreement_with_source"] > 0.9 and made["max_logit_difference"] > 0
    assert model["latency_p50_ms"] > 0 and model["load_ms"] > 0
    # The libraries are there before the model is.
    assert 0 < model["memory_above_floor_bytes"] < 0.3 * model["peak_memory_bytes"]
    assert model["num_parameters"] == evaluated["models"]["student"]["num_parameters"]
    found = json.loads(potstill("bench", finished / "run/export/executorch-int8", "--json", "--rounds", "1").stdout)
    assert found["method"]["runtime"] == "executorch" and "executorch" in found["method"]["made_with"]


@pytest.mark.long
def test_a_folder_answers_elsewhere_as_here_and_its_card_says_what_it_needs(finished: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (finished / "data/test.jsonl").read_text().splitlines()][:12]
    # One that is cut, one of no words, one of a word.
    texts = [*(row["text"] for row in rows), "w1 iron " * 200, "", "iron"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "rows.jsonl").write_text(lines)
    folder = Path(shutil.copytree(finished / "run/export" / NAME, tmp_path / NAME))
    there = elsewhere(folder, lines)
    potstill("predict", folder, tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl", "--batch-size", "5")
    here = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["label"] for each in here] == [each["label"] for each in there]
    chances = [[each["probability"] for each in found] for found in (here, there)]
    assert chances[0] == pytest.approx(chances[1], rel=1e-5)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "library_name: executorch" in card and "answered by ExecuTorch" in card
    assert "`forward(input_ids, attention_mask)`" in card and "at most 24 tokens" in card
    assert "needs neither PyTorch" not in card
    needed = (folder / "requirements.txt").read_text()
    assert "executorch==" in needed and "\ntorch==" in needed and "transformers" not in needed
