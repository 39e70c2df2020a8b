"""Several runs beside each other, through the command line, on a tiny teacher: what is told, and what is refused."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.evaluation.kept_rows import KeptRows, read_rows, write_rows
from potstill.run_dir import OWN_DIGEST, file_digest, fingerprint
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import make_project
from tests.kept_answers import assert_metrics_add_up, kept
from tests.recipes.test_calibration_and_slices import with_origins

SETTINGS = ("--set", "gate.allow_weak_teacher=true", "--quiet")
OTHER = ("--set", "train.epochs=1", "--set", "train.learning_rate=5e-4", "--set", 'gate.require={accuracy: ">= 0.999"}')


@pytest.fixture(scope="module")
def project_once(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """A project with two runs, of which one trains less and does not reach what its gate asks for."""
    project = make_project(tmp_path_factory.mktemp("compared"), teacher_folder)
    # The only labels that no model can be right of are the wrong ones.
    with_origins(project / "data/test.jsonl", noise=0.1)
    potstill("run", project / "recipe.yaml", "--out", project / "a", *SETTINGS)
    potstill("run", project / "recipe.yaml", "--out", project / "b", *SETTINGS, *OTHER, check=3)
    return project


@pytest.fixture
def project(project_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project_once, tmp_path / "copy"))


def compare(project: Path, *names: str, check: int = 0) -> str:
    runs = [project / name for name in names]
    done = potstill("report", *runs, "--out", project / "page.html", check=check)
    return done.stdout if check == 0 else done.stderr


def test_two_runs_are_set_against_each_other_row_by_row(project: Path) -> None:
    assert_metrics_add_up(project / "a")
    rows = {name: kept(project / name) for name in "ab"}
    given = [json.loads(line) for line in (project / "data/test.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"], row["truth"]) for row in rows["a"]] == [
        (row["id"], row["text"], row["label"]) for row in given
    ]
    right = {name: [row["models"]["student"]["right"] for row in of] for name, of in rows.items()}
    lost = [row["id"] for row, a, b in zip(given, right["a"], right["b"], strict=True) if a and not b]
    gained = [row["id"] for row, a, b in zip(given, right["a"], right["b"], strict=True) if b and not a]
    assert lost, "the student that trained less has lost no row"
    out = compare(project, "a", "b")
    flat = " ".join(out.split())
    assert f"{len(lost)} rows right to wrong, {len(gained)} rows wrong to right (McNemar p" in flat
    assert f"page: {project / 'page.html'}" in out and "✓ passed" in out and "✗ failed" in out
    accuracy = {name: record(project / name, "evaluate")["models"]["student"]["accuracy"] for name in "ab"}
    assert f"accuracy {100 * (accuracy['b'] - accuracy['a']):+.1f} (".replace("-", "−") in flat
    page = (project / "page.html").read_text()
    assert "<script" not in page and all(f">{row}</div>" in page for row in lost[:30])
    assert "train.epochs" in page and "misses accuracy" in page and "adapt.epochs" not in page


def test_the_report_of_one_recipe_is_as_it_was(project: Path) -> None:
    done = potstill("report", project / "recipe.yaml", "--out", project / "a", *SETTINGS[:2])
    assert stages_that_worked(done.stderr) == set() and "report: kept" in done.stderr
    assert f"report: {project / 'a/report/report.html'}" in done.stdout


def test_the_page_lies_in_the_current_folder_unless_it_is_said_where(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert "page: comparison.html" in potstill("report", "a", "b").stdout
    assert (project / "comparison.html").read_text().startswith("<!doctype html>")


def test_the_same_rows_in_another_order_are_the_same_rows(project: Path) -> None:
    path = project / "data/test.jsonl"
    lines = path.read_text().splitlines()
    random.Random(1).shuffle(lines)
    path.write_text("\n".join(lines) + "\n")
    shutil.copytree(project / "a", project / "c")
    potstill("evaluate", project / "recipe.yaml", "--out", project / "c", *SETTINGS)
    assert [row["id"] for row in kept(project / "c")] != [row["id"] for row in kept(project / "a")]
    out = compare(project, "a", "c", "b")
    assert "0 rows right to wrong, 0 rows wrong to right (McNemar p = 1.000)" in " ".join(out.split())
    # Its verdict and what it exported are of the evaluation before.
    assert "not judged" in out and "c: nothing was exported." in (project / "page.html").read_text()
    potstill("gate", project / "recipe.yaml", "--out", project / "c", *SETTINGS)
    out = compare(project, "a", "c")
    assert "not judged" not in out and "c: nothing was exported." in (project / "page.html").read_text()
    assert "a: nothing was exported." not in (project / "page.html").read_text()


def with_inputs(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another evaluation, by what it says that it was begun with."""
    path = run / "evaluate/inputs.json"
    found = json.loads(path.read_text())
    change(found["inputs"])
    path.write_text(json.dumps(found))


