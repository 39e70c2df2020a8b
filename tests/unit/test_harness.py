"""Tasks of lm-evaluation-harness: their files, which run nothing unasked, and what tiny models reach in them."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import ModelError, RecipeError
from potstill.evaluation import harness_tasks as task_files
from potstill.evaluation.harness import harness_scores
from potstill.evaluation.harness_tasks import HarnessTask, harness_tasks, task_given
from potstill.presentation.page import render_html
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.harness_settings import HarnessSettings
from potstill.recipe.yaml_file import load_recipe
from potstill.records import EvaluateRecord, HarnessRecord, HarnessScore, HarnessValue
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.stages.inputs import read_inputs
from tests.conftest import COLOURS, THINGS, make_chat_project
from tests.unit.finished_run import HOSTILE, evaluation, inputs, sections

pytest.importorskip("lm_eval")

TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: documents.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "what colour is the {{thing}} ?"
doc_to_choice: choices
doc_to_target: right
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def documents(count: int = 24) -> list[dict[str, Any]]:
    draw = random.Random(5)
    return [
        {"thing": draw.choice(THINGS), "choices": draw.sample(COLOURS, 3), "right": draw.randrange(3)}
        for _ in range(count)
    ]


def write_task(folder: Path, text: str = TASK, name: str = "colours.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "documents.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents()))
    (folder / name).write_text(text)
    return folder / name


def naive_hits(folder: Path) -> list[bool]:
    """Of each document whether the right choice is the likeliest continuation, token by token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    hits = []
    for each in documents():
        asked = tokenizer(f"what colour is the {each['thing']} ?")["input_ids"]
        sums = []
        for choice in each["choices"]:
            ids = asked + tokenizer(f" {choice}")["input_ids"]
            with torch.no_grad():
                log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(log_p[place - 1, ids[place]]) for place in range(len(asked), len(ids))))
        hits.append(max(range(3), key=sums.__getitem__) == each["right"])
    return hits


def models_of(folder: Path, tmp_path: Path) -> tuple[dict[str, Path], dict[str, Predictor]]:
    """The random teacher, and a student with other random weights."""
    other = tmp_path / "student"
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * weights.std())
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(folder).save_pretrained(other)
    folders = {"teacher": folder, "student": other}
    task = Recipe.model_validate(
        {
            "task": {"kind": "causal_lm"},
            "data": {"train": "a", "validation": "b", "test": "c"},
            "teacher": {"model": "m"},
        }
    ).task
    opened = {
        name: open_predictor(
            ModelFolder(path),
            task=task,
            tokenizer=AutoTokenizer.from_pretrained(path),
            device=torch.device("cpu"),
            batch_size=4,
        )
        for name, path in folders.items()
    }
    return folders, opened


