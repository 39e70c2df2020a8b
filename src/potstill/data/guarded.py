"""What a chat template is given, and the same with some of the strings in it changed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from potstill.data.tool_calls import ToolCall
from potstill.data.turns import Message


@dataclass(frozen=True)
class Shown:
    """What a template is given."""

    messages: tuple[Message, ...]
    tools: list[Any] | None
    values: dict[str, Any]

    def changed(self, change: Callable[[str], str]) -> "Shown":
        """The same with each string changed, but for the names of `values`."""
        return Shown(
            tuple(_message(message, change) for message in self.messages),
            with_strings(self.tools, change),
            {name: with_strings(value, change) for name, value in self.values.items()},
        )


def _message(message: Message, change: Callable[[str], str]) -> Message:
    return replace(
        message,
        content=change(message.content),
        reasoning=message.reasoning and change(message.reasoning),
        calls=tuple(_guarded_call(call, change) for call in message.calls),
        name=message.name and change(message.name),
    )


def _guarded_call(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    arguments = change(call.arguments)
    values = json.loads(arguments)
    # A string may be written with escapes, which hide it.
    if (changed := with_strings(values, change)) != values:
        arguments = json.dumps(changed, ensure_ascii=False)
    return replace(call, name=change(call.name), arguments=arguments)


def strings_of(value: Any) -> Iterator[str]:
    """All strings in a value of JSON, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


def with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each of its strings changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): with_strings(inner, change) for name, inner in value.items()}
    return [with_strings(inner, change) for inner in value] if isinstance(value, list) else value