def other_weights(inputs: dict[str, Any]) -> None:
    inputs["several"] = {"kind": "mixture", "weights": [1, 2]}


@pytest.mark.parametrize("change", [lambda inputs: inputs["models"].update({"teacher": "0" * 64}), other_weights])
def test_other_teachers_are_told_by_what_was_evaluated(change: Callable[[Any], None], project: Path) -> None:
    """What lies in adapt/ can be of an earlier command, and of several teachers there is no record of all."""
    told = "The teachers are not the same"
    compare(project, "a", "b")
    assert told not in (project / "page.html").read_text()
    with_inputs(project / "b", change)
    compare(project, "a", "b")
    assert told in (project / "page.html").read_text()


def test_a_later_command_does_not_change_with_what_a_run_was_evaluated(project: Path) -> None:
    compare(project, "a", "b")
    before = (project / "page.html").read_text()
    again = ("--set", "train.epochs=7", "--set", "train.learning_rate=3e-3", "--set", "gate.min_retention=0.5")
    potstill("plan", project / "recipe.yaml", "--out", project / "b", *SETTINGS, *again)
    environment = project / "b/environment.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"processor": "of another machine"}))
    compare(project, "a", "b")
    assert (project / "page.html").read_text() == before and "train.learning_rate" in before
    # Of an evaluation that kept neither, the last command is all that is known.
    with_record(project / "b", lambda found: [found["files"].pop(name) for name in ("recipe.yaml", "environment.json")])
    compare(project, "a", "b")
    page = (project / "page.html").read_text()
    assert "of another machine" in page and "gate.min_retention" in page


def test_forms_of_other_rows_are_not_compared(project: Path) -> None:
    rows, path = read_rows(project / "a/evaluate/answers.parquet"), project / "a/export/answers.parquet"

    def exported(rows: KeptRows) -> None:
        """As if some form had been judged by itself."""
        write_rows(path, rows)
        found = record(project / "a", "export")
        found["files"][path.name] = file_digest(path)
        (project / "a/export/result.json").write_text(json.dumps(found | {OWN_DIGEST: ""}))

    exported(rows)
    compare(project, "a", "b")
    exported(rows.of(np.arange(len(rows.ids))[::-1]))
    error = compare(project, "a", "b", check=1)
    assert "a/export/answers.parquet: of other test rows than the evaluation, or in another order. Remove" in error


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row | {"id": f"{row['id']}-new"}, "of 60 and 60 rows, 1 are only in the first and 1 only in the"),
        (lambda row: row | {"text": "w1 w2 iron"}, "1 have the same id and another text or label, such as 'test-0'"),
        (
            lambda row: row | {"label": "metal" if row["label"] != "metal" else "fruit"},
            "1 have the same id and another",
        ),
    ],
)
def test_runs_on_other_test_rows_are_refused(change: Callable[[Any], Any], told: str, project: Path) -> None:
    path = project / "data/test.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(change(json.loads(first))), *others]) + "\n")
    potstill("evaluate", project / "recipe.yaml", "--out", project / "b", *SETTINGS, *OTHER)
    error = compare(project, "a", "b", check=1)
    assert f"{project / 'a'} and {project / 'b'}: not the same test rows: {told}" in error
    assert not (project / "page.html").exists()


def with_rows(run: Path, change: Callable[[KeptRows], KeptRows]) -> None:
    """Other answers in a run, as if it had been evaluated so."""
    path = run / "evaluate/answers.parquet"
    write_rows(path, change(read_rows(path)))
    with_record(run, lambda found: found["files"].update({path.name: file_digest(path)}))


