"""Whole runs of a chat model through the command line, on a tiny teacher."""

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from potstill.errors import DataError, ModelError, PotstillError
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from potstill.stages.plan import make_plan
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import COLOURS, make_chat_project
from tests.kept_answers import assert_metrics_add_up, kept

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, chat_teacher_folder: Path) -> Path:
    project = make_chat_project(tmp_path_factory.mktemp("chat"), chat_teacher_folder)
    potstill("run", project / "recipe.yaml", "--out", project / "run")
    return project


def test_a_run_leaves_the_promised_figures(finished: Path) -> None:
    evaluation = record(finished / "run", "evaluate")
    for model in ("teacher", "student", "baseline"):
        figures = evaluation["models"][model]
        names = ["accuracy", "perplexity", "time_to_first_token_ms", "time_per_token_ms", "tokens_per_s"]
        names += ["peak_memory_bytes", "size_bytes", "num_parameters"]
        if model != "teacher":
            names += ["kl_mean", "kl_p99", "top1_agreement", "rms_probability_difference"]
        assert all(figures[name] > 0 for name in names), (model, figures)
    # The task is easy: a teacher that did not learn it, or a mask that is off by one, would be far from it.
    assert evaluation["models"]["teacher"]["accuracy"] > 0.9
    assert evaluation["models"]["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    assert evaluation["test_tokens"] > evaluation["test_rows"] == 30
    gain = evaluation["kl_gain_over_baseline"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    kl = {name: evaluation["models"][name]["kl_mean"] for name in ("baseline", "student")}
    assert gain["value"] == pytest.approx(kl["baseline"] - kl["student"], rel=1e-6, abs=1e-9)
    assert record(finished / "run", "gate")["passed"] is True
    artefact = record(finished / "run", "export")["artefacts"][0]
    assert artefact["passed"] and artefact["max_logit_difference"] == 0


def with_hidden_states(project: Path, teacher: Path) -> tuple[Path, list[str]]:
    """recipes/chat_hidden_states.yaml beside the data of a chat project, and what makes it short."""
    adapted, recipe = load_recipe(project / "recipe.yaml", []), project / "chat_hidden_states.yaml"
    text = (RECIPES / recipe.name).read_text().replace("../chat/", "")
    recipe.write_text(re.sub(r"pkg:\S*gguf", str(teacher), text))
    return recipe, [
        "task.max_length=64",
        "data={train: data/train.jsonl, validation: data/validation.jsonl, test: data/test.jsonl, "
        "adapt: data/adapt.jsonl, near_copies: null}",
        f"adapt={adapted.adapt.model_dump_json()}" if adapted.adapt else "",
        "label.encoding={kind: low_rank, head: 8, rank: 16}",
        "student.layers=2",
        "student.width=32",
        "train={epochs: 8, batch_size: 4, learning_rate: 1e-2, evaluate_every: 10, precision: float32}",
        "train.baseline=false",
        "evaluate={prompts: 2, rounds: 1, warmup: 1, new_tokens: 4, generations: 1, generation_tokens: 4}",
    ]


@pytest.mark.parametrize(
    "features", [pytest.param("online"), pytest.param("stored", marks=pytest.mark.long)], ids=["online", "stored"]
)
def test_hidden_states_are_learnt_beside_the_distributions(
    tmp_path: Path, chat_teacher_folder: Path, features: str
) -> None:
    """recipes/chat_hidden_states.yaml, on a tiny teacher that was adapted to the data."""
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe, changes = with_hidden_states(project, chat_teacher_folder)
    changes = [*changes, f"label.features={features}"]
    said = [part for change in changes for part in ("--set", change)]
    potstill("run", recipe, "--out", project / "run", *said)
    assert {signal["name"] for signal in record(project / "run", "plan")["signals"]} == {"logits", "hidden_states"}
    lines = [json.loads(line) for line in (project / "run/train/student/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    for name in ("soft_targets", "hidden_states"):
        assert steps[-1][name] < 0.5 * steps[0][name], name
    evaluation = record(project / "run", "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    assert (project / "run/label/teacher/hidden_states/manifest.json").exists() == (features == "stored")


def test_labels_are_of_every_trained_token_of_training_and_validation(finished: Path) -> None:
    labels, splits = record(finished / "run", "label/teacher/logits"), record(finished / "run", "plan")["splits"]
    expected = sum(splits[name]["tokens"]["trained_tokens"] for name in ("train", "validation"))
    assert labels["positions"] == expected
    assert [error["temperature"] for error in labels["errors"]] == [1.0, pytest.approx(2**0.5), 2.0]
    assert all(0 <= error["kl"] < 0.25 for error in labels["errors"])


def test_the_report_shows_what_the_models_write(finished: Path) -> None:
    page = (finished / "run/report/report.html").read_text()
    samples = record(finished / "run", "evaluate")["generations"]
    assert len(samples) == 2 and set(samples[0]["said"]) == {"teacher", "student", "baseline"}
    assert samples[0]["prompt"] in page and "What the models write" in page and "<script" not in page
    assert "nats a token" in page
    card = (finished / "run/report/MODEL_CARD.md").read_text()
    assert "pipeline_tag: text-generation" in card and "AutoModelForCausalLM" in card


def test_a_student_that_transformers_loads_writes_what_it_learnt(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished / "run/export/safetensors"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "w1 w2 what colour is the hat ?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    words = tokenizer.decode(said).split()
    assert words[0] in COLOURS and words[1:] == ["is", "the", "colour", "<|im_end|>"]


def test_a_second_run_works_on_nothing_and_a_gate_is_only_judged_again(finished: Path) -> None:
    recipe, run = finished / "recipe.yaml", finished / "run"
    assert stages_that_worked(potstill("run", recipe, "--out", run).stderr) == set()
    judged = potstill("gate", recipe, "--out", run, "--set", "gate.max_kl_from_teacher=1e-6", check=3)
    assert stages_that_worked(judged.stderr) == {"gate"}
    (check,) = (each for each in record(run, "gate")["checks"] if each["name"] == "kl_from_teacher")
    assert not check["passed"] and check["measured"] > 1e-6


@pytest.mark.long
def test_an_encoding_that_loses_too_much_is_refused_with_one_that_would_do(chat_project: Path) -> None:
    refused = potstill(
        "label",
        chat_project / "recipe.yaml",
        "--out",
        chat_project / "run",
        "--set",
        "label.encoding={kind: top_k, k: 1}",
        "--set",
        "label.max_kl=0.02",
        check=1,
    )
    assert "top_k, k: 1" in refused.stderr and "label.max_kl is 0.02" in refused.stderr
    assert "would do" in refused.stderr
    assert not (chat_project / "run/label/teacher/logits/manifest.json").exists()


@pytest.mark.long
def test_auto_takes_the_smallest_encoding_within_the_bound(finished: Path, tmp_path: Path) -> None:
    changes = ["--set", "label.encoding={kind: auto}", "--set", "label.max_kl=0.001", "--set", "adapt=null"]
    potstill("label", finished / "recipe.yaml", "--out", tmp_path / "run", *changes)
    manifest = json.loads((tmp_path / "run/label/teacher/logits/manifest.json").read_text())
    assert manifest["encoding"]["kind"] in {"top_k", "low_rank", "hidden"}
    assert all(error["kl"] <= 0.001 for error in manifest["positions"]["errors"] if error["temperature"] == 1)


def test_a_bound_that_was_tightened_is_judged_again(finished: Path) -> None:
    refused = potstill(
        "label", finished / "recipe.yaml", "--out", finished / "run", "--set", "label.max_kl=1e-9", check=1
    )
    assert "the stored labels are" in refused.stderr and stages_that_worked(refused.stderr) <= {"plan"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("label.encoding={kind: dense}", "label.encoding: dense does not fit causal_lm"),
        ("label.temperatures=[2, 4]", "losses: soft_targets uses temperatures from 1 to 1"),
        ("label.temperatures=[2, 1]", "expected ascending values"),
        ("student.width=15", "share keys and values in groups of 2"),
        ("task.max_length=8", "no row has a token to learn within 8 tokens"),
        (
            "losses=[{kind: soft_targets, temperature: {kind: linear, start: 4, end: 1}}]",
            "uses temperatures from 1 to 4, and label.temperatures reaches from 1 to 2",
        ),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_any_work(chat_project: Path, change: str, message: str) -> None:
    with pytest.raises(PotstillError, match=re.escape(message)):
        checked(chat_project, change)


def checked(project: Path, *changes: str) -> None:
    """What `potstill check` does, without a process for it."""
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    make_plan(recipe, read_inputs(recipe, project), project)


def test_a_token_beyond_the_embeddings_is_named(chat_project: Path, chat_teacher_folder: Path) -> None:
    folder = chat_project / "teacher"
    shutil.copytree(chat_teacher_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="token 'extra' has the id 80, and the model has 80 tokens"):
        checked(chat_project, f"teacher.model={folder}")


def test_a_row_without_a_response_is_named(chat_project: Path) -> None:
    with (chat_project / "data/train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "open", "messages": [{"role": "user", "content": "the hat"}]}) + "\n")
    with pytest.raises(DataError, match=r'data\.train: 1 of 61 rows have no response, first "open"'):
        checked(chat_project)


def test_the_answers_that_are_kept_add_up_to_the_figures(finished: Path) -> None:
    run = finished / "run"
    assert_metrics_add_up(run)
    # Each row has the tokens of all its responses: five words and the end of the turn.
    rows = {row["id"]: row for row in kept(run)}
    for line in (finished / "data/test.jsonl").read_text().splitlines():
        row = json.loads(line)
        turns = len(row["messages"]) // 2
        assert rows[row["id"]]["models"]["student"]["tokens"] == 5 * turns
    assert all(row["models"]["teacher"]["kl"] == 0 for row in rows.values())
