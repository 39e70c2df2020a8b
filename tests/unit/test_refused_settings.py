"""Settings that no stage could carry out are refused by check and plan, before any work."""

from pathlib import Path

import pytest
from transformers import BertConfig

from potstill.errors import ModelError, RecipeError
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.teacher_files import read_files
from potstill.training.metrics import open_trackers, require_trackers
from tests.commands import potstill
from tests.unit.test_plan import planned


def check(project: Path, change: str) -> str:
    return potstill("check", project / "recipe.yaml", "--set", change, check=1).stderr


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_with_its_extra(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.training.metrics.find_spec", lambda each: None)
    with pytest.raises(RecipeError, match=rf"train\.trackers: {name} is not installed.*potstill\[{name}\]"):
        planned(project, f"train.trackers=[{name}]")


def test_the_folder_into_which_a_tracker_writes_is_not_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    # One that is installed goes before the folder.
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(RecipeError, match="wandb is not installed"):
        require_trackers(["wandb"])
    with pytest.raises(RecipeError, match="wandb is not installed"), open_trackers(["wandb"], tmp_path, "student"):
        pass


def test_trackers_that_are_installed_are_planned(project: Path) -> None:
    pytest.importorskip("tensorboard")
    assert planned(project, "train.trackers=[tensorboard]").steps


def test_freezing_all_layers_of_a_teacher_is_refused(project: Path) -> None:
    layers = BertConfig.from_pretrained(load_recipe(project / "recipe.yaml", []).lead.model).num_hidden_layers
    for frozen in (layers, layers + 1):
        refused = check(project, f"adapt.frozen_layers={frozen}")
        assert f"adapt.frozen_layers: teacher has {layers} layers, and one must be trained." in refused
        assert f"Set it below {layers}." in refused and "Traceback" not in refused
    assert planned(project, f"adapt.frozen_layers={layers - 1}").adapt_steps


def test_freezing_layers_of_a_member_that_is_not_known_is_refused(
    project: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = f"teacher={{kind: mixture, of: {{a: {{model: '{teacher_folder}'}}, b: {{model: '{teacher_folder}'}}}}}}"
    recipe = load_recipe(project / "recipe.yaml", [several, "adapt.frozen_layers=1"])
    monkeypatch.setattr("potstill.stages.teacher_files.FAMILIES", {})
    with pytest.raises(ModelError, match=r"where the layers of teacher\.of\.b lie, .* 'bert', is not known here"):
        read_files(recipe, recipe.teacher.members["b"], project, "b")


def test_freezing_layers_of_a_model_that_writes_is_refused_with_the_recipe(chat_project: Path) -> None:
    with pytest.raises(RecipeError, match=r"adapt\.frozen_layers: not for causal_lm yet\. Set it to 0\."):
        load_recipe(chat_project / "recipe.yaml", ["adapt={frozen_layers: 1}"])
    assert load_recipe(chat_project / "recipe.yaml", ["adapt={frozen_layers: 0}"]).adapt


FLASH = "train.attention=flash_attention_2"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        (
            ["train.attention=eager", "losses=[{kind: attention}, {kind: hard_labels}]"],
            r"train\.attention: losses read attention maps or relations, .* sdpa and not beside eager\. Set it to auto",
        ),
        ([FLASH, "losses=[{kind: relations, heads: 2}, {kind: hard_labels}]"], "not beside flash_attention_2"),
        ([FLASH, "train.precision=float32"], r"flash_attention_2 does not compute in float32\. Set train\.precision"),
        (
            [FLASH, "train.precision=bfloat16"],
            "train.attention: flash_attention_2 needs a CUDA device, and this machine",
        ),
        (
            ["adapt.attention=flash_attention_2", "adapt.precision=auto"],
            "adapt.attention: flash_attention_2 needs a CUDA",
        ),
        (["train.optimizer={betas: [0.9, 1.0]}"], r"train\.optimizer\.betas"),
        (["train.optimizer={states: 4bit}"], r"train\.optimizer\.states"),
    ],
)
def test_attention_and_optimisers_that_cannot_be_are_refused(project: Path, changes: list[str], refusal: str) -> None:
    with pytest.raises(RecipeError, match=refusal):
        planned(project, *changes)


def test_attention_that_mixes_packed_examples_is_refused(chat_project: Path) -> None:
    bfloat16 = "train.precision=bfloat16"
    refusal = (
        r"train\.attention: flash_attention_2 lets examples that share a row see each other\. Set task\.packing: f"
    )
    with pytest.raises(RecipeError, match=refusal):
        load_recipe(chat_project / "recipe.yaml", [FLASH, bfloat16])
    assert load_recipe(chat_project / "recipe.yaml", [FLASH, bfloat16, "task.packing=false"]).train.attention


def test_losses_on_hidden_states_take_any_attention_and_those_on_maps_the_usual_one(project: Path) -> None:
    hidden = "losses=[{kind: hidden_states}, {kind: hard_labels}]"
    assert planned(project, hidden, "train.attention=eager").steps
    assert planned(project, hidden.replace("hidden_states", "attention"), "train.attention=sdpa").steps


def test_generations_of_no_steps_are_refused(project: Path, teacher_folder: Path) -> None:
    start = f"start: {{model: '{teacher_folder}'}}"
    none = ["train.epochs=0", "train.baseline=false"]
    assert load_recipe(project / "recipe.yaml", none).train.epochs == 0
    taught = f"teacher={{kind: generation, generations: 2, {start}}}"
    assert load_recipe(project / "recipe.yaml", [taught]).rounds == 2
    with pytest.raises(RecipeError) as error:
        load_recipe(project / "recipe.yaml", [*none, taught])
    assert str(error.value).count("train.") == 1
    assert "train.epochs: in 0 epochs all 2 generations would stay as they begin. Raise it." in str(error.value)
