"""A tagger whose tags are in another order than the alphabet's, adapted a little, is still the tagger that it was."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, BertForTokenClassification

from potstill.pipeline import run_recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord
from tests.tagged_project import make_tagged_project

LITTLE = ["adapt.epochs=0.1", "adapt.learning_rate=1e-6"]


def adapted(project: Path, out: str, *changes: str) -> AdaptRecord:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    record = run_recipe(recipe, project, project / out, until="adapt")["adapt"]
    assert isinstance(record, AdaptRecord)
    return record


def reordered(folder: Path, target: Path, order: list[int], names: dict[str, str]) -> Path:
    """The same model with its outputs in this order, some of them under other names."""
    model = BertForTokenClassification.from_pretrained(folder)
    labels = [names.get(model.config.id2label[number], model.config.id2label[number]) for number in order]
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[order].clone())
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_a_reordered_head_is_adapted_as_it_is(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    whole = adapted(project, "run", "adapt.epochs=5")
    assert whole.best_validation_accuracy is not None and whole.best_validation_accuracy > 0.8
    first = tmp_path / "run" / whole.location
    # O first, as most taggers have it.
    order = [6, *range(6)]
    model = reordered(first, tmp_path / "reordered", order, {})
    again = adapted(project, "again", f"teacher.model={model}", *LITTLE)
    assert again.best_validation_accuracy is not None
    assert abs(again.best_validation_accuracy - whole.best_validation_accuracy) < 0.02
    # Under names of its own, which the recipe explains; without them it starts anew.
    model = reordered(first, tmp_path / "renamed", order, {"O": "none"})
    named = adapted(project, "named", f"teacher.model={model}", 'teacher.classes={"none": "O"}', *LITTLE)
    assert named.best_validation_accuracy == again.best_validation_accuracy
    assert named.digest == again.digest
    # From another seed than the first head was drawn with.
    anew = adapted(project, "anew", f"teacher.model={model}", "seed=5", *LITTLE)
    assert anew.best_validation_accuracy is not None and anew.best_validation_accuracy < 0.6
