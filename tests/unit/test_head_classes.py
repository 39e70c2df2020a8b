"""Classes of a teacher's head go by their names: in another order, under other names, and where a head is replaced."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel, ViTConfig

from potstill.data.rows import Row
from potstill.data.tagged import TaggedRow
from potstill.errors import ModelError, RecipeError
from potstill.loaded_as import IN_FLOAT32
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.run_dir import RunDir
from potstill.stages.adapt import adapt, depends_of
from potstill.stages.first_weights import _original
from potstill.stages.heads import has_head, heads_told
from potstill.stages.inputs import Inputs, read_inputs
from potstill.tasks import TextClassification, TokenClassification
from potstill.tasks.classes import named_by_hand, ordered
from potstill.training.engine import start_engine
from potstill.training.one_process import OneProcess
from tests import bad_models as bad
from tests.conftest import CLASSES, make_project

NAMES = sorted(CLASSES)  # beast, fruit, metal
ORDERED = ["metal", "beast", "fruit"]
WITHOUT_ADAPT = ["adapt=null", "data.adapt=null"]


def with_head(teacher: Path, folder: Path, names: list[Any], **more: Any) -> Path:
    """The tiny teacher with a head of these classes, all of its weights off zero."""
    shutil.copytree(teacher, folder)
    config = BertConfig.from_pretrained(teacher)
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    for name, value in more.items():
        setattr(config, name, value)
    torch.manual_seed(2)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias.normal_()
    model.save_pretrained(folder)
    return folder


def read(project: Path, teacher: Path, *changes: str) -> tuple[Recipe, Inputs]:
    recipe = load_recipe(project / "recipe.yaml", [f"teacher.model={teacher}", *changes])
    return recipe, read_inputs(recipe, project)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("10 9 1 -1 0", "-1 0 1 9 10"),
        ("1 01 2", "01 1 2"),
        ("10 9 x", "10 9 x"),
        ("b a B", "B a b"),
        ("1.5 10 9", "1.5 10 9"),
    ],
)
def test_ids_of_classes_are_in_the_order_of_their_values(names: str, expected: str) -> None:
    assert ordered(names.split()) == expected.split()


@pytest.mark.parametrize("kind", ["classes", "labels", "tags"])
def test_the_output_of_an_id_has_its_number(kind: str, tmp_path: Path) -> None:
    ids = [str(number) for number in range(12)]
    splits: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        if kind == "tags":
            splits[name] = [TaggedRow("a", tuple("abcdefghijkl"), tuple(ids))]
        else:
            splits[name] = [Row(each, each, each if kind == "classes" else (each,)) for each in ids]
    several = "multi_label_classification" if kind == "labels" else None
    task: Any = (
        TokenClassification()
        if kind == "tags"
        else TextClassification(**({"problem_type": several} if several else {}))
    )
    assert task.label_names(splits) == ids
    # A head goes by its names, in whatever order.
    config = BertConfig(id2label=dict(enumerate(sorted(ids))), problem_type=several)
    assert task.teacher_labels(config, ids, {}) == sorted(ids)


@pytest.mark.parametrize("changes", [[], WITHOUT_ADAPT])
def test_a_head_in_another_order_keeps_it(
    changes: list[str], tmp_path: Path, project: Path, teacher_folder: Path
) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", ORDERED)
    recipe, inputs = read(project, folder, *changes)
    assert inputs.labels == ORDERED
    assert heads_told(recipe, inputs) == []
    model = recipe.task.load_model(str(folder), inputs.labels)
    own = BertForSequenceClassification.from_pretrained(folder)
    assert torch.equal(model.classifier.weight, own.classifier.weight)
    assert list(model.config.id2label.values()) == ORDERED


@pytest.mark.parametrize(("task", "kind"), [(TextClassification(), "Sequence"), (TokenClassification(), "Token")])
def test_a_head_is_sorted_by_name_where_another_order_is_asked_for(task: Any, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    made = {"Sequence": BertForSequenceClassification, "Token": BertForTokenClassification}[kind]
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        id2label=dict(enumerate(ORDERED)),
    )
    own = made(config)
    with torch.no_grad():
        own.classifier.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    own.save_pretrained(tmp_path)
    model = task.load_model(str(tmp_path), NAMES)
    assert model.classifier.bias.tolist() == [1.0, 2.0, 0.0]
    assert torch.equal(model.classifier.weight, own.classifier.weight[[1, 2, 0]])
    assert model.config.id2label == dict(enumerate(NAMES)) and model.config.label2id["metal"] == 2
    renamed = task.load_model(str(tmp_path), ["x", "fruit", "metal"], {"beast": "x"})
    assert renamed.classifier.bias.tolist() == [1.0, 2.0, 0.0]
    # As many classes under names of which one is another: none of the old weights goes on.
    torch.manual_seed(0)
    fresh = task.load_model(str(tmp_path), ["x", "fruit", "metal"])
    assert fresh.classifier.bias.tolist() == [0.0, 0.0, 0.0]
    assert not torch.isclose(fresh.classifier.weight, own.classifier.weight).any(dim=1).all()
    assert 0.005 < fresh.classifier.weight.std() < 0.05
    torch.testing.assert_close(
        fresh.base_model.embeddings.word_embeddings.weight, own.base_model.get_input_embeddings().weight
    )


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2], ["a", "beast", "b"]])
def test_a_head_without_the_names_of_the_data(
    names: list[Any], tmp_path: Path, project: Path, teacher_folder: Path
) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", names)
    own = [str(name) for name in names]
    apart = {name: label for name, label in zip(own, ["metal", "beast", "fruit"], strict=True) if name != "beast"}
    with pytest.raises(ModelError) as refused:
        read(project, folder, *WITHOUT_ADAPT)
    for part in (", ".join(own), ", ".join(NAMES), "teacher.classes: {", f"{own[0]}: "):
        assert part in str(refused.value)
    # With adapt it is replaced, and the plan says so.
    recipe, inputs = read(project, folder)
    assert inputs.labels == NAMES and not has_head(recipe, inputs)
    (told,) = heads_told(recipe, inputs)
    assert "is replaced by a new one" in told and "teacher.classes: {" in told
    # With names it is kept.
    classes = f"teacher.classes={json.dumps(apart)}"
    for changes in ([], WITHOUT_ADAPT):
        recipe, inputs = read(project, folder, classes, *changes)
        assert inputs.labels == ["metal", "beast", "fruit"]
        assert heads_told(recipe, inputs) == []
        model = recipe.task.load_model(str(folder), inputs.labels, recipe.lead.classes)
        kept = BertForSequenceClassification.from_pretrained(folder).classifier
        assert torch.equal(model.classifier.weight, kept.weight)


@pytest.mark.parametrize(
    ("own", "labels", "advice"),
    [
        (["Positive", "Negative"], ["negative", "positive"], "{Positive: positive, Negative: negative}."),
        (["POS", "\uff4e\uff45\uff47", "other"], ["neg", "other", "pos"], "{POS: pos, \uff4e\uff45\uff47: neg}."),
        # What is left is nobody's to guess, not even where names are in order.
        (["LABEL_0", "LABEL_1"], ["neg", "pos"], "{LABEL_0: ..., LABEL_1: ...}, with one of these in place of each"),
        (["Positive", "bad"], ["negative", "positive"], "{Positive: ..., bad: ...}, with one of these"),
        # Two names of one spelling are no pair.
        (["A", "a"], ["a ", "b"], "{A: ..., a: ...}, with one of these in place of each ...: a , b."),
        (["x"], ["a", "b"], ""),
    ],
)
def test_which_class_is_which_is_advised_only_where_the_names_say_it(
    own: list[str], labels: list[str], advice: str
) -> None:
    found = named_by_hand(own, labels)
    assert advice in found and bool(advice) == bool(found)


def test_numbers_as_names_in_a_recipe(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", [0, 1, 2])
    text = (project / "recipe.yaml").read_text()
    given = text.replace(f'model: "{teacher_folder}"', f'model: "{folder}", classes: {{0: fruit, 1: metal, 2: beast}}')
    (project / "recipe.yaml").write_text(given)
    recipe = load_recipe(project / "recipe.yaml", [])
    assert recipe.lead.classes == {"0": "fruit", "1": "metal", "2": "beast"}
    assert read_inputs(recipe, project).labels == ["fruit", "metal", "beast"]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ({"LABEL_7": "fruit"}, ModelError, "the head has no class 'LABEL_7'. Its classes: LABEL_0, LABEL_1, LABEL_2"),
        (
            {"LABEL_0": "fruit"},
            ModelError,
            r"teacher.classes: with it, .* In the head: fruit, LABEL_1, .*; in the data",
        ),
        ({"LABEL_0": "fruit", "LABEL_1": "metal", "LABEL_2": "moon"}, ModelError, r"only in the head: \['moon'\]"),
        ({"LABEL_0": "fruit", "LABEL_1": "fruit"}, RecipeError, "two classes of the head are 'fruit' of the data"),
    ],
)
@pytest.mark.parametrize("changes", [[], WITHOUT_ADAPT])
def test_names_that_do_not_fit(
    classes: dict[str, str],
    error: type[Exception],
    message: str,
    changes: list[str],
    tmp_path: Path,
    project: Path,
    teacher_folder: Path,
) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", ["LABEL_0", "LABEL_1", "LABEL_2"])
    with pytest.raises(error, match=message):
        read(project, folder, f"teacher.classes={json.dumps(classes)}", *changes)


def test_a_base_model_has_no_head_to_replace(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "base")
    BertModel(BertConfig.from_pretrained(teacher_folder)).save_pretrained(folder)
    recipe, inputs = read(project, folder)
    assert inputs.labels == NAMES and heads_told(recipe, inputs) == []
    BertModel(BertConfig.from_pretrained(teacher_folder), add_pooling_layer=False).save_pretrained(folder)
    assert "its checkpoint has no pooler (bert.pooler" in heads_told(*read(project, folder))[0]
    with pytest.raises(ModelError, match="no head for this task: add an adapt section"):
        read(project, folder, *WITHOUT_ADAPT)


def test_an_output_without_a_name(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", NAMES)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "beast", "1": "fruit", "5": "metal"}}))
    with pytest.raises(ModelError, match=r"id2label in its config.json has no name for class 2"):
        read(project, folder)


def test_several_labels_go_by_their_names(tmp_path: Path, teacher_folder: Path) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", ORDERED, problem_type="multi_label_classification")
    task = TextClassification(problem_type="multi_label_classification")
    assert task.teacher_labels(task.load_config(str(folder)), NAMES, {}, new_head=True) == ORDERED
    model = task.load_model(str(folder), NAMES)
    own = BertForSequenceClassification.from_pretrained(folder).classifier
    assert torch.equal(model.classifier.bias, own.bias[[1, 2, 0]])


def test_members_go_by_their_own_names(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    first = with_head(teacher_folder, tmp_path / "first", ORDERED)
    second = with_head(teacher_folder, tmp_path / "second", ["LABEL_0", "LABEL_1", "LABEL_2"])
    names = '{"LABEL_0": "metal", "LABEL_1": "beast", "LABEL_2": "fruit"}'
    members = f'{{"a": {{"model": "{first}"}}, "b": {{"model": "{second}", "classes": %s}}}}'
    of = f'teacher={{"kind": "mixture", "of": {members}}}'
    recipe = load_recipe(project / "recipe.yaml", [of % names, *WITHOUT_ADAPT])
    assert read_inputs(recipe, project).labels == ORDERED
    other = names.replace("metal", "x").replace("beast", "metal").replace("x", "beast")
    recipe = load_recipe(project / "recipe.yaml", [of % other, *WITHOUT_ADAPT])
    # The same names in another order: the member's outputs are sorted before it is asked.
    inputs = read_inputs(recipe, project)
    assert inputs.labels == ORDERED
    with start_engine() as engine:
        run = RunDir(project / "run", Progress())
        members = adapt(run, recipe, inputs, engine).members
    assert not members["a"].converted and members["a"].location == str(first)
    saved = recipe.task.load_model(str(run.path(members["b"].location)))
    own = BertForSequenceClassification.from_pretrained(second)
    assert list(saved.config.id2label.values()) == ORDERED and saved.config.label2id["metal"] == 0
    assert torch.equal(saved.classifier.weight, own.classifier.weight[[1, 0, 2]])
    assert torch.equal(saved.classifier.bias, own.classifier.bias[[1, 0, 2]])
    assert torch.equal(saved.get_input_embeddings().weight, own.get_input_embeddings().weight)
    recipe = load_recipe(project / "recipe.yaml", [of % "{}"])
    (told,) = heads_told(recipe, read_inputs(recipe, project))
    assert told.startswith("b: its head knows other classes") and "with teacher.of.b.classes: {LABEL_0: ..." in told
    recipe = load_recipe(project / "recipe.yaml", [of % "{}", *WITHOUT_ADAPT])
    with pytest.raises(ModelError, match=r"^teacher.of.b.model: its head .* with teacher.of.b.classes: {LABEL_0: ..."):
        read_inputs(recipe, project)


def test_without_classes_a_recipe_is_as_before(project: Path) -> None:
    recipe = load_recipe(project / "recipe.yaml", [])
    assert "classes" not in recipe.model_dump()["teacher"]
    named = load_recipe(project / "recipe.yaml", ['teacher.classes={"a": "b"}'])
    assert named.model_dump()["teacher"]["classes"] == {"a": "b"}


def test_a_language_model_has_no_classes(chat_project: Path) -> None:
    recipe = load_recipe(chat_project / "recipe.yaml", ['teacher.classes={"a": "b"}'])
    with pytest.raises(ModelError, match=r"teacher.classes: what such a model writes are tokens, not classes. Leave"):
        read_inputs(recipe, chat_project)


def test_what_decides_the_head_is_in_the_fingerprint(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    def depends(names: list[Any], *changes: str) -> dict[str, Any]:
        folder = with_head(teacher_folder, tmp_path / f"{len(list(tmp_path.iterdir()))}", names)
        return depends_of(*read(project, folder, *changes), OneProcess(torch.device("cpu")))

    plain = {"adapt", "teacher", "labels", "data", "task", "seed"}
    assert set(depends(NAMES)) == plain
    assert depends(ORDERED)["labels"] == ORDERED
    # A head of another size was always replaced.
    assert set(depends(["x", "y"])) == plain
    assert set(depends(["x", "y", "z"])) == plain | {"head"}
    named = depends(["x", "fruit", "metal"], 'teacher.classes={"x": "beast"}')
    assert set(named) == plain | {"classes"} and named["classes"] == {"x": "beast"}


def test_the_original_head_goes_by_its_names(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", ["x", "metal", "fruit"])
    recipe, inputs = read(project, folder, 'teacher.classes={"x": "beast"}')
    own = BertForSequenceClassification.from_pretrained(folder).classifier
    assert torch.equal(_original(recipe, inputs, IN_FLOAT32).classifier.weight, own.weight)


@pytest.mark.parametrize(("names", "known"), [(ORDERED, True), (["x", "fruit", "metal"], False)])
def test_a_head_of_several_labels_is_known_by_its_names(
    names: list[Any], known: bool, tmp_path: Path, teacher_folder: Path
) -> None:
    project = make_project(tmp_path, teacher_folder)
    with_lists_of_labels(project)
    several = "multi_label_classification"
    folder = with_head(teacher_folder, tmp_path / "head", names, problem_type=several)
    recipe, inputs = read(project, folder, f"task.problem_type={several}")
    assert has_head(recipe, inputs) is known
    # A configuration that names a head that is not there.
    BertModel(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    assert has_head(*read(project, folder, f"task.problem_type={several}")) is False


def with_lists_of_labels(project: Path) -> None:
    for file in (project / "data").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("\n".join(json.dumps(row | {"label": row["label"] and [row["label"]]}) for row in rows))


@pytest.mark.parametrize("task", [TextClassification(), TokenClassification()])
def test_a_token_without_a_row_is_refused(task: Any, teacher_folder: Path) -> None:
    tokenizer, config = task.load_tokenizer(str(teacher_folder)), task.load_config(str(teacher_folder))
    task.check_tokenizer(tokenizer, config)
    config.vocab_size = len(tokenizer)
    task.check_tokenizer(tokenizer, config)
    tokenizer.add_tokens(["unheard"])
    with pytest.raises(
        ModelError, match=rf"^teacher.of.b.model: token 'unheard' has the id {len(tokenizer) - 1}, and the"
    ):
        task.check_tokenizer(tokenizer, config, where="teacher.of.b")
    with pytest.raises(ModelError, match=r"teacher.model: a vit model has no vocabulary"):
        task.check_tokenizer(tokenizer, ViTConfig())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (bad.as_adapter, "this is a LoRA adapter of org/base"),
        (bad.pointer_for("tokenizer.json"), "git-lfs pointer"),
        (bad.without_tokenizer, "there is no tokenizer"),
        (bad.without_words, "its tokenizer has no vocabulary"),
        (bad.cut("model.safetensors", 0.7), "the file is cut"),
    ],
)
def test_files_are_looked_at_before_anything_works(
    damage: bad.Damage, message: str, tmp_path: Path, project: Path, teacher_folder: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read(project, bad.copied(teacher_folder, tmp_path / "model", damage))
