"""A chat model whose student has other tokens, through the command line, on tiny models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from potstill.errors import ModelError, RecipeError
from potstill.labels.store import CODEC
from potstill.recipe.yaml_file import load_recipe
from potstill.records import OtherTokensRecord
from potstill.stages.inputs import read_inputs
from potstill.stages.other_tokens import doubts_about_answers
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import COLOURS, THINGS, make_chat_project
from tests.recipes.test_pretrained_students import changed, of_recipe
from tests.two_vocabularies import byte_pairs

WORDS = [" the", " is", "what", " colour", "user", "assistant", *(f" {each}" for each in (*COLOURS, *THINGS))]
TEMPLATE = """\
{% for m in messages %}{{ BEGIN + m.role + '\\n' + m.content + END }}{% endfor %}\
{% if add_generation_prompt %}{{ BEGIN + 'assistant' + '\\n' }}{% endif %}"""


def write_model(folder: Path, letters: int, special: tuple[str, str, str], *, layers: int, seed: int) -> Path:
    """A random Llama whose tokens are the words' first letters, at most so many, and single bytes."""
    joined = dict.fromkeys(word[:length] for word in WORDS for length in range(2, 1 + min(letters, len(word))))
    tokenizer = byte_pairs(list(joined), first=special)
    begin, end = (repr(each) for each in special[1:])
    tokenizer.chat_template = TEMPLATE.replace("BEGIN", begin).replace("END", end)
    tokenizer.eos_token = special[2]
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3 * layers,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        write_model(folder / "teacher", 10, ("<pad>", "<turn>", "<end>"), layers=3, seed=1),
        write_model(folder / "student", 3, ("<nothing>", "<user>", "<stop>"), layers=2, seed=2),
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, Path]) -> Path:
    """A run of the recipe."""
    project = make_chat_project(tmp_path_factory.mktemp("chat"), models[0])
    recipe = of_recipe(project, "other_tokens", *settings(models), decoder=models[0], other=models[1])
    shown = " ".join(potstill("check", *recipe).stdout.split())
    assert "aligned by bytes" in shown and "100.0% of the learnt tokens of validation have an answer" in shown
    potstill("run", *recipe, "--out", project / "run")
    return project


SHORT = "gate.allow_degenerate_writing=true"
"""Of a student that has hardly begun to learn, and says one letter for ever."""


def settings(models: tuple[Path, Path]) -> list[str]:
    return [
        "task.max_length=160",
        "adapt={epochs: 6, batch_size: 8, learning_rate: 1e-2, precision: float32}",
        "train.epochs=8",
        "train.batch_size=8",
        "train.micro_batch_size=null",
        "evaluate.robustness={rows: 4, severities: [2], perturbations: [keyboard, truncation]}",
    ]


