"""The tokens that a language model which exists already has in common with its teacher, compared id by id."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.errors import DataError
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from potstill.stages.own_student import with_shared_tokens
from potstill.stages.plan import make_plan
from potstill.students import SharedTokens, same_pieces, shared_tokens
from potstill.targets import Head

WORDS = ["<unk>", "<pad>", "a", "b", "c", "d"]


def tokenizer(words: Sequence[str] = WORDS, added: Sequence[str] = ("<end>",)) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<pad>", *added)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>")


def test_rows_beyond_the_tokens_are_not_shared() -> None:
    found = shared_tokens(tokenizer(), tokenizer(), (16, 12), adopt=False)
    assert found == SharedTokens(7, (16, 12))


def test_a_piece_that_differs_is_another_tokenizer() -> None:
    assert same_pieces(tokenizer(), tokenizer(added=("<stop>", "<x>")))
    assert not same_pieces(tokenizer(), tokenizer([*WORDS[:3], "c", "b", "d"]))


@pytest.mark.parametrize("more_for", ["teacher", "student"])
def test_a_vocabulary_of_more_pieces_is_another_tokenizer(more_for: str) -> None:
    longer, plain = tokenizer([*WORDS, "e"], ()), tokenizer(WORDS, ())
    assert not same_pieces(*((longer, plain) if more_for == "teacher" else (plain, longer)))


def test_special_tokens_that_the_student_has_not_end_what_is_shared() -> None:
    found = shared_tokens(tokenizer(added=("<end>", "<think>")), tokenizer(), (16, 16), adopt=False)
    assert found == SharedTokens(7, (16, 16), unknown=("<think>",))
    found = shared_tokens(tokenizer(added=("<end>", "<x>")), tokenizer(added=("<stop>", "<x>")), (9, 9), adopt=False)
    assert found == SharedTokens(6, (9, 9), unknown=("<end>", "<x>"))


def test_special_tokens_can_be_adopted_where_there_are_rows_for_them() -> None:
    theirs = tokenizer(added=("<end>", "<think>"))
    found = shared_tokens(theirs, tokenizer(added=("<stop>",)), (16, 12), adopt=True)
    assert found == SharedTokens(8, (16, 12), adopted=("<end>", "<think>"))
    found = shared_tokens(theirs, tokenizer(), (16, 7), adopt=True)
    assert found == SharedTokens(7, (16, 7), unknown=("<think>",))


def test_a_head_of_the_first_tokens_gives_the_same_logits_of_these() -> None:
    head = Head(torch.randn(9, 4), torch.randn(9), scale=0.5, soft_cap=3.0)
    hidden = torch.randn(5, 4)
    assert torch.allclose(head.of_first(6).logits(hidden), head.logits(hidden)[:, :6], atol=1e-6)
    assert head.of_first(None) is head and head.of_first(9) is head
    assert head.of_first(6).weight.data_ptr() == head.weight.data_ptr()


def padded(folder: Path, source: Path, rows: int, seed: int, more: Sequence[str] = ()) -> Path:
    """A random model with the tokenizer of another, some tokens more, and so many rows of embeddings."""
    words = AutoTokenizer.from_pretrained(source)
    words.add_special_tokens({"additional_special_tokens": list(more)}, replace_extra_special_tokens=False)
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig.from_pretrained(source)
    config.vocab_size = rows
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_pair_of_two_paddings_is_planned_over_its_tokens(
    tmp_path: Path, chat_project: Path, chat_teacher_folder: Path
) -> None:
    tokens = len(AutoTokenizer.from_pretrained(chat_teacher_folder))
    teacher = padded(tmp_path / "t", chat_teacher_folder, tokens + 9, 1)
    student = padded(tmp_path / "s", chat_teacher_folder, tokens + 4, 2)
    recipe = load_recipe(
        chat_project / "recipe.yaml",
        [f"teacher.model={teacher}", f"student={{kind: pretrained, model: {student}}}"],
    )
    inputs = read_inputs(recipe, chat_project)
    shared = with_shared_tokens(recipe, inputs.own)
    assert shared.task.shared_tokens == tokens
    plan = make_plan(shared, inputs, tmp_path)
    assert plan.shared_tokens is not None
    assert (plan.shared_tokens.count, plan.shared_tokens.teacher_rows, plan.shared_tokens.student_rows) == (
        tokens,
        tokens + 9,
        tokens + 4,
    )
    assert (plan.student.vocabulary, plan.teacher.vocabulary) == (tokens + 4, tokens + 9)
    for folder in (teacher, student):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert shared.task.head_of(model).weight.shape[0] == tokens
    assert inputs.of_student is inputs


def test_a_row_with_a_token_that_is_not_shared_is_refused(
    tmp_path: Path, chat_project: Path, chat_teacher_folder: Path
) -> None:
    tokens = len(AutoTokenizer.from_pretrained(chat_teacher_folder))
    teacher = padded(tmp_path / "t", chat_teacher_folder, tokens + 9, 1, more=("<think>",))
    student = padded(tmp_path / "s", chat_teacher_folder, tokens + 4, 2)
    # The template, and so every row, has the token that the student lacks.
    template = teacher / "chat_template.jinja"
    assert "m.role + ' '" in template.read_text()
    template.write_text(template.read_text().replace("m.role + ' '", "m.role + ' <think> '"))
    named = f"{{kind: pretrained, model: {student}}}"
    recipe = load_recipe(chat_project / "recipe.yaml", [f"teacher.model={teacher}", f"student={named}"])
    inputs = read_inputs(recipe, chat_project)
    with pytest.raises(DataError, match=rf"has the token '<think>' \(id {tokens}\).*student.adopt_tokens"):
        make_plan(with_shared_tokens(recipe, inputs.own), inputs, tmp_path)
    recipe = load_recipe(
        chat_project / "recipe.yaml",
        [f"teacher.model={teacher}", f"student={named}", "student.adopt_tokens=true"],
    )
    inputs = read_inputs(recipe, chat_project)
    plan = make_plan(with_shared_tokens(recipe, inputs.own), inputs, tmp_path)
    assert plan.shared_tokens is not None
    assert (plan.shared_tokens.count, plan.shared_tokens.adopted) == (tokens + 1, ["<think>"])
