"""What a recipe can say of LoRA: which modules it means, what is refused before any work, and what the plan tells."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from potstill.errors import RecipeError
from potstill.lora import LoraSettings, adapter, choose_modules
from potstill.lora.settings import usual_rate
from potstill.models import FAMILIES
from potstill.recipe import AdaptSettings, TrainSettings
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from potstill.stages.lora import base_name, planned_lora
from potstill.stages.plan import make_plan
from potstill.tasks import CausalLM, TextClassification
from tests.unit.test_models import tiny


def chosen(family: str, *, task: Any = None, frozen_layers: int = 0, new: Any = (), **settings: Any) -> Any:
    task = task or (CausalLM() if family == "llama" else TextClassification())
    with torch.device("meta"):
        model = tiny(FAMILIES[family], task)
    return choose_modules(
        model,
        LoraSettings(**settings),
        where="train.lora",
        head_in_full=not task.generative,
        frozen_layers=frozen_layers,
        new=new,
    )


def test_a_recipe_without_lora_says_nothing_of_it() -> None:
    """So that the fingerprints of runs from before there was any stay as they are."""
    for settings in (TrainSettings(), AdaptSettings()):
        assert "lora" not in settings.model_dump(mode="json")
    assert TrainSettings(lora=LoraSettings()).model_dump(mode="json")["lora"]["rank"] == 16


def test_the_scale_is_alpha_over_the_rank_or_its_root() -> None:
    assert LoraSettings(rank=16, alpha=32).scale == 2
    assert LoraSettings(rank=16, alpha=32, rank_stabilised=True).scale == 8


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"target_modules": []}, {"r": 8}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraSettings.model_validate(wrong)


def test_names_mean_all_modules_that_end_with_them() -> None:
    found = chosen("llama", target_modules=["q_proj", "mlp.down_proj", "model.layers.0.self_attn.k_proj"])
    ends = [name.removeprefix("model.layers.") for name in found.adapted]
    assert ends == [
        *("0.self_attn.q_proj", "0.self_attn.k_proj", "0.mlp.down_proj"),
        *(f"{layer}.{module}" for layer in (1, 2, 3) for module in ("self_attn.q_proj", "mlp.down_proj")),
    ]
    assert not any(name.endswith("proj") for name in chosen("bert", target_modules=["query"]).adapted)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (
            "llama",
            {"target_modules": ["q_prj"]},
            r"target_modules: no linear layer is called 'q_prj'; there are down_pr",
        ),
        # The ends of names are whole parts.
        ("llama", {"target_modules": ["proj"]}, "no linear layer is called 'proj'"),
        ("llama", {"target_modules": ["q_proj", "wrong"]}, "no linear layer is called 'wrong'"),
        (
            "llama",
            {"target_modules": ["lm_head"]},
            "'lm_head' is the output layer, whose weights losses read as they are",
        ),
        ("llama", {"target_modules": ["norm"]}, "'norm' is a LlamaRMSNorm and no linear layer"),
        ("bert", {"target_modules": ["classifier"]}, "'classifier' is trained in full"),
        (
            "bert",
            {"modules_to_save": ["embedings"]},
            r"modules_to_save: no module is called 'embedings'; there are .*LayerN",
        ),
    ],
)
def test_a_name_that_means_nothing_is_refused_with_those_that_do(
    family: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=f"^train.lora.*{message}"):
        chosen(family, **settings)


def test_what_is_trained_in_full_is_not_adapted_too() -> None:
    found = chosen("bert", modules_to_save=["pooler"])
    assert set(found.full) == {"classifier", "bert.pooler"}
    assert "bert.pooler.dense" not in found.adapted
    # A pooler that the checkpoint has not is drawn, and must learn all.
    found = chosen("bert", new=["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight"])
    assert set(found.full) == {"classifier", "bert.pooler.dense"}
    assert "bert.pooler.dense" not in found.adapted


def test_below_frozen_layers_nothing_is_trained() -> None:
    found = chosen("electra", frozen_layers=2)
    assert {name.split(".")[3] for name in found.adapted if "layer" in name} == {"2", "3"}
    assert not any("embeddings" in name for name in found.adapted)
    for asked in ("embeddings", "word_embeddings", "encoder.layer.1", "encoder"):
        with pytest.raises(RecipeError, match=r"would be trained, and frozen_layers keeps it as it is"):
            chosen("electra", frozen_layers=2, modules_to_save=[asked])


def planned(project: Path, *changes: str) -> Any:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return recipe, read_inputs(recipe, project)


def test_the_plan_counts_what_is_trained_and_doubts_a_rate_of_full_training(project: Path) -> None:
    lora = "{rank: 4, target_modules: [query, value]}"
    changes = [f"adapt.lora={lora}", f"train.lora={lora}", "adapt.learning_rate=1e-4", "train.learning_rate=0.1"]
    plan = make_plan(*planned(project, *changes), project)
    assert plan.adapt_lora is not None and plan.lora is not None
    # Of 4 layers of 32 channels, and of 2 of 16; beside them the head with its biases.
    assert plan.adapt_lora.trained_parameters == 4 * 2 * 4 * (32 + 32) + 33 * 3
    assert plan.lora.trained_parameters == 2 * 2 * 4 * (16 + 16) + 17 * 3
    assert (plan.lora.adapted_modules, plan.lora.modules_to_save) == (4, ["classifier"])
    assert (plan.adapt_lora.parameters, plan.lora.parameters) == (plan.teacher.parameters, plan.student.parameters)
    doubts = [warning for warning in plan.warnings if "learning_rate" in warning]
    assert len(doubts) == 1 and doubts[0].startswith("adapt.learning_rate: 0.0001 looks like the rate of training all")
    without = make_plan(*planned(project, "train.lora=null"), project)
    assert without.lora is None and "lora" not in without.model_dump(mode="json")
    assert without.disk_bytes > plan.disk_bytes


def test_wider_models_take_lower_rates_and_lora_ten_times_that_of_full_training() -> None:
    assert usual_rate(2000) == pytest.approx(5e-4)
    assert usual_rate(384) == pytest.approx(1.8e-3, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.init={kind: random}"], r"^train.lora: the student begins with random weights"),
        (["student.vocabulary={kind: factorised, size: 4}"], r"^train.lora: factorised embeddings begin as a coarse"),
        (["train.lora.target_modules=[q_proj]"], r"^train.lora.target_modules: no linear layer is called 'q_proj'"),
    ],
)
def test_a_student_that_lora_cannot_train_is_refused_before_any_work(
    project: Path, changes: list[str], message: str
) -> None:
    recipe, inputs = planned(project, "train.lora={rank: 2}", *changes)
    with pytest.raises(RecipeError, match=message):
        planned_lora(recipe, inputs)


def test_factorised_embeddings_may_be_trained_in_full(project: Path) -> None:
    lora = "train.lora={rank: 2, modules_to_save: [embeddings, embeddings_project]}"
    recipe, inputs = planned(project, lora, "student.vocabulary={kind: factorised, size: 4}")
    found = planned_lora(recipe, inputs)[1]
    assert found is not None
    assert set(found.modules_to_save) == {"classifier", "electra.embeddings", "electra.embeddings_project"}


def test_without_its_package_it_is_refused_before_any_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, inputs = planned(project, "adapt.lora={rank: 2}")
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"^adapt.lora: peft is not installed. Run: pip install 'potstill\[lora\]'"):
        planned_lora(recipe, inputs)


def test_no_path_of_a_machine_is_in_the_name_of_a_base() -> None:
    assert base_name("/home/me/models/teacher") == "teacher"
    for name in ("org/model", "pkg:package/model", "models/teacher"):
        assert base_name(name) == name
