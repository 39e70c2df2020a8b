"""One date for a run, token ids in what a stage depends on, rows tokenised once, and how a student stops writing."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from potstill.errors import LabelStoreError, ModelError, RecipeError
from potstill.labels import LabelSource, LabelStore
from potstill.pipeline import run_recipe
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.run_dir import RunDir, fingerprint, write_json
from potstill.stages.adapt import adapt
from potstill.stages.first_weights import initial_student
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.models import write_model
from potstill.stages.plan import make_plan
from potstill.stages.rendering import at_one_date, tokens_of, with_tokens
from potstill.tasks import CausalLM
from potstill.tasks.generative import end_tokens, ends_of
from potstill.training.engine import start_engine

# The words of a tiny tokenizer, by minute and second.
DATED = "{{ 'w' + (strftime_now('%M') | int | string) + ' w' + (strftime_now('%S') | int | string) }} "
QUICK = ["adapt=null", "train.epochs=0.1", "train.baseline=false", "label.max_kl=null"]
SPLITS = {"adapt": 4, "train": 12, "validation": 6, "test": 5}
Load = Callable[..., tuple[Recipe, Inputs]]


@pytest.fixture
def teacher(tmp_path: Path, chat_teacher_folder: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(chat_teacher_folder, tmp_path / "teacher"))


@pytest.fixture
def load(chat_project: Path, teacher: Path) -> Load:
    for name, rows in SPLITS.items():
        path = chat_project / f"data/{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:rows]))

    def loaded(*changes: str) -> tuple[Recipe, Inputs]:
        recipe = load_recipe(chat_project / "recipe.yaml", [*QUICK, f"teacher.model={teacher}", *changes])
        return recipe, read_inputs(recipe, chat_project)

    return loaded


def make_dated(teacher: Path) -> None:
    template = teacher / "chat_template.jinja"
    template.write_text(DATED + template.read_text())


def in_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()


def test_a_run_goes_on_at_the_date_of_its_plan(
    chat_project: Path, teacher: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dated(teacher)
    recipe, _ = load()
    run = chat_project / "run"
    in_zone("UTC+12", monkeypatch)
    first = run_recipe(recipe, chat_project, run, until="label")
    in_zone("UTC-14", monkeypatch)
    lines: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "line", lines.append)
    second = run_recipe(recipe, chat_project, run, progress, until="label")
    monkeypatch.undo()
    time.tzset()
    assert {"plan: kept", "label/teacher/logits: kept"} <= set(lines)
    date = first["plan"].model_dump()["date"]
    assert date == second["plan"].model_dump()["date"] == datetime.fromisoformat((run / "date.txt").read_text().strip())
    warnings = first["plan"].model_dump()["warnings"]
    assert any(f"it is {date:%Y-%m-%d %H:%M:%S}, on whatever day" in warning for warning in warnings)
    manifest = json.loads((run / "label/teacher/logits/manifest.json").read_text())
    depends = json.loads((run / "label/teacher/logits/inputs.json").read_text())["inputs"]
    dated = load(f"task.date={date.isoformat()}")
    assert (
        manifest["source"]["tokens"]
        == depends["tokens"]
        == tokens_of(*dated)
        != tokens_of(*load("task.date=2024-07-26"))
    )


def test_the_date_is_asked_for_only_where_it_is_written(teacher: Path, load: Load) -> None:
    def settled(now: str) -> str:
        raise AssertionError("nobody needs a date")

    recipe, inputs = load()
    assert at_one_date(recipe, inputs, settled) is recipe
    assert make_plan(recipe, inputs, Path()).date is None and "date" not in recipe.task.model_dump()
    make_dated(teacher)
    recipe, inputs = load("task.date=2024-07-26T10:20:30")
    assert at_one_date(recipe, inputs, settled) is recipe
    recipe, inputs = load()
    dated = at_one_date(recipe, inputs, lambda now: "2024-07-26T10:20:30")
    assert dated.task == load("task.date=2024-07-26T10:20:30")[0].task
    prompt = dated.task.prompts(inputs.tokenizer).last(inputs.splits["test"].rows[0])  # type: ignore[union-attr]
    assert len(prompt) > 4
    with pytest.raises(RecipeError, match=r"date\.txt: 'yesterday' is no date\. Set task\.date"):
        at_one_date(recipe, inputs, lambda now: "yesterday")
    with pytest.raises(RecipeError, match=r"writes the date without a zone"):
        load("task.date=2024-07-26T10:20:30Z")


def test_the_same_rows_as_other_tokens_are_another_identity(teacher: Path, load: Load) -> None:
    make_dated(teacher)
    recipe, inputs = load("task.date=2024-07-26")
    _, others = load("task.date=2024-07-26")
    tokens = tokens_of(recipe, inputs)
    assert tokens is not None and tokens == tokens_of(recipe, others)
    assert tokens != tokens_of(load("task.date=2024-07-26T00:00:01")[0], inputs)
    assert tokens != tokens_of(load("task.date=2024-07-26", "task.train_on=last_turn", "task.max_length=20")[0], inputs)


def test_a_store_of_other_tokens_is_refused(chat_project: Path, load: Load) -> None:
    recipe, _ = load()
    run_recipe(recipe, chat_project, chat_project / "run", until="label")
    store = LabelStore(chat_project / "run/label/teacher/logits")
    source = store.manifest.source
    assert source.tokens is not None
    store.require(source)
    with pytest.raises(LabelStoreError, match=r"the same rows have 0123 in this run: the chat template writes them"):
        store.require(source.model_copy(update={"tokens": "0123"}))
    # An earlier version did not know them.
    store.manifest = store.manifest.model_copy(update={"source": source.model_copy(update={"tokens": None})})
    store.require(source)
    assert "tokens" not in store.manifest.source.model_dump() and LabelSource(**store.manifest.source.model_dump())


def test_a_date_that_is_set_and_not_written_is_said_to_have_no_effect(teacher: Path, load: Load) -> None:
    def told() -> list[str]:
        recipe, inputs = load("task.date=2024-07-26")
        return [warning for warning in make_plan(recipe, inputs, Path()).warnings if "task.date" in warning]

    assert told() == ["task.date has no effect: the chat template writes no date into the prompt of any row."]
    make_dated(teacher)
    (warning,) = told()
    assert "it is 2024-07-26 00:00:00, on whatever day" in warning


def test_what_an_earlier_version_began_goes_on(chat_project: Path, teacher: Path, load: Load) -> None:
    def write_inputs(inputs: dict[str, Any]) -> None:
        write_json(folder / "inputs.json", {"fingerprint": fingerprint(inputs), "inputs": inputs})

    recipe, inputs = load()
    run = RunDir(chat_project / "run", Progress())
    assert with_tokens({"a": 1}, "t", run, "train/student", recipe, inputs) == {"a": 1, "tokens": "t"}
    assert with_tokens({"a": 1}, None, run, "train/student", recipe, inputs) == {"a": 1}
    folder = run.path("train/student")
    folder.mkdir(parents=True)
    write_inputs({"a": 1})
    assert with_tokens({"a": 1}, "t", run, "train/student", recipe, inputs) == {"a": 1}
    # What works anew, since something else has changed, is known by its tokens from then on.
    assert with_tokens({"a": 2}, "t", run, "train/student", recipe, inputs) == {"a": 2, "tokens": "t"}
    # Not where it changed only in what decides no more than last bits, or is now resolved.
    pieces: dict[str, Any] = {"last_bits": ["b"], "auto": {"c": "float32"}}
    write_inputs({"a": 1, "b": 1, "c": "auto"})
    same: dict[str, object] = {"a": 1, "b": 2, "c": "float32"}
    assert with_tokens(same, "t", run, "train/student", recipe, inputs, **pieces) == same
    write_inputs({"a": 1, "tokens": "s"})
    assert with_tokens({"a": 1}, "t", run, "train/student", recipe, inputs) == {"a": 1, "tokens": "t"}
    # That version learnt white space which the template does not write.
    write_inputs({"a": 1})
    template = teacher / "chat_template.jinja"
    template.write_text(template.read_text().replace("m.content", "m.content | trim"))
    path = chat_project / "data/train.jsonl"
    path.write_text(path.read_text().replace('"content": "', '"content": " '))
    recipe, inputs = load()
    assert with_tokens({"a": 1}, "t", run, "train/student", recipe, inputs) == {"a": 1, "tokens": "t"}
    assert any("some of the white space" in warning for warning in make_plan(recipe, inputs, Path()).warnings)


def test_a_run_makes_tokens_of_each_split_once(chat_project: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = CausalLM.encode

    def counted(self: CausalLM, rows: Any, *others: Any) -> Any:
        calls.append(len(rows))
        return encode(self, rows, *others)

    monkeypatch.setattr(CausalLM, "encode", counted)
    recipe, _ = load("train.baseline=true")
    run_recipe(recipe, chat_project, chat_project / "run", until="train")
    assert sorted(calls) == sorted(SPLITS.values())


def test_rows_of_no_split_and_of_another_tokenizer_are_read_for_themselves(load: Load) -> None:
    recipe, inputs = load()
    rows = inputs.splits["train"].rows
    assert inputs.encoded(recipe, rows) is replace(inputs).encoded(recipe, rows)
    assert inputs.encoded(recipe, rows) is not inputs.encoded(load("task.max_length=32")[0], rows)
    assert inputs.encoded(recipe, rows) is not replace(inputs, tokenizer_digest="x").encoded(recipe, rows)
    assert inputs.encoded(recipe, rows[:3]) is not inputs.encoded(recipe, rows[:3])


def student_of(recipe: Recipe, inputs: Inputs, folder: Path) -> Any:
    """A student as it is trained, saved as runs save it, and loaded again."""
    with start_engine() as engine:
        run = RunDir(folder / "run", Progress())
        student = initial_student(recipe, inputs, run, adapt(run, recipe, inputs, engine))
    write_model(student, inputs.tokenizer, folder / "student")
    return AutoModelForCausalLM.from_pretrained(folder / "student").eval()


def drawn(model: Any) -> list[int]:
    """What a model draws after a prompt, until its own settings stop it."""
    torch.manual_seed(0)
    prompt = torch.tensor([[2, 4, 20, 31, 3, 2, 5]])
    said = model.generate(prompt, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=12)
    ids: list[int] = said[0, prompt.shape[1] :].tolist()
    return ids


def test_a_student_stops_where_its_teacher_does(teacher: Path, load: Load, tmp_path: Path) -> None:
    recipe, inputs = load()
    free = drawn(student_of(recipe, inputs, tmp_path / "a"))
    end = next(token for token in free[2:] if token not in (*free[:2], 3))
    settings = GenerationConfig(eos_token_id=[3, end], pad_token_id=1, do_sample=True, temperature=0.6, top_k=7)
    settings.save_pretrained(teacher)
    recipe, inputs = load()
    student = student_of(recipe, inputs, tmp_path / "b")
    assert drawn(student) == free[: free.index(end) + 1]
    assert student.generation_config.to_diff_dict() == GenerationConfig.from_pretrained(teacher).to_diff_dict()
    assert end_tokens([ends_of(student)], inputs.tokenizer) == {3, end}


def test_a_student_stops_where_the_rows_that_it_learns_end(teacher: Path, load: Load, tmp_path: Path) -> None:
    """Turns end in token 3, of which the teacher has no word."""
    for given, expected in (([5, 4], [5, 4, 3]), (5, [5, 3]), ([4, 3], [4, 3])):
        GenerationConfig(eos_token_id=given).save_pretrained(teacher)
        recipe, inputs = load()
        student = student_of(recipe, inputs, tmp_path / str(given))
        assert student.generation_config.eos_token_id == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"eos_token_id": [3, 99999]}', "eos_token_id 99999, and the model has .* tokens"),
        ('{"eos_token_id": [3', "teacher"),
    ],
)
def test_settings_of_writing_that_cannot_be_used_are_an_error_before_any_work(
    teacher: Path, load: Load, content: str, message: str
) -> None:
    (teacher / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load()


def test_models_that_are_compared_stop_at_the_same_tokens(load: Load) -> None:
    _, inputs = load()
    models = [
        LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
        for _ in range(3)
    ]
    for model, ends in zip(models, (None, 5, [6, 7]), strict=True):
        model.generation_config = GenerationConfig(eos_token_id=ends)
    assert end_tokens(map(ends_of, models), inputs.tokenizer) == {3, 5, 6, 7}


def test_generation_settings_that_contradict_each_other_are_saved_as_they_are(load: Load, tmp_path: Path) -> None:
    _, inputs = load()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    settings = GenerationConfig(do_sample=False, eos_token_id=[3, 7])
    settings.temperature = 0.3
    model.generation_config = settings
    write_model(model, inputs.tokenizer, tmp_path / "model")
    saved = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert saved["eos_token_id"] == [3, 7] and saved["temperature"] == 0.3
    assert model.generation_config is settings


def test_a_student_has_the_settings_of_its_teachers_tokenizer(teacher: Path, load: Load, tmp_path: Path) -> None:
    path = teacher / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {"padding_side": "left", "truncation_side": "left", "model_max_length": 77}
    settings |= {"extra_special_tokens": ["<|im_start|>"], "clean_up_tokenization_spaces": False}
    path.write_text(json.dumps(settings))
    recipe, inputs = load()
    for split in inputs.splits.values():
        inputs.encoded(recipe, split.rows)
    student_of(recipe, inputs, tmp_path / "s")
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (teacher, tmp_path / "s/student"))
    for name in ("padding_side", "truncation_side", "model_max_length", "chat_template", "special_tokens_map"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