def test_accuracies_are_those_of_the_likeliest_choice(chat_teacher_folder: Path, tmp_path: Path) -> None:
    """Both models on the same documents; the file lies beside its data, wherever the run is started."""
    write_task(tmp_path / "tasks")
    folders, predictors = models_of(chat_teacher_folder, tmp_path)
    settings = HarnessSettings(tasks=("tasks/colours.yaml",))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tasks = harness_tasks(settings, tmp_path)
    found = harness_scores(settings, tasks, predictors, Progress())
    assert torch.equal(torch.get_rng_state(), before), "what is drawn later does not depend on it"
    (score,) = found.scores
    assert (score.task, score.metric, score.documents, score.better) == ("colours", "acc", 24, "higher")
    assert set(score.models) == {"teacher", "student"} and (found.few_shot, found.limit) == (None, None)
    expected = {name: naive_hits(folder) for name, folder in folders.items()}
    assert expected["teacher"] != expected["student"]
    for name, hits in expected.items():
        share = sum(hits) / len(hits)
        assert score.models[name].value == pytest.approx(share)
        # Of a mean, with the variance of a sample.
        error = (share * (1 - share) / (len(hits) - 1)) ** 0.5
        assert score.models[name].standard_error == pytest.approx(error)
    few = harness_scores(HarnessSettings(tasks=settings.tasks, limit=5), tasks, predictors, Progress()).scores[0]
    assert few.documents == 5 and few.models["teacher"].value == pytest.approx(sum(expected["teacher"][:5]) / 5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TASK + "process_docs: !function evil.run\n", "has !function, which runs Python"),
        (TASK + "x: !!python/object/apply:os.system ['true']\n", "which runs Python"),
        (TASK + "class: evil.Task\n", "has class, which runs Python"),
        (TASK + "custom_dataset: evil\n", "has custom_dataset, which runs Python"),
        (TASK + "use_prompt: evil.yaml:x\n", "has use_prompt, which runs Python"),
        (TASK.replace("metric: acc", "metric: ./evil.py"), "the metric './evil.py', which is a script of a hub"),
        (TASK.replace("metric: acc", "metric: acc, hf_evaluate: true"), "the metric 'acc', which is a script of a hub"),
        ("include: evil.yaml\n" + TASK, "has !function, which runs Python"),
        ("include: colours.yaml\n" + TASK, "includes itself"),
        ("include: none.yaml\n" + TASK, "none.yaml cannot be read (No such file"),
        ("[1, 2", "is no YAML"),
        ("[1, 2]", "is no task file"),
        ("group: all\ntask: [colours]\n", "has no task: NAME"),
        ("a: " + "b" * 2**20, "has more than 1 MiB"),
    ],
)
def test_files_that_would_run_python_are_refused(tmp_path: Path, text: str, told: str) -> None:
    write_task(tmp_path, text)
    (tmp_path / "evil.yaml").write_text("process_docs: !function evil.run\n")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(RecipeError, match=r"^evaluate.harness.tasks\[0\]: ") as error:
        harness_tasks(HarnessSettings(tasks=("colours.yaml",)), tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert ("evaluate.harness.trust_remote_code: true" in str(error.value)) is (
        "runs Python" in told or "script" in told
    )
    assert not (tmp_path / "ran").exists()


def test_templates_run_in_a_sandbox(chat_teacher_folder: Path, tmp_path: Path) -> None:
    """They see no Python of the process; the environment of the harness is as it was afterwards."""
    from lm_eval import utils

    own = utils.env
    write_task(tmp_path, TASK.replace("{{thing}}", "{{ ''.__class__.__mro__[1].__subclasses__() | length }}"))
    settings = HarnessSettings(tasks=("colours.yaml",))
    predictors = models_of(chat_teacher_folder, tmp_path)[1]
    with pytest.raises(ModelError, match=r"^evaluate.harness: teacher could not be put to its tasks") as error:
        harness_scores(settings, harness_tasks(settings, tmp_path), predictors, Progress())
    assert "unsafe" in str(error.value) and utils.env is own
    trusted = settings.model_copy(update={"trust_remote_code": True})
    assert harness_scores(trusted, harness_tasks(trusted, tmp_path), predictors, Progress()).scores


def test_what_is_trusted_may_run_python(chat_teacher_folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, TASK + "process_docs: !function few.first\n")
    (tmp_path / "few.py").write_text("def first(docs):\n    return docs.select(range(7))\n")
    settings = HarnessSettings(tasks=("colours.yaml",), trust_remote_code=True)
    predictors = models_of(chat_teacher_folder, tmp_path)[1]
    found = harness_scores(settings, harness_tasks(settings, tmp_path), predictors, Progress())
    assert found.scores[0].documents == 7


def test_included_files_come_first_and_data_lie_beside_their_file(tmp_path: Path) -> None:
    write_task(tmp_path / "inner", TASK.replace("right", "other"))
    write_task(tmp_path, "include: inner/colours.yaml\ntask: mine\ndoc_to_target: right\n")
    settings = HarnessSettings(tasks=("colours.yaml",))
    (mine,), known = harness_tasks(settings, tmp_path), HarnessTask("hellaswag")
    given = task_given(mine, trusted=False)
    assert isinstance(given, dict) and (given["task"], given["doc_to_target"]) == ("mine", "right")
    assert given["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "inner/documents.jsonl")}}
    assert "include" not in given and (task_given(known, trusted=False), known.digest) == ("hellaswag", "")


def test_another_file_is_another_task(tmp_path: Path) -> None:
    settings = HarnessSettings(tasks=("colours.yaml",))

    def digest() -> str:
        return harness_tasks(settings, tmp_path)[0].digest

    write_task(tmp_path)
    first = digest()
    assert digest() == first
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write("\n")
    second = digest()
    write_task(tmp_path, TASK + "description: x\n")
    assert len({first, second, digest()}) == 3


def test_a_task_that_is_not_there_is_told_in_a_sentence(chat_teacher_folder: Path, tmp_path: Path) -> None:
    settings = HarnessSettings(tasks=("colours.yaml",))
    write_task(tmp_path, TASK.replace("documents.jsonl", "none.jsonl"))
    predictors = models_of(chat_teacher_folder, tmp_path)[1]
    with pytest.raises(ModelError, match=r"^evaluate.harness: teacher could not be put .*none.jsonl"):
        harness_scores(settings, harness_tasks(settings, tmp_path), predictors, Progress())


def test_the_package_and_the_files_are_asked_for_before_training(
    tmp_path: Path, chat_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe = load_recipe(project / "recipe.yaml", ["evaluate.harness={tasks: [tasks/colours.yaml]}"])
    with pytest.raises(RecipeError, match=r"colours\.yaml cannot be read"):
        read_inputs(recipe, project)
    write_task(project / "tasks")
    assert [task.name for task in read_inputs(recipe, project).harness] == ["colours"]
    monkeypatch.setattr(task_files, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'potstill\[harness\]'"):
        read_inputs(recipe, project)
    assert read_inputs(load_recipe(project / "recipe.yaml"), project).harness == ()


def test_names_that_the_package_does_not_know_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    class Known:
        all_tasks = ("hellaswag", "arc_easy")

    monkeypatch.setattr(tasks, "TaskManager", Known)
    assert [each.name for each in harness_tasks(HarnessSettings(tasks=("arc_easy",)), tmp_path)] == ["arc_easy"]
    told = "evaluate.harness.tasks[1]: lm-evaluation-harness has no task 'helaswag'. Did you mean hellaswag?"
    with pytest.raises(RecipeError, match=re.escape(told)):
        harness_tasks(HarnessSettings(tasks=("arc_easy", "helaswag")), tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"task": {"kind": "seq2seq"}},
            "evaluate.harness: its tasks are for task.kind: causal_lm, and this one is seq2seq",
        ),
        (
            {"teacher": {"kind": "mixture", "of": {"a": {"model": "m"}, "b": {"model": "n"}}}},
            "evaluate.harness: asks one model, and teacher.kind: mixture is several",
        ),
        ({"evaluate": {"harness": {"tasks": ["a", "a"]}}}, "a is listed twice"),
        ({"evaluate": {"harness": {"tasks": []}}}, "at least 1 item"),
    ],
)
def test_recipes_that_cannot_be_put_to_tasks_are_refused(changes: dict[str, Any], told: str) -> None:
    recipe = {
        "task": {"kind": "causal_lm"},
        "data": {"train": "a", "validation": "b", "test": "c"},
        "teacher": {"model": "m"},
        "evaluate": {"harness": {"tasks": ["hellaswag"]}},
    }
    Recipe.model_validate(recipe)
    with pytest.raises(ValueError, match=re.escape(told)):
        Recipe.model_validate(recipe | changes)


def test_the_page_shows_each_task_with_all_models() -> None:
    score = HarnessScore(
        task=HOSTILE,
        metric="acc",
        documents=1319,
        better="higher",
        models={"teacher": HarnessValue(value=0.75, standard_error=0.0125), "student": HarnessValue(value=0.5)},
    )
    harness = HarnessRecord(version="0.4.13", few_shot=5, limit=None, scores=[score])
    found = evaluation(with_baseline=True).model_copy(update={"primary_metric": "token_accuracy", "harness": harness})
    plain = inputs(hostile="plain")
    page = render_html(**plain | sections(found, plain["run"].export))
    section = page.split("Tasks of lm-evaluation-harness")[1]
    assert "<script>alert" not in section and "&lt;script&gt;alert(1)" in section
    assert "0.75 ± 0.0125" in section and "1,319" in section and "5 solved examples" in section
    assert EvaluateRecord.model_validate(found.model_dump(mode="json")).harness == harness
    without = found.model_copy(update={"harness": None})
    assert "harness" not in without.model_dump(mode="json")
    assert "lm-evaluation-harness" not in render_html(**plain | sections(without, plain["run"].export))
