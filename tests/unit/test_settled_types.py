"""A run answers in the types that it began with, on whatever machine it goes on."""

from pathlib import Path

import pytest
import torch

from potstill.errors import RecipeError
from potstill.pipeline import run_recipe
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.stages import teacher_weights
from tests.unit.test_teacher_types import in_type

SETTINGS = ("teacher.model=half", "adapt=null", "label.precision=auto")


@pytest.fixture
def half(chat_project: Path, chat_teacher_folder: Path) -> Path:
    """A project whose teacher is stored in half precision."""
    in_type(chat_teacher_folder, chat_project / "half", torch.bfloat16)
    return chat_project


def labelled(
    project: Path, monkeypatch: pytest.MonkeyPatch, *changes: str, able: bool, until: str = "label"
) -> tuple[set[str], dict[str, dict[str, str]]]:
    """What worked when the project's run is taken to its labels on a machine that is able to compute in half precision,
    or not; and what the plan says of the teachers' weights."""
    monkeypatch.setattr(teacher_weights, "computes_in", lambda type, device: able or type == "float32")
    recipe: Recipe = load_recipe(project / "recipe.yaml", [*SETTINGS, *changes])
    lines: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "line", lines.append)
    records = run_recipe(recipe, project, project / "run", progress, until=until)
    worked = {line.removesuffix(": started") for line in lines if line.endswith(": started")}
    return worked, records["plan"].model_dump(mode="json")["weights"]


@pytest.mark.parametrize("able", [True, False])
def test_nothing_is_labelled_anew_on_another_machine(half: Path, monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    began, weights = labelled(half, monkeypatch, able=able)
    assert {"plan", "label/teacher/logits"} <= began
    assert weights["teacher"]["answers"] == ("bfloat16" if able else "float32")
    assert labelled(half, monkeypatch, able=not able) == (set(), weights)
    # A plan that is made there for another reason says it as well, and why.
    worked, weights = labelled(half, monkeypatch, "train.epochs=3", able=not able)
    assert worked == {"plan"} and weights["teacher"]["answers"] == ("bfloat16" if able else "float32")
    assert weights["teacher"]["why"].startswith("as where it was asked first; here it would be ")
    # What the recipe says goes before it.
    other = "float32" if able else "bfloat16"
    worked, weights = labelled(half, monkeypatch, f"teacher.dtype={other}", able=able)
    assert "label/teacher/logits" in worked and weights["teacher"]["answers"] == other


@pytest.mark.parametrize("able", [True, False])
def test_a_run_may_be_planned_elsewhere(half: Path, monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    """As on a machine without the accelerator that it is for."""
    worked, _ = labelled(half, monkeypatch, able=not able, until="adapt")
    assert worked == {"plan", "adapt"}
    worked, weights = labelled(half, monkeypatch, able=able)
    assert {"plan", "label/teacher/logits"} <= worked and "adapt" not in worked
    assert weights["teacher"]["answers"] == ("bfloat16" if able else "float32")


def test_each_teacher_has_a_type_of_its_own(
    half: Path, chat_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_type(chat_teacher_folder, half / "sixteen", torch.float16)
    mixed = "teacher={kind: mixture, of: {one: {model: half}, two: {model: sixteen}}}"
    _, weights = labelled(half, monkeypatch, able=True)
    assert weights["teacher"]["answers"] == "bfloat16"
    _, weights = labelled(half, monkeypatch, mixed, able=False)
    # The one was there before, and the other came on this machine.
    assert {name: each["answers"] for name, each in weights.items()} == {"one": "bfloat16", "two": "float32"}


def test_all_of_an_ensemble_are_asked_alike_on_another_machine(
    half: Path, chat_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_type(chat_teacher_folder, half / "sixteen", torch.float16)
    mixed = "teacher={kind: mixture, of: {one: {model: half}, two: {model: sixteen}}}"
    _, weights = labelled(half, monkeypatch, mixed, able=True)
    assert {name: each["answers"] for name, each in weights.items()} == {"one": "bfloat16", "two": "float16"}
    assert labelled(half, monkeypatch, mixed, able=False) == (set(), weights)


def test_what_is_no_type_is_refused(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(half, monkeypatch, able=True)
    (settled,) = (half / "run").glob("teacher_type_*.txt")
    settled.write_text("float8\n")
    with pytest.raises(RecipeError, match=rf"{settled.name}: 'float8' is none of float32, bfloat16, float16\. Set "):
        labelled(half, monkeypatch, able=True)
    # Where the recipe says it, nothing is settled.
    labelled(half, monkeypatch, "teacher.dtype=bfloat16", able=True)