def with_record(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = record(run, "evaluate")
    change(found)
    (run / "evaluate/result.json").write_text(json.dumps(found | {OWN_DIGEST: ""}))


def another_task(run: Path) -> None:
    with_rows(run, lambda rows: replace(rows, kind="tags"))


def no_answers(run: Path) -> None:
    """As a version left it that kept none."""
    (run / "evaluate/answers.parquet").unlink()
    with_record(run, lambda found: found["files"].pop("answers.parquet"))


def changed_answers(run: Path) -> None:
    with (run / "evaluate/answers.parquet").open("ab") as file:
        file.write(b"more")


def no_evaluation(run: Path) -> None:
    (run / "evaluate/result.json").unlink()


def other_record(run: Path) -> None:
    (run / "evaluate/result.json").write_text('{"of": "a later version"}')


def changed_record(run: Path) -> None:
    path = run / "evaluate/result.json"
    path.write_text(path.read_text().replace('"test_rows": 60', '"test_rows": 61'))


def training_again(run: Path) -> None:
    (run / "train/student/result.json").unlink()


def trained_again(run: Path) -> None:
    shutil.copytree(run / "train/baseline", run / "train/student", dirs_exist_ok=True)


def no_run(run: Path) -> None:
    (run / "lock").unlink()


def not_there(run: Path) -> None:
    shutil.rmtree(run)


def a_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("rows")


def no_recipe(run: Path) -> None:
    (run / "evaluate/recipe.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (another_task, "not of the same task: models of the first answer with one class for each text, and those of "
         "the second with a tag for each word. Compare runs of one task."),
        (no_answers, "evaluated by a version that kept no answers to single rows. Run: potstill evaluate RECIPE --out"),
        (changed_answers, "evaluate/answers.parquet: changed since it was written. Restore it, or remove "),
        (no_evaluation, "not evaluated, or not by a version whose records this one reads. Run: potstill evaluate"),
        (other_record, "not evaluated, or not by a version whose records this one reads. Run: potstill evaluate"),
        (changed_record, "evaluate/result.json: was changed since it was written"),
        (training_again, "its student is not the one that was evaluated; it is trained again. Run: potstill evaluate"),
        (trained_again, "its student is not the one that was evaluated; it is trained again. Run: potstill evaluate"),
        (no_run, "no run directory. Give folders that runs had as their --out."),
        (a_file, "no run directory. Give folders that runs had as their --out."),
        (not_there, "not there. Give folders that runs had as their --out."),
        (no_recipe, "recipe.yaml: no such file."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    spoil: Callable[[Path], None], told: str, project: Path
) -> None:
    spoil(project / "b")
    error = compare(project, "a", "b", check=1)
    assert told in error and "Traceback" not in error and error.count("error:") == 1
    assert str(project / "b") in error and len(error.strip().splitlines()) == 1
    assert not (project / "page.html").exists()


def test_a_run_from_before_is_evaluated_again_and_can_then_be_compared(project: Path) -> None:
    no_answers(project / "b")
    inputs = project / "b/evaluate/inputs.json"
    found = json.loads(inputs.read_text())
    del found["inputs"]["answers"]
    before = {"inputs": found["inputs"], "fingerprint": fingerprint(found["inputs"])}
    inputs.write_text(json.dumps(before))
    with_record(project / "b", lambda found: found.update({"fingerprint": before["fingerprint"]}))
    done = potstill("evaluate", project / "recipe.yaml", "--out", project / "b", *SETTINGS[:2], *OTHER)
    assert stages_that_worked(done.stderr) == {"evaluate"}
    assert "b against" in " ".join(compare(project, "a", "b").split())


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["a"], 2, "one run has its page already"),
        (["recipe.yaml"], 2, "expected --out RUN beside a recipe, or two or more runs"),
        (["a", "b", "--set", "seed=1"], 2, "--set and --rehash are of a recipe"),
        (["a", "b", "--rehash"], 2, "--set and --rehash are of a recipe"),
        (["a", "b", "b/../a"], 1, "b/../a: given twice"),
        (["a", "b", "--out", "data"], 1, "--out data: a folder"),
        (["a", "b", "--out", "recipe.yaml"], 1, "--out recipe.yaml: is there already, and is no page"),
        (["a", "b", "--out", "a/page.html"], 1, "--out a/page.html: within a, which is compared. Name a file outside"),
        (["a", "b", "--out", "b/report/report.html"], 1, "--out b/report/report.html: within b, which is compared."),
        (["a", "b", "--out", "a/../b/page.html"], 1, "within b, which is compared."),
        (["a", "b", "--out", "none/page.html"], 1, "--out none/page.html: there is no folder none"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], code: int, told: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    before = sorted(path.name for path in project.iterdir())
    recipe = (project / "recipe.yaml").read_bytes()
    error = " ".join(potstill("report", *arguments, check=code).stderr.replace("│", " ").split())
    assert told in error
    assert sorted(path.name for path in project.iterdir()) == before
    assert (project / "recipe.yaml").read_bytes() == recipe