def test_a_student_learns_in_its_own_tokens(taught: Path, models: tuple[Path, Path]) -> None:
    evaluation = record(taught / "run", "evaluate")
    measured = evaluation["models"]
    assert measured["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    own = AutoTokenizer.from_pretrained(taught / "run/train/student/model")
    assert own.get_vocab() == AutoTokenizer.from_pretrained(models[1]).get_vocab()
    assert own.chat_template == AutoTokenizer.from_pretrained(models[1]).chat_template
    # A text is as likely in one's tokens as in the other's, so that the perplexity of the teacher is that of the text.
    plan = record(taught / "run", "plan")
    assert plan["steps"] == record(taught / "run", "train/student")["planned_steps"]
    assert plan["other_tokens"]["answered"] == 1.0 and 0 < plan["other_tokens"]["plain"] < 1
    assert evaluation["tokens_without_answer"] == 0
    assert any("All figures are per token of the student's" in line for line in evaluation["findings"])
    said = evaluation["generations"][0]["said"]
    assert {"teacher", "student"} <= set(said) and "<stop>" not in said["student"]
    robust = evaluation["token_robustness"]
    queries = robust["unanswerable"]
    # Of the student's tokens, of which the words of an answer have more than four.
    assert robust["rows"] == 4 and robust["tokens"] > 4 * 4 * 2
    assert queries["counts"] == {"declined": 24, "nonsense": 24} and queries["left_out"] == 0
    for found in (robust["models"]["student"]["robust_kl"], queries["models"]["student"]["kl"]):
        assert 0 < found["value"] < 10
    assert robust["models"]["teacher"]["perturbed"][1]["perplexity_ratio"]["value"] > 1, "nobody is told what is asked"


@pytest.mark.long
def test_asked_in_each_step_it_learns_the_same_to_rounding(taught: Path, models: tuple[Path, Path]) -> None:
    recipe = of_recipe(
        taught, "other_tokens", *settings(models), "label.encoding={kind: hidden}", decoder=models[0], other=models[1]
    )
    potstill("train", *recipe, "--out", taught / "stored")
    online = [*recipe, *changed("label={mode: online, batch_size: 8, precision: float32}")]
    potstill("train", *online, "--out", taught / "online")
    losses = [record(taught / name, "train/student")["best_validation_loss"] for name in ("stored", "online")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.long
def test_what_the_teacher_wrote_is_learnt_as_text(taught: Path, models: tuple[Path, Path]) -> None:
    asked = "label.responses={kind: generated, max_new_tokens: 20, temperature: 0.7, rows: all}"
    recipe = of_recipe(taught, "other_tokens", *settings(models), asked, decoder=models[0], other=models[1])
    potstill("run", *recipe, "--out", taught / "written")
    evaluation = record(taught / "written", "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] < evaluation["initial_kl_mean"]
    again = potstill("run", *recipe, "--out", taught / "written")
    assert not stages_that_worked(again.stderr)


def test_with_the_same_tokens_nothing_is_aligned(taught: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    same = write_model(tmp_path / "same", 10, ("<pad>", "<turn>", "<end>"), layers=2, seed=3)
    recipe = of_recipe(taught, "other_tokens", *settings(models), decoder=models[0], other=same)
    shown = potstill("check", *recipe).stdout
    assert "tokens in common" in shown and "aligned" not in shown


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("label.encoding={kind: top_k, k: 4}", "label.encoding: top_k keeps some of the teacher's tokens"),
        ("student.adopt_tokens=true", "student.adopt_tokens: the student's tokenizer is another one"),
        ("losses=[{kind: hidden_states, weight: 1}]", "compare the models token by token"),
    ],
)
def test_what_cannot_be_told_in_other_tokens_is_refused(
    taught: Path, models: tuple[Path, Path], change: str, told: str
) -> None:
    changes = [f"student={{kind: pretrained, model: {models[1]}}}", change]
    with pytest.raises((ModelError, RecipeError)) as found:
        read_inputs(load_recipe(taught / "recipe.yaml", changes), taught)
    assert told in str(found.value)


@pytest.mark.long
def test_two_teachers_are_mixed_and_told_in_other_tokens(
    taught: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    second = write_model(tmp_path / "second", 10, ("<pad>", "<turn>", "<end>"), layers=2, seed=7)
    # The same tokens, and as many rows of embeddings.
    config = LlamaConfig.from_pretrained(second)
    config.vocab_size = LlamaConfig.from_pretrained(models[0]).vocab_size
    LlamaForCausalLM(config).save_pretrained(second)
    of = f"{{a: {{model: '{models[0]}'}}, b: {{model: '{second}'}}}}"
    changes = [f"teacher={{kind: mixture, of: {of}}}", "train.epochs=2", SHORT]
    recipe = of_recipe(taught, "other_tokens", *settings(models), *changes, decoder=models[0], other=models[1])
    potstill("run", *recipe, "--out", taught / "mixed")
    evaluation = record(taught / "mixed", "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] < evaluation["initial_kl_mean"]
    assert {"a", "b"} <= set(evaluation["models"])


@pytest.mark.long
def test_its_successor_learns_from_it_in_the_tokens_that_both_have(taught: Path, models: tuple[Path, Path]) -> None:
    start = f"teacher={{kind: generation, generations: 2, start: {{model: '{models[0]}'}}}}"
    recipe = of_recipe(taught, "other_tokens", *settings(models), start, SHORT, decoder=models[0], other=models[1])
    potstill("run", *recipe, "--out", taught / "rounds")
    folders = {name: taught / f"rounds/label/{name}/logits" for name in ("teacher", "generation-1")}
    tokens = {name: len(load_file(folder / CODEC)["factor"]) for name, folder in folders.items()}
    assert list(tokens.values()) == [LlamaConfig.from_pretrained(model).vocab_size for model in models]
    evaluation = record(taught / "rounds", "evaluate")
    assert evaluation["models"]["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    assert evaluation["tokens_without_answer"] == 0


def test_tokens_of_which_the_teacher_says_nothing_are_told_of_in_the_plan() -> None:
    def record_of(share: float) -> OtherTokensRecord:
        return OtherTokensRecord(teacher_tokens=9, student_tokens=9, alone=9, answered=share, plain=1.0)

    assert doubts_about_answers(None) == doubts_about_answers(record_of(0.95)) == []
    [line] = doubts_about_answers(record_of(0.6))
    assert "of 40% of the student's tokens the teacher says nothing" in line
    with pytest.raises(ModelError, match=r"writes no text of data\.validation as its teacher's does"):
        doubts_about_answers(record_of(0.0))
