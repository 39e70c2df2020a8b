"""Of calls of tools exactly the assistant's own tokens are learnt, by chat templates of each form that models have."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from potstill.data.chat_tokens import ChatTokens, Tokenised
from potstill.data.dialogues import Conversation
from potstill.data.tool_calls import ToolCall
from potstill.data.turns import Message
from potstill.errors import DataError
from potstill.tasks.chat_prompts import ChatPrompts
from tests.unit.chat_shapes import ATTACK, CHATML, byte_level, decoded, tokenised

MARKS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|call|>", "<|calls|>", "<|/calls|>"]
TOOLS = [{"type": "function", "function": {"name": "find_order", "description": "Finds an order."}}]

_TOOLS = "{% if tools %}{{ '<|im_start|>system\nTools: ' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
_ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
# As Hermes and Qwen 2.5: a tagged object for each call, and a result in a turn of the user.
TAGGED = f"""{_TOOLS}{{% for m in messages %}}{{% if m.role == 'tool' %}}\
{{{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}}}\
{{% else %}}{{{{ '<|im_start|>' + m.role }}}}{{% if m.content %}}{{{{ '\n' + m.content }}}}{{% endif %}}\
{{% for c in m.tool_calls or [] %}}{{% set f = c.function %}}\
{{{{ '\n<tool_call>\n{{"name": "' + f.name + '", "arguments": ' + f.arguments | tojson + '}}\n</tool_call>' }}}}\
{{% endfor %}}{{{{ '<|im_end|>\n' }}}}{{% endif %}}{{% endfor %}}{_ASKS.replace(chr(10), "")}"""
# As Qwen3: reasoning behind the last question alone, an empty block in the last turn without any.
THINKING = f"""{_TOOLS}{{% set ns = namespace(last=0) %}}{{% for m in messages %}}{{% if m.role == 'user' %}}\
{{% set ns.last = loop.index0 %}}{{% endif %}}{{% endfor %}}{{% for m in messages %}}\
{{{{ '<|im_start|>' + m.role + '\n' }}}}\
{{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or m.reasoning_content) %}}\
{{{{ '<think>\n' + m.reasoning_content | default('') + '\n</think>\n\n' }}}}{{% endif %}}{{{{ m.content }}}}\
{{% for c in m.tool_calls or [] %}}{{% set f = c.function %}}\
{{% if m.content or not loop.first %}}{{{{ '\n' }}}}{{% endif %}}\
{{{{ '<tool_call>\n{{"name": "' + f.name + '", "arguments": ' }}}}\
{{{{ f.arguments if f.arguments is string else f.arguments | tojson }}}}{{{{ '}}\n</tool_call>' }}}}\
{{% endfor %}}{{{{ '<|im_end|>\n' }}}}{{% endfor %}}{_ASKS}"""
# As Llama 3.1: one call, which is all of its turn, and results as JSON.
ALONE = f"""{_TOOLS}{{% for m in messages %}}{{{{ '<|im_start|>' + m.role + '\n' }}}}{{% if m.tool_calls %}}\
{{% if m.tool_calls | length != 1 %}}{{{{ raise_exception('one call at a time') }}}}{{% endif %}}\
{{% set f = m.tool_calls[0].function %}}\
{{{{ '{{"name": "' + f.name + '", "parameters": ' + f.arguments | tojson + '}}' }}}}\
{{% elif m.role == 'tool' %}}{{{{ m.content | tojson }}}}{{% else %}}{{{{ m.content | trim }}}}{{% endif %}}\
{{{{ '<|im_end|>' }}}}{{% endfor %}}{_ASKS}"""
# As Mistral: a list of calls with their ids, and results with these.
LISTED = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}\
{{ (tools | tojson if tools else '') + '[INST] ' + m.content + ' [/INST]' }}\
{% elif m.role == 'tool' %}{{ '<|user|>{"id": "' + m.tool_call_id + '", "said": ' + m.content + '}' }}\
{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for c in m.tool_calls %}\
{% if c.id | length != 9 %}{{ raise_exception('ids have a length of 9') }}{% endif %}\
{{ '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson + ', "id": "' + c.id + '"}' }}\
{{ '' if loop.last else ', ' }}{% endfor %}{{ ']' + eos_token }}\
{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"""
# As DeepSeek: arguments as text, and a turn with calls is one without a content.
FENCED = """\
{{ bos_token }}{{ tools | tojson if tools else '' }}{% for m in messages %}{% if m.role == 'user' %}\
{{ '<|user|>' + m.content }}{% elif m.role == 'tool' %}{{ '<|user|>out ' + m.content }}\
{% elif m.content is not defined %}{{ '<|bot|><|calls|>' }}{% for c in m.tool_calls %}\
{{ 'function ' + c.function.name + '\n```json\n' + c.function.arguments + '\n```' }}{% endfor %}{{ '<|/calls|></s>' }}\
{% else %}{{ '<|bot|>' + m.content + '</s>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}"""
# As Qwen3-Coder: a tag for each argument, and text without quotes.
PARAMETERS = TAGGED.replace(
    """{{ '\n<tool_call>\n{"name": "' + f.name + '", "arguments": ' + f.arguments | tojson + '}\n</tool_call>' }}""",
    """{{ '\n<tool_call>\n<function=' + f.name + '>' }}{% for k, v in f.arguments | items %}\
{{ '\n<parameter=' + k + '>\n' + (v if v is string else v | tojson) + '\n</parameter>' }}{% endfor %}\
{{ '\n</function>\n</tool_call>' }}""",
)
# As gpt-oss: a call has an end of its own, and a header that the model writes.
CHANNELS = """\
{{ tools | tojson if tools else '' }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|bot|>' }}\
{% if m.tool_calls %}{% if m.content %}{{ 'comment ' + m.content + '<|im_end|><|bot|>' }}{% endif %}\
{% set f = m.tool_calls[0].function %}{{ ' to=' + f.name + ' ' + f.arguments | tojson + '<|call|>' }}\
{% else %}{{ 'final ' + m.content + '<|im_end|>' }}{% endif %}\
{% else %}{{ '<|user|>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}"""


