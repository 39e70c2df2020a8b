"""Reasoning is learnt once, and within a block that is open and gets closed."""

import json
from dataclasses import replace

import pytest

from potstill.data.chat_tokens import ChatTokens, Tokenised, marked_text
from potstill.data.dialogues import Conversation
from potstill.data.reasoning_blocks import without_repeated
from potstill.errors import DataError
from tests.unit.chat_shapes import CHATML, PREFILLS, byte_level, conversation, tokenised

OPENS = CHATML.replace("assistant\n", "assistant\n<think>\n")
# As Qwen3: a block that is closed where thinking is switched off.
SWITCHED = CHATML.replace(
    "{{ '<|im_start|>assistant\n' }}",
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
# As Qwen3.5: the prompt opens the block, and the template closes it where there is no reasoning.
CLOSES = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}\
{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}\
{{ m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""
# As Nemotron 3: with an empty block that is not the one of the prompt.
CLOSES_AT_ONCE = CLOSES.replace("<think>\n' +", "<think>' +").replace("'\n</think>\n\n'", "'</think>'")


def last(template: str, example: Conversation) -> str:
    """What is learnt of the last response."""
    tokenizer = byte_level(template)
    made: list[Tokenised] = tokenised(tokenizer, example)
    return marked_text(made[-1], tokenizer)[-1][0]


def off(example: Conversation) -> Conversation:
    return replace(example, template_kwargs=json.dumps({"enable_thinking": False}))


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("Fine.", "Fine."),
        ("<think>\nHm.\n</think>\n\nFine.", "Fine."),
        (" \n<think> Hm. </think>Fine. ", "Fine. "),
        ("Write <think>Hm.</think>", "Write <think>Hm.</think>"),
        ("<think>Other.</think>Fine.", None),
        ("<think></think>Fine.", None),
        ("<think>Hm.", None),
    ],
)
def test_a_block_that_repeats_the_reasoning_beside_it_is_left_out(content: str, answer: str | None) -> None:
    assert without_repeated(content, " Hm.\n") == answer


@pytest.mark.parametrize(
    "content",
    ["<think>\nHm.\n</think>\n\nFine.", "<think>Hm.\n</think>\n\nFine.", "\n<think>\nHm.\n</think>\n\nFine."],
)
@pytest.mark.parametrize("template", [OPENS, PREFILLS, CLOSES])
def test_a_block_that_the_prompt_opens_is_not_opened_again(template: str, content: str) -> None:
    assert last(template, conversation("Hello", content)).startswith("Hm.\n</think>\n\nFine.<")
    assert last(template, conversation("Hello", ("Hm.", "Fine."))).startswith("Hm.\n</think>\n\nFine.<")


@pytest.mark.parametrize("template", [OPENS, PREFILLS])
def test_an_answer_without_reasoning_is_not_learnt_within_a_block(template: str) -> None:
    refused = r'row "c": the chat template opens the reasoning \(<think>\) in the prompt of turn 1, which has none, '
    with pytest.raises(DataError, match=f"{refused}.*Give the turn reasoning_content, or weight: 0 .* alone, or use a"):
        tokenised(byte_level(template), conversation("Hello", "Fine.", "And?", ("Hm.", "So.")))
    shown = conversation("Hello", "Fine.", "And?", ("Hm.", "So."))
    first, answer, *others = shown.messages
    weightless = replace(shown, messages=(first, replace(answer, learnt=False), *others))
    assert last(template, weightless).startswith("Hm.\n</think>\n\nSo.<")
    assert len(ChatTokens(byte_level(template), 1000).prompt_ids(conversation("Hello"))) > 0
    several = [conversation(f"Hello {number}", "Fine.", name=f"c{number}") for number in range(3)]
    with pytest.raises(DataError, match=r"^3 rows cannot be used"):
        ChatTokens(byte_level(template), 1000).tokenise(several)


def test_the_switch_that_the_template_reads_is_named() -> None:
    template = OPENS.replace("assistant\n<think>\n", "assistant\n") + (
        "{% if add_generation_prompt %}{{ '</think>' if enable_thinking is false else '<think>\n' }}{% endif %}"
    )
    with pytest.raises(DataError, match=r"alone, set enable_thinking: false in chat_template_kwargs, or use"):
        tokenised(byte_level(template), conversation("Hello", "Fine."))
    assert last(template, off(conversation("Hello", "Fine."))) == "Fine.<|im_end|>"


def test_what_the_template_writes_to_close_an_empty_block_is_learnt() -> None:
    assert last(CLOSES, conversation("Hello", "Fine.")) == "\n</think>\n\nFine.<|im_end|>"
    assert last(CLOSES_AT_ONCE, conversation("Hello", "Fine.")) == "</think>Fine.<|im_end|>"


@pytest.mark.parametrize("content", [("Hm.", "Fine."), "<think>Hm.</think>Fine."])
def test_reasoning_after_a_block_that_the_prompt_closes_is_refused(content: str | tuple[str, str]) -> None:
    example = conversation("Hello", content)
    assert "Hm." in last(SWITCHED, example)
    with pytest.raises(
        DataError,
        match=r"ends the reasoning \(</think>\) in the prompt of turn 1, .* set enable_thinking: true in chat_template",
    ):
        tokenised(byte_level(SWITCHED), off(example))


def test_an_empty_block_after_one_that_the_prompt_closes_is_left_out() -> None:
    assert last(SWITCHED, off(conversation("Hello", "<think>\n\n</think>\n\nFine."))) == "Fine.<|im_end|>"
