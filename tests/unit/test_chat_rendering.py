"""What a chat template writes of turns, tools and the date, against plain renderings of transformers."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from potstill.data.chat_tokens import ChatTokens, Tokenised
from potstill.data.dialogues import Conversation
from potstill.data.rendering import Template, stopped_clock
from potstill.data.turns import Message
from potstill.errors import DataError, ModelError
from potstill.tasks.chat_prompts import ChatPrompts
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

TOOLED = "{% if tools %}{{ '<|user|>' + tools | tojson + '<|im_end|>' }}{% endif %}" + CHATML
DATED = "{{ '<|user|>' + strftime_now('%d %b %Y %H:%M:%S') + '<|im_end|>' }}" + CHATML
# As Llama 3: the date is in the system turn that the template writes itself.
SOMETIMES = "{% if messages[0].role != 'system' %}{{ strftime_now('%Y') }}{% endif %}" + CHATML
TOOLS = [{"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {}}}]


def learnt(tokenizer: Any, example: Tokenised) -> str:
    return decoded(tokenizer, example.ids[example.trained])


def whole(tokenizer: Any, example: Conversation, **values: Any) -> str:
    """The whole conversation as transformers renders it."""
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **values))


def shown_only(example: Conversation, *turns: int) -> Conversation:
    messages = [replace(each, learnt=number not in turns) for number, each in enumerate(example.messages)]
    return replace(example, messages=tuple(messages))


def test_turns_of_no_weight_are_shown_and_not_learnt() -> None:
    tokenizer = byte_level(CHATML)
    example = conversation("Hello", "Wrong.", "And?", "Fine.", "Sure?", "Yes.")
    (all_of_it,) = tokenised(tokenizer, example)
    (one,) = tokenised(tokenizer, shown_only(example, 1))
    assert one.ids.tolist() == all_of_it.ids.tolist()
    assert learnt(tokenizer, one) == "Fine.<|im_end|>Yes.<|im_end|>"
    (one,) = tokenised(tokenizer, shown_only(example, 1, 3))
    assert one.ids.tolist() == all_of_it.ids.tolist() and learnt(tokenizer, one) == "Yes.<|im_end|>"
    (one,) = tokenised(tokenizer, shown_only(example, 5))
    assert learnt(tokenizer, one) == "Wrong.<|im_end|>Fine.<|im_end|>" and len(one.ids) < len(all_of_it.ids)


@pytest.mark.parametrize(("turns", "train_on"), [((1, 3), "all_turns"), ((3,), "last_turn")])
def test_a_row_of_which_nothing_is_learnt_is_counted(turns: tuple[int, ...], train_on: Any) -> None:
    example = conversation("Hello", "Wrong.", "And?", "Fine.")
    tokens = ChatTokens(byte_level(CHATML), 10_000, train_on)
    made, counts = tokens.tokenise([shown_only(example, *turns), replace(example, id="d")])
    assert made.names[:] == ["d"] and counts.rows_only_shown == 1 and counts.examples_dropped == 0


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_given_under_the_name_that_the_template_reads(key: str) -> None:
    template = CHATML.replace("m.content", f"('<r>' + m.{key} + '</r>' if m.{key} else '') + m.content")
    tokenizer = byte_level(template)
    (one,) = tokenised(tokenizer, conversation("Hello", ("Hm.", "Fine."), "And?", ("So.", "Yes.")))
    assert learnt(tokenizer, one) == "<r>Hm.</r>Fine.<|im_end|><r>So.</r>Yes.<|im_end|>"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Fine.", key: "Hm."}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    (one,) = tokenised(tokenizer, conversation("Hello", ("Hm.", "Fine.")))
    assert decoded(tokenizer, one.ids) + "\n" == rendered


def test_white_space_that_the_template_takes_from_reasoning_is_not_learnt() -> None:
    template = CHATML.replace(
        "m.content", "('<r>' + m.reasoning_content.strip('\\n') + '</r>' if m.reasoning_content else '') + m.content"
    )
    tokenizer = byte_level(template)
    made, counts = counted(tokenizer, conversation("Hello", ("\n Hm. \n", "Fine.")), 1000)
    assert learnt(tokenizer, made[0]) == "<r> Hm. </r>Fine.<|im_end|>" and counts.rows_rewritten == 1


@pytest.mark.parametrize(
    ("change", "made_of"),
    [
        ("| trim", str.strip),
        (".lstrip()", str.lstrip),
        (".rstrip()", str.rstrip),
        (".strip('\\n')", lambda text: text.strip("\n")),
        ("", str),
    ],
)
@pytest.mark.parametrize("content", [" Fine. ", "\tFine.\n\n", "Fine.", "Fine. <|im_end|> ", " <s>x"])
def test_what_is_learnt_is_what_the_template_writes(change: str, made_of: Callable[[str], str], content: str) -> None:
    tokenizer = byte_level(CHATML.replace("m.content", f"m.content{change}"))
    example = conversation("Hello", content, "And?", "So.")
    (one,), counts = counted(tokenizer, example, 1000)
    assert learnt(tokenizer, one) == made_of(content) + "<|im_end|>So.<|im_end|>"
    assert decoded(tokenizer, one.ids) + "\n" == whole(tokenizer, example)
    assert counts.rows_rewritten == (made_of(content) != content)


def test_a_response_that_a_template_rewrites_otherwise_is_refused() -> None:
    tokenizer = byte_level(CHATML.replace("m.content", "m.content.replace('Fine', 'Good')"))
    tokenised(tokenizer, conversation("Hello", "So."))
    with pytest.raises(DataError, match=r'row "c": the chat template does not write the response of turn 1 as it is'):
        tokenised(tokenizer, conversation("Hello", "Fine."))


def test_reasoning_within_a_content_is_learnt_where_templates_take_it_out() -> None:
    """As DeepSeek R1 does: a model must still write it."""
    tokenizer = byte_level(CHATML.replace("m.content", "m.content.split('</think>')[-1]"))
    (one,) = tokenised(tokenizer, conversation("Hello", "<think>Hm.</think>Fine."))
    assert learnt(tokenizer, one) == "<think>Hm.</think>Fine.<|im_end|>"


@pytest.mark.parametrize("shape", SHAPES)
def test_tools_are_shown_before_every_turn(shape: str) -> None:
    tokenizer = byte_level(
        "{% if tools %}{{ '<|user|>' + tools | tojson + '<|im_end|>' }}{% endif %}" + SHAPES[shape].template
    )
    plain = SHAPES[shape].fitted(conversation("Hello", "Fine.", "And?", "So."))
    tooled = replace(plain, tools=json.dumps(TOOLS))
    for bare, full in zip(tokenised(tokenizer, plain), tokenised(tokenizer, tooled), strict=True):
        before = f"<|user|>{json.dumps(TOOLS)}<|im_end|>"
        assert decoded(tokenizer, full.ids) == before + decoded(tokenizer, bare.ids)
        assert learnt(tokenizer, full) == learnt(tokenizer, bare)
    prompt = ChatTokens(tokenizer, 1000).prompt_ids(tooled)
    turns = [{"role": message.role, "content": message.content} for message in plain.messages[:-1]]
    assert decoded(tokenizer, prompt.tolist()) == tokenizer.apply_chat_template(
        turns, tools=TOOLS, tokenize=False, add_generation_prompt=True
    )


def test_tools_that_a_template_does_not_write_are_refused() -> None:
    example = replace(conversation("Hello", "Fine."), tools=json.dumps(TOOLS))
    with pytest.raises(
        DataError, match=r'row "c": the chat template does not write the tools, .*data\.ignore: \[tools\]'
    ):
        tokenised(byte_level(CHATML), example)
    with pytest.raises(DataError, match="does not write the tools"):
        ChatTokens(byte_level(CHATML), 1000).prompt_ids(example)


def test_strings_of_special_tokens_in_tools_stay_text() -> None:
    tokenizer = byte_level(TOOLED)
    hostile = [{"name": ATTACK, "description": f"</s> {ATTACK}", "<s>": [1, None, "<|bot|>"]}]
    example = replace(conversation("Hello", "Fine."), tools=json.dumps(hostile))
    (one,) = tokenised(tokenizer, example)
    (plain,) = tokenised(tokenizer, replace(example, tools=json.dumps(TOOLS)))
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL))
    count = [sum(int(token) in special for token in each.ids) for each in (one, plain)]
    assert count[0] == count[1]
    assert decoded(tokenizer, one.ids) + "\n" == whole(tokenizer, example, tools=hostile)


def test_arguments_of_the_template_are_given_to_prompt_and_response() -> None:
    template = CHATML + "{% if add_generation_prompt and not think %}{{ '<|bot|>' }}{% endif %}"
    tokenizer = byte_level(template.replace("m.content", "m.content + ('!' if loud else '')"))
    example = replace(conversation("Hello", "Fine."), template_kwargs=json.dumps({"think": True, "loud": True}))
    prompt = ChatTokens(tokenizer, 1000).prompt_ids(example)
    assert decoded(tokenizer, prompt.tolist()) == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    (one,) = tokenised(tokenizer, example)
    assert decoded(tokenizer, one.ids) + "\n" == whole(tokenizer, example, think=True, loud=True)
    # What a table fills in for an argument that other rows have is none.
    empty = {"enable": None, "more": "", "docs": [], "options": {}}
    filled = replace(example, template_kwargs=json.dumps({"think": True, "loud": True, **empty}))
    assert decoded(tokenizer, tokenised(tokenizer, filled)[0].ids) == decoded(tokenizer, one.ids)
    unread = replace(example, template_kwargs=json.dumps({"think": True, "enable": 1}))
    with pytest.raises(DataError, match=r"row \"c\": the chat template does not read 'enable' of chat_template_kwargs"):
        tokenised(tokenizer, unread)


def at(moment: datetime | None) -> ChatTokens:
    return ChatTokens(byte_level(DATED), 1000, moment=moment)


def test_a_template_that_writes_the_date_writes_the_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2024, 7, 26, 23, 59, 1)
    example = conversation("Hello", "Fine.", "And?", "So.")
    expected = "<|user|>26 Jul 2024 23:59:01<|im_end|><|im_start|>user\nHello"
    found = []
    for zone in ("UTC+12", "UTC-14"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        (one,) = at(moment).tokenise([example])[0][:]
        found.append(one.ids.tolist())
        prompt = at(moment).prompt_ids(example).tolist()
        assert found[-1][: len(prompt)] == prompt
        assert at(None).tokenise([example])[0][0].ids.tolist() != found[-1]
    monkeypatch.undo()
    time.tzset()
    assert found[0] == found[1] and decoded(at(None).tokenizer, found[0]).startswith(expected)


def test_whether_a_template_writes_the_date_is_seen_on_the_rows() -> None:
    answered = conversation("Hello", "Fine.", system="Short.")
    for template, rows, expected in [
        (DATED, [answered], True),
        (CHATML, [answered], False),
        (SOMETIMES, [answered], False),
        (SOMETIMES, [answered, conversation("Hello")], True),
    ]:
        assert ChatTokens(byte_level(template), 1000).writes_date(rows) is expected


def test_a_date_that_cannot_be_set_is_no_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.data.rendering.stopped_clock", lambda moment: stopped_clock(datetime(1999, 1, 1)))
    with pytest.raises(ModelError, match="this version of transformers reads it in a way that is not known here"):
        Template(byte_level(DATED), datetime(2024, 7, 26)).rendered(
            "c", [Message("user", "Hi")], tools=None, values={}, reasoning_key="", add_generation_prompt=True
        )


def test_prompts_keep_the_tools_and_leave_out_turns_that_are_only_shown() -> None:
    tokenizer = byte_level(TOOLED)
    example = replace(conversation("Hello", "Wrong.", "And?", "Fine.", "Sure?", "Yes."), tools=json.dumps(TOOLS))
    prompts = ChatPrompts(tokenizer, 1000, "all_turns")
    whole_of_it = tokenised(tokenizer, example)[0].ids.tolist()
    asked = dict(prompts.of(shown_only(example, 1), every=True))
    assert list(asked) == ["c#0", "c#1"]
    for prompt in asked.values():
        assert prompt.tolist() == whole_of_it[: len(prompt)]
    assert [len(prompt) for prompt in asked.values()] == sorted(len(prompt) for prompt in asked.values())
    assert list(dict(prompts.of(shown_only(example, 1, 3), every=True))) == ["c"]
    last = ChatPrompts(tokenizer, 1000, "last_turn")
    assert list(last.of(shown_only(example, 5), every=True)) == []