def as_json(call: ToolCall) -> str:
    return json.dumps(json.loads(call.arguments), ensure_ascii=False)


def tagged(message: Message) -> str:
    calls = "".join(
        f'\n<tool_call>\n{{"name": "{call.name}", "arguments": {as_json(call)}}}\n</tool_call>'
        for call in message.calls
    )
    return (f"\n{message.content}" if message.content else "") + calls + "<|im_end|>"


def thinking(message: Message) -> str:
    block = "" if message.reasoning is None else f"<think>\n{message.reasoning}\n</think>\n\n"
    said = tagged(message)
    return block + (said if said.startswith("<|") else said[1:])


def alone(message: Message) -> str:
    called = "".join(f'{{"name": "{call.name}", "parameters": {as_json(call)}}}' for call in message.calls)
    return (called or message.content) + "<|im_end|>"


def listed(message: Message) -> str:
    calls = ", ".join(
        f'{{"name": "{call.name}", "arguments": {as_json(call)}, "id": "{call.id}"}}' for call in message.calls
    )
    return (f"[TOOL_CALLS][{calls}]" if calls else f" {message.content}") + "</s>"


def fenced(message: Message) -> str:
    calls = "".join(f"function {call.name}\n```json\n{call.arguments}\n```" for call in message.calls)
    return (f"<|calls|>{calls}<|/calls|>" if calls else message.content) + "</s>"


