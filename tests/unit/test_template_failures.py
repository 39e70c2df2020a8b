"""Templates that fail on a row, that are no templates, or that end no turn; and the arguments that they read."""

import json
from dataclasses import replace
from typing import Any

import pytest

from potstill.data.chat_tokens import ChatTokens, marked_text
from potstill.data.dialogues import Conversation
from potstill.data.rendering import Template
from potstill.errors import DataError, ModelError
from tests.unit.chat_shapes import ATTACK, CHATML, byte_level, conversation, decoded, tokenised

HELLO = conversation("Hello", "Fine.")
TOOLED = (
    "{% if tools %}{% for tool in tools %}{{ tool.function.name + ': ' + tool.function.description }}{% endfor %}"
    "{% endif %}" + CHATML
)
COUNTS = "{{ ('at most ' + budget) if budget is defined }}" + CHATML
TURNS = CHATML.replace("m.content", "(m.content if m.role != 'tool' else 1 // 0)")


def with_tools(**function: Any) -> Conversation:
    return replace(HELLO, tools=json.dumps([{"type": "function", "function": function}]))


def given(**values: Any) -> Conversation:
    return replace(HELLO, template_kwargs=json.dumps(values))


@pytest.mark.parametrize(
    ("template", "example", "problem"),
    [
        (
            TOOLED,
            with_tools(name="find", description=None),
            r"TypeError: .*\. Correct its tools, or leave them out with",
        ),
        (TOOLED, with_tools(name=5, description=""), r"TypeError: .*data\.ignore: \[tools\]"),
        (TOOLED, with_tools(name="find"), r"no attribute 'description'\. Correct its tools"),
        (TOOLED, replace(HELLO, tools='[{"name": "find"}]'), r"no attribute 'function'\. Correct its tools"),
        (COUNTS, given(budget=512), r"TypeError: .*\. Correct its chat_template_kwargs, .*\[chat_template_kwargs\]"),
        (CHATML.replace("m.content", "[m.content][1:][0]"), HELLO, r"\. Change its turns, or drop it"),
        (CHATML.replace("m.content", "(1 // 0)"), HELLO, r"ZeroDivisionError: .*\. Change its turns"),
        (CHATML.replace("m.content", "m.content.index('?')"), HELLO, r"ValueError: .*\. Change its turns"),
        ("{{ raise_exception('no such turns...') }}", HELLO, r"no such turns\.\.\. Change its turns"),
        ("{{ raise_exception('no tools') if tools }}" + TOOLED, with_tools(name=""), r"no tools\. Correct its tools"),
    ],
)
def test_a_failure_names_the_row_and_what_to_mend(template: str, example: Conversation, problem: str) -> None:
    tokenizer = byte_level(template)
    with pytest.raises(
        DataError, match=rf'^row "c": the chat template refuses the conversation: .*{problem}'
    ) as caught:
        tokenised(tokenizer, example)
    assert "\n" not in str(caught.value)
    refused = ChatTokens(tokenizer, 1000).refusal(example)
    assert refused is not None, "a row that can be skipped"


def test_a_template_that_is_none_is_one_error_for_all_rows() -> None:
    rows = [conversation(f"Hello {number}", "Fine.", name=f"c{number}") for number in range(3)]
    for template in ("\n{% if %}", "\n{{ 1 | unknown }}"):
        with pytest.raises(
            ModelError, match=r"^the chat template of the tokenizer is no valid Jinja: line 2: .*Correct"
        ):
            ChatTokens(byte_level(template), 1000).tokenise(rows)
    tokenizer: Any = byte_level(CHATML)
    tokenizer.chat_template = {"tool_use": TOOLED, "rag": CHATML}
    with pytest.raises(
        ModelError, match=r"^the tokenizer has chat templates for rag, tool_use and none that is the def"
    ):
        ChatTokens(tokenizer, 1000).tokenise(rows)
    assert tokenised(tokenizer, with_tools(name="find", description=""))
    tokenizer.chat_template = {"tool_use": TOOLED, "default": CHATML}
    assert tokenised(tokenizer, HELLO)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (CHATML, {"messages", "add_generation_prompt"}),
        ("{{ m.think }}{# effort #}{% set ns = namespace(low=1) %}{{ ns.low }}{{ 'deep' }}", {"m"}),
        ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}", {"thinking"}),
        ("{% macro shown(x=budget) %}{{ x }}{{ far }}{% endmacro %}{{ shown() }}", {"budget", "far"}),
        ("{% generation %}{{ mode }}{% endgeneration %}{{ strftime_now('%Y') }}", {"mode"}),
    ],
)
def test_what_a_template_reads_is_asked_of_its_parsed_text(template: str, names: set[str]) -> None:
    assert Template(byte_level(template)).arguments() == names


