"""Completions and plain texts as token ids and masks; no chat template has a part in them."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from potstill.data.chat_tokens import ChatTokens, marked_text
from potstill.data.dialogues import Completion, PlainText
from potstill.errors import DataError
from tests.unit.chat_shapes import (
    ATTACK,
    CHATML,
    SHAPES,
    SPECIAL,
    byte_level,
    conversation,
    counted,
    decoded,
    tokenised,
)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {name: byte_level(shape.template) for name, shape in SHAPES.items()}


def test_strings_of_special_tokens_stay_text_without_a_template(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatml"]
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL))
    for example in (PlainText("t", ATTACK), Completion("p", ATTACK, f"</s>{ATTACK}")):
        (one,) = tokenised(tokenizer, example)
        assert decoded(tokenizer, one.ids) == example.text + "</s>"
        assert [token for token in one.ids.tolist() if token in special] == [tokenizer.eos_token_id]


def with_start(tokenizer: Any) -> Any:
    """Puts <s> before a text and </s> behind it, as some tokenizers do."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def test_a_completion_is_learnt_with_its_end_after_the_prompt_that_the_tokenizer_begins() -> None:
    tokenizer = with_start(byte_level(None))
    example = Completion("p", "Hello", " there,\n")
    (one,) = tokenised(tokenizer, example)
    assert decoded(tokenizer, one.ids) == "<s>Hello there,\n</s>"
    assert marked_text(one, tokenizer) == [("<s>Hello", False), (" there,\n</s>", True)]
    start = int(np.flatnonzero(one.trained)[0])
    assert ChatTokens(tokenizer, 64).prompt_ids(example).tolist() == one.ids[:start].tolist()
    assert ChatTokens(tokenizer, 64).prompt_ids(Completion("p", "Hello", None)).tolist() == one.ids[:start].tolist()

    (cut,), counts = counted(tokenizer, example, len(one.ids) - 1)
    assert cut.ids.tolist() == one.ids[:-1].tolist() and counts.responses_cut == 1
    assert counted(tokenizer, example, start)[1].examples_dropped == 1


def test_a_completion_that_melts_into_its_prompt_leaves_the_prompt_as_inference_sees_it() -> None:
    tokenizer = byte_level(None)
    prompt, completion = tokenizer("He").input_ids, tokenizer("llo").input_ids
    assert tokenizer("Hello").input_ids != prompt + completion, "they do melt"
    (one,) = tokenised(tokenizer, Completion("p", "He", "llo"))
    assert one.ids.tolist() == [*prompt, *completion, tokenizer.eos_token_id]


def test_a_first_token_is_not_learnt_for_nothing_predicts_it() -> None:
    tokenizer = byte_level(None)
    (one,) = tokenised(tokenizer, Completion("p", "", "Hello."))
    assert marked_text(one, tokenizer) == [("Hello", False), (".</s>", True)]


@pytest.mark.parametrize("max_length", [2, 3, 7, 8, 1000])
@pytest.mark.parametrize("start", [False, True])
def test_every_token_of_a_long_text_is_learnt_once(max_length: int, start: bool) -> None:
    tokenizer = with_start(byte_level(None)) if start else byte_level(None)
    text = "Hello there, how are you today? 🙂 é\n\n漢字"
    whole = [*([0] if start else []), *tokenizer(text, add_special_tokens=False).input_ids, 1]
    windows = tokenised(tokenizer, PlainText("t", text), max_length)
    assert [token for one in windows for token in one.ids[one.trained].tolist()] == whole[1:]
    assert all(one.trained.tolist() == [False] + [True] * (len(one.ids) - 1) for one in windows)
    assert [len(one.ids) for one in windows[:-1]] == [max_length] * (len(windows) - 1)
    assert 2 <= len(windows[-1].ids) <= max_length
    for before, after in pairwise(windows):
        assert before.ids[-1] == after.ids[0]
    assert [one.id for one in windows] == (["t"] if max_length == 1000 else [f"t#{i}" for i in range(len(windows))])


def test_a_text_without_tokens_is_counted_as_dropped(tokenizers: dict[str, Any]) -> None:
    assert counted(tokenizers["chatml"], PlainText("t", ""), 8)[1].first_dropped == ("t",)


def test_windows_must_not_take_the_id_of_another_row(tokenizers: dict[str, Any]) -> None:
    examples = [PlainText("a", "Hello there, how are you today?"), PlainText("a#1", "Hello")]
    assert len(ChatTokens(tokenizers["chatml"], 1000).tokenise(examples)[0]) == 2
    with pytest.raises(DataError, match=r'Duplicate id "a#1"'):
        ChatTokens(tokenizers["chatml"], 4).tokenise(examples)


def test_the_end_is_learnt_where_it_is_also_the_padding() -> None:
    tokenizer = byte_level(CHATML, eos="<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    for example in (conversation("Hello", "Fine."), Completion("p", "Hello", "Fine."), PlainText("t", "Hello")):
        (one,) = tokenised(tokenizer, example)
        assert one.ids[-1] == tokenizer.eos_token_id and one.trained[-1]
