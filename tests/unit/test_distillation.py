"""`potstill.distill`: the run of a recipe that is given as arguments, which leaves nothing outside its folder."""

import doctest
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging

import potstill
from potstill import distillation
from potstill.errors import DataError, ModelError, PotstillError, RecipeError
from potstill.exporters import Safetensors
from potstill.measure import speed
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe, recipe_of
from potstill.teachers import PretrainedTeacher
from tests.conftest import make_project

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {
    "task": {"kind": "text_classification", "max_length": 24},
    "adapt": {"epochs": 8, "learning_rate": 3e-3},
    "train": {"epochs": 2, "batch_size": 16, "learning_rate": 5e-3},
    "evaluate": {"rounds": 1, "latency_rows": 8},
    "gate": {"min_retention": 0.01, "allow_weak_teacher": True},
}


class Lines(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module", autouse=True)
def no_processes() -> Iterator[None]:
    """Speed is measured in fresh processes, of which each takes seconds to begin."""
    canned = {"latencies_ms": [1.0] * 8, "throughput_per_s": 1.0, "peak_memory_bytes": 1}
    canned |= {"floor_memory_bytes": 0, "load_ms": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_in_fresh_process", lambda request: canned)
        yield


def rows_of(project: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [json.loads(line) for line in (project / f"data/{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation", "test", "adapt")
    }


def distill_rows(project: Path, out: Path, progress: Progress | bool = False, **settings: Any) -> potstill.Distilled:
    """A loaded model and rows in memory: nothing has a name on disk."""
    teacher = AutoModelForSequenceClassification.from_pretrained(project / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(project / "teacher")
    return potstill.distill(
        teacher, {"layers": 2}, rows_of(project), tokenizer=tokenizer, out=out, progress=progress, **(TINY | settings)
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("distilled"), teacher_folder)
    shutil.copytree(teacher_folder, folder / "teacher")
    return folder


@pytest.fixture(scope="module")
def first(project: Path) -> potstill.Distilled:
    return distill_rows(project, project / "run")


def test_a_loaded_model_and_rows_give_a_model_that_predicts_and_its_records(
    first: potstill.Distilled, project: Path
) -> None:
    assert first.passed and first.gate.passed and first.folder == project / "run/export/safetensors"
    assert sorted(first.evaluation.models) == ["baseline", "student", "teacher"]
    assert first.report.read_text().startswith("<!doctype html>")
    assert isinstance(first.model, BertForSequenceClassification) and not first.model.training
    assert first.model.config.num_hidden_layers == 2
    inputs = first.tokenizer("w1 w2 iron w3", return_tensors="pt")
    shipped = AutoModelForSequenceClassification.from_pretrained(first.folder)
    assert torch.equal(first.model(**inputs).logits, shipped(**inputs).logits)
    assert repr(first) == f"Distilled(passed=True, folder={first.folder!r}, report={first.report!r})"


def test_nothing_is_left_outside_the_folder_that_it_was_told(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    distill_rows(project, tmp_path / "here/run", train=TINY["train"] | {"epochs": 1}, adapt={"epochs": 1})
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "here"] and list((tmp_path / "here").iterdir()) == [
        tmp_path / "here/run"
    ]
    assert {"teacher", "data"} <= {path.name for path in (tmp_path / "here/run").iterdir()}


def test_the_same_arguments_again_keep_every_stage_and_print_nothing(
    first: potstill.Distilled, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines()
    # Whatever ran before in this process may have turned them off.
    shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    capsys.readouterr()
    again = distill_rows(project, project / "run", lines)
    _, *stages = lines.lines
    assert len(stages) == 11 and all(line.endswith(": kept") for line in stages)
    assert again.recipe == first.recipe and again.evaluation == first.evaluation
    loading = capsys.readouterr().err
    if not shown:
        logging.disable_progress_bar()
    # The teacher here is loaded by the test; all that potstill loads or saves is unseen.
    assert loading.count("Loading weights: 100%") == 1 and "Writing" not in loading


def test_the_recipe_in_the_folder_is_the_same_run_from_anywhere(
    first: potstill.Distilled, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = Lines()
    recipe = load_recipe(project / "run/recipe.yaml")
    assert recipe == first.recipe
    potstill.run_recipe(recipe, project / "run", project / "run", lines)
    assert all(line.endswith(": kept") for line in lines.lines[1:])


def test_a_student_that_failed_is_returned_with_its_verdict(
    first: potstill.Distilled, project: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(project / "run", tmp_path / "run"))
    failed = distill_rows(project, out, gate={"min_retention": 1.9, "allow_weak_teacher": True})
    assert not failed.passed and failed.export.skipped
    assert failed.folder == out / "train/student/model"
    assert failed.model.config.num_hidden_layers == 2


def test_the_folder_is_one_that_transformers_loads(
    first: potstill.Distilled, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Safetensors, "runtime", "another")
    again = distill_rows(project, project / "run")
    assert again.passed and again.folder == project / "run/train/student/model"


def test_an_artefact_that_failed_is_not_the_one_to_load(
    first: potstill.Distilled, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(project / "run", tmp_path / "run"))
    shutil.rmtree(out / "export")
    monkeypatch.setattr(Safetensors, "tolerance", -1.0)
    again = distill_rows(project, out)
    assert again.gate.passed and not again.passed and again.folder == out / "train/student/model"


def test_a_student_that_was_changed_since_is_not_returned(
    first: potstill.Distilled, project: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(project / "run", tmp_path / "run"))
    path = out / "train/student/model/config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ModelError, match="its files are not those that this run wrote"):
        distill_rows(project, out)


def test_new_rows_in_the_same_folder_take_the_place_of_the_old(
    first: potstill.Distilled, project: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(project / "run", tmp_path / "run"))
    lines, rows = Lines(), rows_of(project)
    fewer = {**rows, "test": (row for row in rows["test"][:50])}
    teacher = AutoModelForSequenceClassification.from_pretrained(project / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(project / "teacher")
    done = potstill.distill(teacher, {"layers": 2}, fewer, tokenizer=tokenizer, out=str(out), progress=lines, **TINY)
    assert done.evaluation.test_rows == 50
    assert {"adapt: kept", "train/student: kept", "evaluate: started"} <= set(lines.lines)


def test_the_example_of_its_docstring(
    first: potstill.Distilled, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project / "data", tmp_path / "data")
    shutil.copytree(project / "run/adapt/model", tmp_path / "models/teacher")
    monkeypatch.chdir(tmp_path)
    function = inspect.unwrap(potstill.distill)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, "distill", globs={})
    assert len(example.examples) == 4
    assert doctest.DocTestRunner().run(example).failed == 0


class Enough(Exception):
    """The recipe is known, and need not run."""


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The recipe that arguments make."""
    monkeypatch.chdir(tmp_path)
    made: list[potstill.Recipe] = []

    def keep(prepare: object, recipe: potstill.Recipe, *more: object) -> None:
        made.append(recipe)
        raise Enough

    monkeypatch.setattr(distillation, "run_prepared", keep)

    def make(*arguments: Any, **settings: Any) -> potstill.Recipe:
        with pytest.raises(Enough):
            potstill.distill(*arguments, out="run", **settings)
        return made.pop()

    return make


FILES = {"train": "train.jsonl", "validation": 0.1, "test": Path("test.jsonl")}


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_settings_objects_are_the_recipe_that_says_the_same(recipe: Any, name: str) -> None:
    asked = load_recipe(RECIPES / f"{name}.yaml")
    others = {key: getattr(asked, key) for key in asked.model_fields_set - {"teacher", "student", "data", "task"}}
    made = recipe(asked.teacher, asked.student, asked.data, task=asked.task, **others)
    assert made.model_dump(exclude={"data"}) == asked.model_dump(exclude={"data"})
    assert made.data.model_dump(exclude={"train", "validation", "test", "adapt"}) == asked.data.model_dump(
        exclude={"train", "validation", "test", "adapt"}
    )


def test_a_default_that_depends_on_the_task_is_that_of_the_recipe(recipe: Any) -> None:
    soft = potstill.Recipe.model_fields["losses"].default[0]
    for losses in ({}, {"losses": [soft]}, {"losses": [{"kind": "soft_targets"}]}):
        made = recipe("x/y", None, FILES, task="causal_lm", **losses)
        assert [loss.temperature.values() for loss in made.losses if loss.kind == "soft_targets"] == [(1.0, 1.0)], (
            losses
        )


def test_files_are_found_from_the_working_directory_and_named_from_anywhere(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    made = recipe("models", "tinybert-4", {**FILES, "columns": {"text": "body"}}, task="text_classification")
    assert made.data.train == str(tmp_path / "train.jsonl") and made.data.test == str(tmp_path / "test.jsonl")
    assert made.data.validation == 0.1 and made.data.columns.text == "body" and made.data.adapt is None
    assert made.teacher.model == str(tmp_path / "models")
    assert made.student.kind == "design" and made.student.name == "tinybert-4"
    for elsewhere in ("organisation/name", "pkg:package/model"):
        assert recipe(elsewhere, None, FILES, task="text_classification").teacher.model == elsewhere


MODEL = {"model": "models/a"}


@pytest.mark.parametrize(
    ("teacher", "paths"),
    [
        (MODEL, lambda made: [made.model]),
        (Path("models/a"), lambda made: [made.model]),
        (PretrainedTeacher(**MODEL), lambda made: [made.model]),
        ({"kind": "mixture", "of": {"a": MODEL, "run": MODEL}}, lambda made: [each.model for each in made.of.values()]),
        ({"kind": "generation", "start": MODEL}, lambda made: [made.start.model]),
        ({"kind": "ema", "start": PretrainedTeacher(**MODEL)}, lambda made: [made.start.model]),
        ({"kind": "checkpoint", "run": "models/a"}, lambda made: [made.run]),
    ],
)
def test_every_folder_of_a_teacher_is_named_from_anywhere(
    recipe: Any, tmp_path: Path, teacher: Any, paths: Callable[[Any], list[str]]
) -> None:
    """`potstill run` looks for what the recipe in the run directory names from there."""
    label = {"mode": "online"} if isinstance(teacher, dict) and teacher.get("kind") == "ema" else {}
    relative = recipe(teacher, None, FILES, task="text_classification", label=label)
    assert set(paths(relative.teacher)) == {"models/a"}, "a hub id, where there is no such folder"
    (tmp_path / "models/a").mkdir(parents=True)
    (tmp_path / "neg").mkdir()
    located = recipe(teacher, None, FILES, task="text_classification", label=label)
    assert set(paths(located.teacher)) == {str(tmp_path / "models/a")}
    classes = {"model": "neg", "run": "pos"}
    assert recipe(MODEL | {"classes": classes}, None, FILES, task="text_classification").teacher.classes == classes


def refusal(out: Path, *arguments: Any, **settings: Any) -> str:
    """The message of arguments that are refused before anything is written."""
    with pytest.raises(PotstillError) as refused:
        potstill.distill(*arguments, out=out, **settings)
    assert not (out / "train").exists()
    return str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": {"epochs": -1}},
        {"train": {"learning_rte": 1e-3}},
        {"trian": {}},
        {"losses": [{"kind": "soft_target"}, {"weight": 1}]},
        {"losses": []},
        {"train": {"alpha": 0.5}, "losses": [{"kind": "hard_labels"}]},
        {"seed": "many", "gate": {"min_retention": 0}},
    ],
)
def test_errors_name_the_keys_as_those_of_a_file_do(tmp_path: Path, wrong: dict[str, Any]) -> None:
    message = refusal(tmp_path / "run", "x/y", None, FILES, task="text_classification", **wrong)
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(
            {
                "task": {"kind": "text_classification"},
                "data": {**FILES, "test": "test.jsonl"},
                "teacher": {"model": "x/y"},
                **wrong,
            }
        )
    )
    with pytest.raises(RecipeError) as of_file:
        load_recipe(tmp_path / "recipe.yaml")
    expected = re.sub(r"line \d+: ", "", str(of_file.value)).replace(str(tmp_path / "recipe.yaml"), "distill")
    assert message == expected
    assert not (tmp_path / "run").exists()


def test_all_that_is_missing_of_the_data_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "x/y", None, {"train": [], "tset": []}, task="text_classification")
    assert "data.validation: missing" in message and "data.tset: unknown; did you mean test?" in message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a text", r"data\.train\[1\]: expected a row as a dict, found str\. Give a list of dicts, or a file\."),
        ({"text": {1, 2}}, r"data\.train\[1\]: cannot be saved as JSON: .*set.*Give plain Python values"),
        ({"text": "a", "label": float("nan")}, r"data\.train\[1\]: cannot be saved as JSON: .*None for a missing one"),
        ({"text": "\ud800"}, r"data\.train\[1\]: cannot be saved as JSON: .*surrogates"),
    ],
)
def test_a_row_that_cannot_be_one_is_named(tmp_path: Path, row: Any, message: str) -> None:
    rows = [{"text": "fine", "label": "a"}, row]
    with pytest.raises(DataError, match=message):
        potstill.distill("x/y", None, {**FILES, "train": rows}, task="text_classification", out=tmp_path / "run")
    assert not list(tmp_path.rglob("*.jsonl")) and not list(tmp_path.rglob(".*.tmp"))


def test_rows_never_go_into_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    message = refusal(tmp_path, "x/y", None, {**FILES, "train": [{"text": "a"}]}, task="text_classification")
    assert "no run directory, and not empty (thesis.txt)" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_tokenizer_goes_with_a_loaded_teacher_alone(teacher_folder: Path, tmp_path: Path) -> None:
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    task = "text_classification"
    assert "Give it as tokenizer=." in refusal(tmp_path, teacher, None, FILES, task=task)
    assert "Drop it." in refusal(tmp_path, str(teacher_folder), None, FILES, task=task, tokenizer=tokenizer)


def test_a_recipe_of_no_file_is_called_by_where_it_came_from() -> None:
    with pytest.raises(RecipeError, match=r"^somewhere: 3 problem\(s\)\n  task: missing\."):
        recipe_of({}, "somewhere")


SCRIPT = """
import potstill

distilled = potstill.distill(
    "teacher",
    {"layers": 2},
    {"train": "data/train.jsonl", "validation": 0.2, "test": "data/test.jsonl"},
    task={"kind": "text_classification", "max_length": 64},
    out="run",
    progress=True,
    adapt={"epochs": 1},
    train={"epochs": 1},
    evaluate={"rounds": 1},
    gate={"min_retention": 0.01, "allow_weak_teacher": True},
)
print(distilled.passed, distilled.evaluation.models["student"].latency_p50_ms > 0)
"""


@pytest.mark.long
def test_a_script_needs_no_guard_around_it(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "data", tmp_path / "data")
    shutil.copytree(project / "teacher", tmp_path / "teacher")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\n" and "evaluate: done" in done.stderr