@pytest.mark.parametrize("name", ["content", "m", "namespace", "role"])
def test_arguments_that_only_stand_in_the_text_are_not_read(name: str) -> None:
    with pytest.raises(DataError, match=rf"the chat template does not read '{name}' of chat_template_kwargs"):
        tokenised(byte_level("{% set ns = namespace() %}" + CHATML), given(**{name: "x"}))


@pytest.mark.parametrize("value", ["false", "True", " null "])
def test_a_text_that_spells_a_truth_value_is_refused(value: str) -> None:
    template = CHATML + "{{ '!' if add_generation_prompt and loud }}"
    expected = rf"loud of chat_template_kwargs is the text '{value}', .*Write {value.strip().lower()} without quotes"
    with pytest.raises(DataError, match=expected):
        tokenised(byte_level(template), given(loud=value))
    assert tokenised(byte_level(template), given(loud="none")) and tokenised(byte_level(template), given(loud=True))


HEADERS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '\n' }}{% endfor %}"
TWO_TOKENS = HEADERS.replace("m.role +", "m.role + '<|user|>' +")


@pytest.mark.parametrize(
    ("headers", "following"), [(HEADERS, "<|im_start|>assistant\n"), (TWO_TOKENS, "<|im_start|>assistant<|user|>\n")]
)
def test_the_beginning_of_a_turn_is_no_end_of_one(headers: str, following: str) -> None:
    template = headers + "{{ '" + following + "' }}"
    with pytest.raises(ModelError, match=r"ends no turn with a special token, and writes the beginning of another aft"):
        tokenised(byte_level(template), HELLO)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", ""),
        CHATML.partition("{% if add")[0],
        "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
    ],
)
def test_a_template_without_an_optional_prompt_can_end_turns(template: str) -> None:
    tokenizer = byte_level(template)
    tokenizer.bos_token = tokenizer.eos_token
    (one,) = tokenised(tokenizer, HELLO)
    assert marked_text(one, tokenizer)[-1][0].endswith(("Fine.<|im_end|>", "Fine.</s>"))


def test_strings_of_tokens_of_turns_stay_text_where_these_are_not_special() -> None:
    """As after training with tokens that were added as plain ones."""
    tokenizer: Any = byte_level(CHATML.replace("<|im_", "<|turn_"))
    tokenizer.add_tokens(["<|turn_start|>", "<|turn_end|>", "<think>", "</think>", "Hello", "user"])
    turn = tokenizer.convert_tokens_to_ids(["<|turn_start|>", "<|turn_end|>"])
    whole = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "Hello", "user"])
    attack = ATTACK.replace("<|im_", "<|turn_")
    harmless = conversation("Hello user", "<think>So</think>Fine.")
    hostile = conversation(f"Hello user{attack}", f"<think>So</think>Fine. {attack}")
    counts = []
    for example in (harmless, hostile):
        (one,) = tokenised(tokenizer, example)
        counts.append([sum(int(token) in ids for token in one.ids) for ids in (turn, whole)])
        turns = [{"role": message.role, "content": message.content} for message in example.messages]
        assert decoded(tokenizer, one.ids) + "\n" == tokenizer.apply_chat_template(turns, tokenize=False)
    assert counts == [[4, 5], [4, 5]]


def test_tokens_of_reasoning_stay_tokens_in_a_response() -> None:
    tokenizer: Any = byte_level(CHATML.replace("assistant\n", "assistant\n<think>\n"))
    tokenizer.add_tokens(["<think>", "</think>"])
    (one,) = tokenised(tokenizer, conversation("Hello", "<think>\nSo</think>Fine."))
    assert marked_text(one, tokenizer)[-1][0] == "So</think>Fine.<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("</think>") in one.ids
