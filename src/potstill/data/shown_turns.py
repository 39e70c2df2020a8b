"""Whether the prompt that a chat template writes shows the turns that it was given."""

import json
import re
from collections.abc import Callable, Sequence

from potstill.data.reasoning_blocks import after_reasoning
from potstill.data.turns import Message

_SWITCH = re.compile(r"/(?:no_?)?think\b")
"""What some templates, as SmolLM3's, read in a turn of the system and leave out."""
_FIXES = {
    "system": "Fold it into a user turn, or use a template that writes system turns",
    "tool": "Use a template that writes tool turns, or drop the row",
}
_OTHER_FIX = "Use a template that writes all turns as they are and in their order, or drop the row"


def problem_of_shown(prompt: str, messages: Sequence[Message]) -> str | None:
    """Which of the messages the prompt does not hold, and the fix; None where it holds all.

    Their order counts but for the system's, which templates put first or before the last user's. An assistant's
    reasoning may be gone. White space may differ, and a content may stand there as a string of JSON.
    """
    # The second reading is slow, and few prompts need it.
    if _first_missing(prompt, messages, str.strip, _bare) is None:
        return None
    number = _first_missing(_without_space(prompt), messages, _without_space, _escaped)
    if number is None:
        return None
    message = messages[number]
    found = any(form in _without_space(prompt) for form in map(_without_space, _escaped(message)))
    how = "where it stands in the row" if found else "as it is"
    return (
        f"does not write turn {number} ({message.role}) {how}, so a model would not be shown what the row says. "
        f"{_FIXES.get(message.role, _OTHER_FIX)}."
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
    return None


def _bare(message: Message) -> list[str]:
    return [after_reasoning(message.content) if message.role == "assistant" else message.content]


def _escaped(message: Message) -> list[str]:
    (content,) = _bare(message)
    return [content, *(json.dumps(content, ensure_ascii=ascii)[1:-1] for ascii in (False, True))]


def _without_space(text: str) -> str:
    return "".join(_SWITCH.sub("", text).split())
