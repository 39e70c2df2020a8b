"""Every turn of a row is in the prompt that a chat template writes of it, or the row is refused."""

import json
from typing import Any

import pytest

from potstill.data.chat_tokens import ChatTokens
from potstill.data.dialogues import Conversation
from potstill.data.shown_turns import problem_of_shown
from potstill.data.turns import Message
from potstill.errors import DataError
from tests.unit.chat_shapes import CHATML, byte_level, conversation, decoded, tokenised

# https://github.com/huggingface/transformers/issues/30545
PHI = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}\
{{ '<|user|>' + m.content + '<|im_end|>\n<|bot|>\n' }}\
{% elif m.role == 'assistant' %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"""
FIRST_SYSTEM = """\
{% if messages[0].role == 'system' %}{{ '<s>' + messages[0].content }}{% endif %}\
{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
# As Gemma: the turn of the system goes into the user's.
FOLDS = """\
{% if messages[0].role == 'system' %}{% set first = messages[0].content | trim + '\n\n' %}{% set rest = messages[1:] %}\
{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}\
{{ '<|user|>' if m.role == 'user' else '<|bot|>' }}{{ first if loop.first }}{{ m.content | trim + '<|im_end|>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}"""
# As Mistral: it goes before the last user's.
BEFORE_LAST = """\
{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}\
{{ '[INST]' + (messages[0].content + '\n\n' if loop.last and messages[0].role == 'system' else '') + m.content }}\
{{ '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"""
# As Llama 3.1: what tools answer is written as JSON.
JSON_TOOLS = CHATML.replace("m.content", "(m.content | tojson if m.role == 'tool' else m.content | trim)")
REVERSED = CHATML.replace("in messages", "in messages | reverse")
LAST_ONLY = CHATML.replace("in messages", "in messages[-1:]")
WITHOUT_REASONING = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
# As SmolLM3, which reads it.
WITHOUT_SWITCH = CHATML.replace("m.content", "m.content.replace('/no_think', '')")
PARTS = CHATML.replace("m.content", "(m.content if m.role == 'assistant' else m.content | join('', attribute='text'))")


def with_tool() -> Conversation:
    tool = Message("tool", ' {"temp": 21,\n "where": "Köln"} ')
    return Conversation(
        "c", (Message("user", "Hello"), Message("assistant", "find()"), tool, Message("assistant", "x"))
    )


ONE, TWO = conversation("Is it?", "Fine."), conversation("Is it?", "Fine.", "And NASA?", "So.")
TOLD = conversation("Is it?", "Fine.", "And NASA?", "So.", system=" Be\nkind. ")
LATE = Conversation("c", (*ONE.messages, Message("system", "In French."), Message("user", "Hm?"), ONE.messages[1]))


@pytest.mark.parametrize(
    ("template", "example"),
    [
        (CHATML, TOLD),
        (CHATML, LATE),
        (CHATML, with_tool()),
        (FOLDS, TOLD),
        (JSON_TOOLS, with_tool()),
        (CHATML.replace("m.content", "m.content | replace('\n', ' ')"), TOLD),
        (
            CHATML.replace("m.content", "m.content.split('</think>')[-1]"),
            conversation("a", "<think>b</think>c", "d", "e"),
        ),
        # As SmolLM3, for which this is a switch.
        (
            CHATML.replace("m.content", "m.content.replace('/no_think', '')"),
            conversation("a", "b", system="c /no_think"),
        ),
    ],
)
def test_a_prompt_that_shows_every_turn_in_some_way_is_taken(template: str, example: Conversation) -> None:
    tokenizer = byte_level(template)
    assert tokenised(tokenizer, example)
    assert decoded(tokenizer, ChatTokens(tokenizer, 1000).prompt_ids(example).tolist())


def test_the_system_may_stand_before_the_last_turn_of_the_user() -> None:
    (first, second) = tokenised(byte_level(BEFORE_LAST), TOLD)
    assert first.trained.any() and second.trained.any()


@pytest.mark.parametrize(
    ("template", "example", "problem"),
    [
        (PHI, TOLD, r"write turn 0 \(system\) as it is, .*Fold it into a user turn, or use"),
        (FIRST_SYSTEM, LATE, r"write turn 2 \(system\) as it is"),
        (PHI, with_tool(), r"write turn 2 \(tool\) as it is, .*Use a template that writes tool turns"),
        (PARTS, ONE, r"write turn 0 \(user\) as it is, .*Use a template that writes all turns as they are"),
        (
            CHATML.replace("m.content", "(m.content[:5] if m.role == 'user' else m.content)"),
            ONE,
            r"write turn 0 \(user\) as it is",
        ),
        (CHATML.replace("m.content", "m.content.lower()"), conversation("NASA?", "x"), r"write turn 0 \(user\) as it"),
        (REVERSED, TWO, r"write turn 1 \(assistant\) where it stands in the row"),
        (LAST_ONLY, TWO, r"write turn 0 \(user\) as it is"),
        (
            CHATML.replace("m.content", "(m.content if m.role == 'user' or loop.last else '')"),
            TWO,
            r"write turn 1 \(assistant\) as it is",
        ),
    ],
)
def test_a_turn_that_the_prompt_does_not_show_is_named(template: str, example: Conversation, problem: str) -> None:
    tokenizer = byte_level(template)
    tokens = ChatTokens(tokenizer, 1000)
    with pytest.raises(DataError, match=rf'^row "c": the chat template does not {problem}') as caught:
        tokens.tokenise([example])
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=problem):
        tokens.prompt_ids(example)


def test_what_is_empty_need_not_be_shown() -> None:
    assert problem_of_shown("Hello", [Message("system", " \n"), Message("user", "Hello")]) is None


@pytest.mark.parametrize("content", ['a "b"', "a\tb", "Köln", "\\"])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_content_may_be_a_string_of_json(content: str, ascii_only: bool) -> None:
    prompt = json.dumps({"content": content}, ensure_ascii=ascii_only)
    assert problem_of_shown(prompt, [Message("tool", content)]) is None


def test_a_template_is_asked_no_more_often_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = byte_level(CHATML)
    tokens = ChatTokens(tokenizer, 1000)
    tokens.tokenise([TWO])
    render, calls = tokenizer.apply_chat_template, []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return render(*args, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    tokens.tokenise([TWO])
    assert len(calls) == 6, "for each of two responses: its prompt, what is around it, and what became of it"
