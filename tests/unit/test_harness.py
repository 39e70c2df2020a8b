"""Tasks of lm-evaluation-harness: what tiny models reach in them, and what the page shows of it."""

import json
import math
import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import ModelError
from potstill.evaluation import harness
from potstill.evaluation.harness import harness_scores
from potstill.evaluation.harness_tasks import harness_tasks
from potstill.presentation.page import render_html
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.harness_settings import HarnessSettings
from potstill.records import EvaluateRecord, HarnessRecord, HarnessScore, HarnessValue
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from tests.conftest import COLOURS, THINGS
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


def question(document: dict[str, Any]) -> str:
    return f"what colour is the {document['thing']} ?"


def naive_sums(folder: Path, asking: Callable[[dict[str, Any]], str] = question) -> list[list[float]]:
    """Of each document the log-probabilities of its choices as continuations, token by token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for each in documents():
        asked = tokenizer(asking(each))["input_ids"]
        sums = []
        for choice in each["choices"]:
            ids = asked + tokenizer(f" {choice}")["input_ids"]
            with torch.no_grad():
                log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(log_p[place - 1, ids[place]]) for place in range(len(asked), len(ids))))
        found.append(sums)
    return found


def naive_hits(folder: Path) -> list[bool]:
    """Of each document whether the right choice is the likeliest."""
    each_sums = zip(naive_sums(folder), documents(), strict=True)
    return [max(range(3), key=sums.__getitem__) == each["right"] for sums, each in each_sums]


def naive_brier(folder: Path, asking: Callable[[dict[str, Any]], str]) -> float:
    """The squared distance of the probabilities from those of who knows, which any change of the context changes."""
    scores = []
    for sums, each in zip(naive_sums(folder, asking), documents(), strict=True):
        weights = [math.exp(value) for value in sums]
        scores.append(sum((weight / sum(weights) - (n == each["right"])) ** 2 for n, weight in enumerate(weights)))
    return sum(scores) / len(scores)


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
    assert [task.metrics for task in tasks] == [(score.metric,)], "known before it ran"
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


def outspoken(folder: Path, tmp_path: Path) -> Path:
    """The same model with larger weights, so that what it was asked shows in what it says."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(8 if weights.dim() == 2 else 1)
    model.save_pretrained(tmp_path / "outspoken")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "outspoken")
    return tmp_path / "outspoken"


def test_models_are_asked_with_examples_and_as_in_a_chat(chat_teacher_folder: Path, tmp_path: Path) -> None:
    text = TASK.replace("documents.jsonl", "documents.jsonl, train: solved.jsonl")
    text = text.replace("metric: acc, aggregation: mean, higher_is_better: true", "metric: brier_score")
    write_task(tmp_path, text + "training_split: train\nfewshot_config: {sampler: first_n}\n")
    solved = documents()[10:14]
    (tmp_path / "solved.jsonl").write_text("".join(json.dumps(each) + "\n" for each in solved))
    folders, predictors = models_of(outspoken(chat_teacher_folder, tmp_path), tmp_path)
    examples = "\n\n".join(f"{question(each)} {each['choices'][each['right']]}" for each in solved[:3])

    def as_in_a_chat(document: dict[str, Any]) -> str:
        return f"<|im_start|>user\n{question(document)}<|im_end|>\n<|im_start|>assistant\n"

    expected = {
        (("few_shot", 3),): lambda document: f"{examples}\n\n{question(document)}",
        (("apply_chat_template", True),): as_in_a_chat,
        (): question,
    }
    reached = {}
    for changes, asking in expected.items():
        settings = HarnessSettings(tasks=("colours.yaml",), **dict(changes))
        found = harness_scores(settings, harness_tasks(settings, tmp_path), predictors, Progress())
        assert found.few_shot == settings.few_shot
        for name, folder in folders.items():
            reached[changes, name] = found.scores[0].models[name].value
            assert reached[changes, name] == pytest.approx(naive_brier(folder, asking), rel=1e-4)
    values = sorted(reached.values())
    assert all(after - before > 1e-3 for before, after in pairwise(values)), "how they are asked makes a difference"


def test_scores_are_told_of_filters_and_groups_and_of_finite_numbers_alone() -> None:
    """As `lm_eval.evaluator_utils` puts results together."""
    nan, inf = float("nan"), float("inf")
    results = {
        "results": {
            "numbers": {"alias": "n", "sample_len": 7, "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.25},
            "rows": {"sample_len": 5, "f1,none": nan, "f1_stderr,none": nan, "ppl,none": inf, "acc,none": 1},
            "all": {"sample_len": 12, "acc,none": 0.75, "acc_stderr,none": nan, "x,none": "?", "y_stderr,none": 0.5},
        },
        "higher_is_better": {"numbers": {"exact_match": True}, "rows": {"ppl": False}, "all": {"acc": None}},
        "n-samples": {"numbers": {"original": 9, "effective": 7}, "rows": {"original": 5, "effective": 5}},
    }
    value = HarnessValue
    expected = [
        ("numbers", "exact_match (strict)", 7, "higher", {"teacher": value(value=0.5, standard_error=0.25)}),
        ("rows", "f1", 5, None, {}),
        ("rows", "ppl", 5, "lower", {}),
        ("rows", "acc", 5, None, {"teacher": value(value=1)}),
        ("all", "acc", 12, None, {"teacher": value(value=0.75)}),
    ]
    found = list(harness._scores(results, "teacher"))
    assert [(each.task, each.metric, each.documents, each.better, each.models) for each in found] == expected
    record = HarnessRecord(version="0", few_shot=None, limit=None, scores=found)
    assert HarnessRecord.model_validate_json(record.model_dump_json()) == record


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


def test_a_task_that_is_not_there_is_told_in_a_sentence(chat_teacher_folder: Path, tmp_path: Path) -> None:
    settings = HarnessSettings(tasks=("colours.yaml",))
    write_task(tmp_path, TASK.replace("test_split: test", "test_split: none"))
    predictors = models_of(chat_teacher_folder, tmp_path)[1]
    with pytest.raises(ModelError, match=r"^evaluate.harness: teacher could not be put .*none"):
        harness_scores(settings, harness_tasks(settings, tmp_path), predictors, Progress())


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
    assert section.count("not measured") == 1, "the baseline has no such number"
    assert EvaluateRecord.model_validate(found.model_dump(mode="json")).harness == harness
    without = found.model_copy(update={"harness": None})
    assert "harness" not in without.model_dump(mode="json")
    assert "lm-evaluation-harness" not in render_html(**plain | sections(without, plain["run"].export))
