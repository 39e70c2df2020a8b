"""Whether the prompt that a chat template writes shows the turns that it was given."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from potstill.data.reasoning_blocks import after_reasoning
from potstill.data.tool_calls import problem_of_calls
from potstill.data.turns import Message

_SWITCH = re.compile(r"/(?:no_?)?think\b")
"""What some templates, as SmolLM3's, read in a turn of the system and leave out."""
_FIXES = {
    "system": "Fold it into a user turn, or use a template that writes system turns",
    "tool": "Use a template that writes tool turns, or drop the row",
}
FIX_OF_CALLS = "Use a template that writes the calls of tools, or drop the row"
_OTHER_FIX = "Use a template that writes all turns as they are and in their order, or drop the row"


def problem_of_shown(prompt: str, messages: Sequence[Message]) -> str | None:
    """Which of the messages the prompt does not hold, and the fix; None where it holds all.

    Their order counts but for the system's, which templates put first or before the last user's. An assistant's
    reasoning may be gone. White space may differ, and a content may stand there as a string of JSON.
    """
    # The second reading is slow, and few prompts need it.
    number = _first_missing(prompt, messages, str.strip, _bare)
    if number is not None:
        number = _first_missing(_without_space(prompt), messages, _without_space, _escaped)
    if number is None:
        return next((_lost(number, lost) for number, lost in _calls_missing(prompt, messages)), None)
    message = messages[number]
    if (
        message.calls
        and _first_missing(_without_space(prompt), [replace(message, calls=())], _without_space, _escaped) is None
    ):
        return _lost(number, f"the call of {message.calls[0].name}")
    found = any(form in _without_space(prompt) for form in map(_without_space, _escaped(message)))
    how = "where it stands in the row" if found else "as it is"
    return (
        f"does not write turn {number} ({message.role}) {how}, so a model would not be shown what the row says. "
        f"{_FIXES.get(message.role, _OTHER_FIX)}."
    )


def _calls_missing(prompt: str, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """The turns of which something of their calls is not in the prompt, and what."""
    for number, message in enumerate(messages):
        if message.calls and (lost := problem_of_calls(prompt, message.calls)):
            yield number, lost


def _lost(number: int, lost: str) -> str:
    return (
        f"does not write {lost} in turn {number} (assistant), so a model would not be shown what the row says. "
        f"{FIX_OF_CALLS}."
    )


def _first_missing(
    prompt: str, messages: Sequence[Message], read: Callable[[str], str], forms: Callable[[Message], list[str]]
) -> int | None:
    place = 0
    for number, message in enumerate(messages):
        in_order = message.role != "system"
        found = [
            start + len(form)
            for form in map(read, forms(message))
            if (start := prompt.find(form, place if in_order else 0)) >= 0
        ]
        if not found:
            return number
        if in_order:
            place = min(found)
        for name in (read(call.name) for call in message.calls):
            if (start := prompt.find(name, place)) < 0:
                return number
            place = start + len(name)
    return None


def _bare(message: Message) -> list[str]:
    return [after_reasoning(message.content) if message.role == "assistant" else message.content]


def _escaped(message: Message) -> list[str]:
    (content,) = _bare(message)
    return [content, *(json.dumps(content, ensure_ascii=ascii)[1:-1] for ascii in (False, True))]


def _without_space(text: str) -> str:
    return "".join(_SWITCH.sub("", text).split())