def parameters(message: Message) -> str:
    def written(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    calls = "".join(
        f"\n<tool_call>\n<function={call.name}>"
        + "".join(
            f"\n<parameter={name}>\n{written(value)}\n</parameter>"
            for name, value in json.loads(call.arguments).items()
        )
        + "\n</function>\n</tool_call>"
        for call in message.calls
    )
    return (f"\n{message.content}" if message.content else "") + calls + "<|im_end|>"


def channels(message: Message) -> str:
    if not message.calls:
        return f"final {message.content}<|im_end|>"
    comment = f"comment {message.content}<|im_end|><|bot|>" if message.content else ""
    return f"{comment} to={message.calls[0].name} {as_json(message.calls[0])}<|call|>"


@dataclass(frozen=True)
class Shape:
    template: str
    response: Callable[[Message], str]
    """What the assistant says, with nothing of the code under test."""
    one_call: bool = False
    content_beside: bool = True
    reasons: bool = False


SHAPES = {
    "tagged": Shape(TAGGED, tagged),
    "thinking": Shape(THINKING, thinking, reasons=True),
    "alone": Shape(ALONE, alone, one_call=True, content_beside=False),
    "listed": Shape(LISTED, listed, content_beside=False),
    "fenced": Shape(FENCED, fenced, content_beside=False),
    "parameters": Shape(PARAMETERS, parameters),
    "channels": Shape(CHANNELS, channels, one_call=True),
}


def tokenizer_of(template: str) -> PreTrainedTokenizerBase:
    made = byte_level(template)
    made.add_tokens([AddedToken(mark, special=mark.startswith(("[", "<|")), normalized=False) for mark in MARKS])
    return made


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {name: tokenizer_of(shape.template) for name, shape in SHAPES.items()}


def call(arguments: str, name: str = "find_order", number: int = 1) -> ToolCall:
    return ToolCall(name, arguments, f"call{number:05}")


def dialogue(
    *calls: ToolCall, content: str = "", reasoning: str | None = None, question: str = "Where?"
) -> Conversation:
    results = [Message("tool", '{"state": "sent"}', call_id=each.id, name=each.name) for each in calls]
    return Conversation(
        "c",
        (
            Message("user", question),
            Message("assistant", content, reasoning, calls=calls),
            *results,
            Message("assistant", "It is sent."),
            Message("user", "And the other?"),
            Message("assistant", "Lost."),
        ),
        tools=json.dumps(TOOLS),
    )


ONE = call('{"number": "12"}')
DIALOGUES = {
    "one call": dialogue(ONE),
    "without arguments": dialogue(call("{}")),
    "values of all kinds": dialogue(call('{"a": 1.5, "b": true, "c": null, "d": [1, {"é": "x\\n\\"y\\""}], "e": ""}')),
    "as spaced text": dialogue(call('{ "number":"12" }')),
    "strings of special tokens": dialogue(call(json.dumps({"number": ATTACK})), question=f"Where? {ATTACK}"),
    "two calls": dialogue(ONE, call('{"number": "13"}', number=2)),
    "a content beside": dialogue(ONE, content="I look for find_order, number 12."),
    "reasoning": dialogue(ONE, reasoning="An order is to be found."),
    "a tool called think": dialogue(call('{"thought": "Hm."}', "think")),
}


def fits(shape: Shape, example: Conversation) -> bool:
    turns = [message for message in example.messages if message.calls]
    return not any(
        (shape.one_call and len(turn.calls) > 1)
        or (turn.content and not shape.content_beside)
        or (turn.reasoning and not shape.reasons)
        for turn in turns
    )


def spans(example: Tokenised) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.trained, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@pytest.mark.parametrize(
    ("shape", "name"),
    [(shape, name) for shape in SHAPES for name, example in DIALOGUES.items() if fits(SHAPES[shape], example)],
)
def test_exactly_what_the_assistant_says_and_calls_is_learnt(tokenizers: dict[str, Any], shape: str, name: str) -> None:
    tokenizer, example = tokenizers[shape], DIALOGUES[name]
    made = tokenised(tokenizer, example)
    answers = [number for number, message in enumerate(example.messages) if message.role == "assistant"]
    found = [(one, *span) for one in made for span in spans(one)]
    assert [decoded(tokenizer, one.ids[start:end]) for one, start, end in found] == [
        SHAPES[shape].response(example.messages[number]) for number in answers
    ]
    for number, (one, start, _) in zip(answers, found, strict=True):
        asked = replace(example, messages=example.messages[:number])
        # On-policy generation is shown the same, tools, calls and results included.
        assert one.ids[:start].tolist() == ChatTokens(tokenizer, 10_000).prompt_ids(asked).tolist()
        shown = decoded(tokenizer, one.ids[:start])
        assert "Finds an order." in shown
        assert number < 2 or shown.count("sent") >= len(example.messages[1].calls)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_prompts_that_a_teacher_answers_show_tools_calls_and_results(
    tokenizers: dict[str, Any], shape: str
) -> None:
    prompts = ChatPrompts(tokenizers[shape], 10_000, "all_turns")
    first, second, third = (ids for _, ids in prompts.of(DIALOGUES["one call"], every=True))
    shown = [decoded(tokenizers[shape], ids.tolist()) for ids in (first, second, third)]
    assert all("Finds an order." in each for each in shown)
    assert "sent" not in shown[0] and all('"12"' in each or "\n12\n" in each for each in shown[1:])
    assert all("sent" in each for each in shown[1:])
    assert prompts.shown(replace(DIALOGUES["one call"], messages=DIALOGUES["one call"].messages[:2])) == (
        "Where?",
        'find_order({"number": "12"})',
    )


def test_strings_of_special_tokens_in_a_call_stay_text(tokenizers: dict[str, Any]) -> None:
    for name, tokenizer in tokenizers.items():
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        counts = [
            sum(int(token) in special for one in tokenised(tokenizer, example) for token in one.ids)
            for example in (DIALOGUES["one call"], DIALOGUES["strings of special tokens"])
        ]
        assert counts[0] == counts[1], name


DROPS = TAGGED.replace("m.tool_calls or []", "[]")
WITHOUT_ARGUMENTS = TAGGED.replace("f.arguments | tojson", "'{}'")
AS_PYTHON = TAGGED.replace("f.arguments | tojson", "f.arguments | string if f.arguments is mapping else 'x'")
EARLIER_DROPPED = TAGGED.replace("m.tool_calls or []", "(m.tool_calls or [] if loop.last else [])")
ENDLESS = TAGGED.replace(
    "{% endfor %}{{ '<|im_end|>\n' }}", "{% endfor %}{{ '\n' if m.tool_calls else '<|im_end|>\n' }}"
)
WITHOUT_RESULTS = TAGGED.replace("<tool_response>\n' + m.content", "<tool_response>\n'")


@pytest.mark.parametrize(
    ("template", "example", "problem"),
    [
        (CHATML, replace(DIALOGUES["one call"], tools=None), "does not write the call of find_order in turn 1"),
        (DROPS, DIALOGUES["one call"], "does not write the call of find_order in turn 1"),
        (DROPS, DIALOGUES["a content beside"], "does not write the call of find_order in turn 1"),
        (WITHOUT_ARGUMENTS, DIALOGUES["one call"], 'does not write "number" in the call of find_order in turn 1'),
        (AS_PYTHON, DIALOGUES["one call"], "does not write the arguments of find_order as JSON in turn 1"),
        (EARLIER_DROPPED, DIALOGUES["one call"], "does not write the call of find_order in turn 1"),
        (FENCED, DIALOGUES["a content beside"], "does not write the call of find_order in turn 1"),
        (ALONE, DIALOGUES["a content beside"], "does not write the content in turn 1"),
        (ALONE, DIALOGUES["two calls"], "refuses the conversation: one call at a time"),
        (
            ENDLESS,
            DIALOGUES["one call"],
            "does not write turn 1, which calls tools, after its prompt and with a special",
        ),
        (WITHOUT_RESULTS, DIALOGUES["one call"], "does not write turn 2 (tool) as it is"),
        (LISTED, replace(DIALOGUES["one call"], messages=dialogue(replace(ONE, id="c1")).messages), "length of 9"),
    ],
)
def test_a_template_that_loses_a_call_or_a_result_is_refused_by_row(
    template: str, example: Conversation, problem: str
) -> None:
    tokenizer = tokenizer_of(template)
    with pytest.raises(DataError) as caught:
        tokenised(tokenizer, example)
    assert 'row "c": the chat template' in str(caught.value) and problem in str(caught.value)


@pytest.mark.parametrize("template", [DROPS, WITHOUT_RESULTS, EARLIER_DROPPED])
def test_a_prompt_that_does_not_show_a_call_or_a_result_is_refused(template: str) -> None:
    example = replace(DIALOGUES["one call"], messages=DIALOGUES["one call"].messages[:3])
    tokens = ChatTokens(tokenizer_of(template), 10_000)
    assert tokens.refusal(example) is not None
    with pytest.raises(DataError, match="does not write"):
        tokens.prompt_ids(example)


def test_the_same_turns_with_other_calls_are_another_conversation() -> None:
    one, other = (dialogue(call(f'{{"number": "{number}"}}')) for number in (12, 13))
    assert one.text != other.text
    for each in (one, other, DIALOGUES["two calls"], DIALOGUES["a content beside"]):
        assert Conversation.of(json.loads(json.dumps(each.content))) == each
