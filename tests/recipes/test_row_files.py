"""Recipes whose rows lie in other files than JSON lines, through the command line: the same run from the same rows."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record, stages_that_worked
from tests.recipes import test_flavours, test_token_classification
from tests.row_forms import as_lines, write_saved

SPLITS = ("train", "validation", "test", "adapt")


def test_tables_are_the_rows_of_json_lines(tmp_path: Path, teacher_folder: Path, spelling_teacher_folder: Path) -> None:
    project = test_flavours.of_recipes(tmp_path, teacher_folder, spelling_teacher_folder)
    recipe = project / "recipes/csv.yaml"
    lines = [f"data.{name}=../demo/data/{name}.jsonl" for name in SPLITS]
    plans = []
    for out, more in (("csv", []), ("lines", lines)):
        potstill("plan", recipe, "--out", tmp_path / out, *test_flavours.changes_of(recipe, *more))
        plans.append(record(tmp_path / out, "plan")["splits"])
    assert plans[0] == plans[1] and plans[0]["train"]["labelled"] == 30


@pytest.mark.long
def test_a_run_from_tables_goes_on_from_other_files_of_the_same_rows(
    tmp_path: Path, teacher_folder: Path, spelling_teacher_folder: Path
) -> None:
    project = test_flavours.of_recipes(tmp_path, teacher_folder, spelling_teacher_folder)
    finished = test_flavours.run(project, "csv")
    assert record(finished, "gate")["passed"] and record(finished, "plan")["splits"]["train"]["labelled"] == 30
    # The same rows once more, as shards, compressed, and as what `datasets` saves.
    rows = {name: json_lines(project / f"demo/data/{name}.jsonl") for name in SPLITS}
    (project / "shards").mkdir()
    for number in range(3):
        part = rows["train"][number * 30 : number * 30 + 30]
        (project / f"shards/train-{number}.jsonl").write_bytes(as_lines(part))
    write_saved(project / "saved", rows["test"])
    others = ["data.train=../shards", "data.test=../saved", "data.adapt=../demo/data/adapt.jsonl"]
    changes = test_flavours.changes_of(project / "recipes/csv.yaml", *others)
    again = potstill("run", project / "recipes/csv.yaml", "--out", finished, *changes)
    assert stages_that_worked(again.stderr) <= {"plan", "report"}
    plan = record(finished, "plan")["splits"]
    assert plan["train"]["source"] == "3 files" and plan["test"]["source"] == "2 files, fingerprint ab12"
    assert "source" not in plan["validation"]


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sentences_of_conll_are_the_documents(tmp_path: Path, teacher_folder: Path) -> None:
    recipe, changes = test_token_classification.of_recipes(tmp_path, teacher_folder, "conll")
    # Rows without an id are named by their words.
    for path in sorted((tmp_path / "demo-clauses/data").glob("*.jsonl")):
        path.write_bytes(as_lines([{**row, "id": None} for row in json_lines(path)]))
    changed = [part for change in changes for part in ("--set", change)]
    lines = [f"--set=data.{name}=../demo-clauses/data/{name}.jsonl" for name in SPLITS]
    plans = []
    for out, more in (("conll", []), ("lines", lines)):
        potstill("plan", recipe, "--out", tmp_path / out, *changed, *more)
        plans.append(record(tmp_path / out, "plan")["splits"])
    assert plans[0] == plans[1] and plans[0]["train"]["labelled"] == 20 and plans[0]["train"]["rows"] == 60


def test_the_recipe_of_conll(tmp_path: Path, teacher_folder: Path) -> None:
    recipe, changes = test_token_classification.of_recipes(tmp_path, teacher_folder, "conll")
    potstill("run", recipe, "--out", tmp_path / "run", *(part for change in changes for part in ("--set", change)))
    assert record(tmp_path / "run", "plan")["student"]["layers"] == 1


def test_errors_of_files_are_one_sentence_and_exit_1(tmp_path: Path, teacher_folder: Path) -> None:
    recipe, _ = test_token_classification.of_recipes(tmp_path, teacher_folder, "conll")
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    for source, told in (
        ("../cut.jsonl.gz", "its end is missing"),
        ("../nothing-*.conll", "no file has such a name"),
        ("hf:organisation/none", "Rows of the hub need the network once"),
    ):
        done = potstill("check", recipe, "--set", f"data.train={source}", check=1)
        assert done.stderr.splitlines()[-1].startswith("error: ") and told in done.stderr
        assert "Traceback" not in done.stderr
