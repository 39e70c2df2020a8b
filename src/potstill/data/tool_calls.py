"""Calls of tools that an assistant makes: their reading, what templates are given of them, and whether they are shown.

OpenAI's interface has the arguments of a call as JSON text, templates of transformers take them as an object or as that
text. Which one a template takes is tried out; nothing of a call may be lost or written as Python writes it.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.data.places import Place, without_nulls

CALLS = ("tool_calls", "function_call")
"""The names for an assistant's calls: of OpenAI's interface, and of its older one, for a single call."""
_EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant asks for."""

    name: str
    arguments: str
    """As JSON text, the values by name; as the data have it where they have text without nulls."""
    id: str | None = None

    @property
    def values(self) -> list[str | None]:
        return [self.name, self.arguments, self.id]

    @property
    def text(self) -> str:
        """For people to read."""
        return f"{self.name}({self.arguments})"

    def given(self, *, as_text: bool) -> dict[str, Any]:
        """What a template is given, with the arguments as text or as an object."""
        arguments = self.arguments if as_text else json.loads(self.arguments)
        call: dict[str, Any] = {} if self.id is None else {"id": self.id}
        return call | {"type": "function", "function": {"name": self.name, "arguments": arguments}}


@dataclass(frozen=True)
class CallForm:
    """How a template takes a turn with calls."""

    arguments_as_text: bool = False
    empty: str | None = ""
    """A content that says nothing, or null for none at all, which is what some templates look for."""


FORMS = (CallForm(), CallForm(arguments_as_text=True), CallForm(empty=None), CallForm(True, None))
"""In the order in which they are tried: as the documentation of transformers has it first."""


def read_calls(at: Place, where: str, given: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls of a turn, under either name.

    Raises:
        DataError: they are none, or both names have some.
    """
    found = [key for key in CALLS if given.get(key) not in _EMPTY]
    if len(found) > 1:
        raise at.error(f' "{where}": {" and ".join(found)} both name calls. Keep one')
    return calls_in(at, f"{where}.{found[0]}", given[found[0]]) if found else ()


def calls_in(at: Place, where: str, value: Any) -> tuple[ToolCall, ...]:
    """One call, or a list of them, as JSON or as its text.

    Raises:
        DataError: it is none.
    """
    calls = at.parsed(where, value)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls:
        raise at.error(f' "{where}": no call in it. {_EXAMPLE}')
    return tuple(
        _call(at, where if len(calls) == 1 else f"{where}[{number}]", call) for number, call in enumerate(calls)
    )


_EXAMPLE = 'Write it as {"name": "find", "arguments": {"number": "12"}}'


def _call(at: Place, where: str, call: Any) -> ToolCall:
    if not isinstance(call, dict):
        raise at.error(f' "{where}": expected a call of a function, found {type(call).__name__}. {_EXAMPLE}')
    # OpenAI's, and the bare one of ShareGPT's form and of many templates.
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    kind = call.get("type")
    if kind not in (None, "", "function"):
        raise at.error(f' "{where}": a call of type {kind!r}; only functions can be called. Drop the row')
    own = {"name", "arguments", "parameters", "id", "type", "index"} | ({"function"} if inner is not call else set())
    if unknown := sorted(str(key) for key, each in {**call, **inner}.items() if key not in own and each not in _EMPTY):
        raise at.error(f' "{where}": {", ".join(unknown)} would not be read. {_EXAMPLE}')
    name = inner.get("name")
    if name is None:
        raise at.error(f' "{where}": a call without the name of its function. {_EXAMPLE}')
    name = at.filled(f"{where}.name", name, "name the function")
    named = [key for key in ("arguments", "parameters") if inner.get(key) is not None]
    if len(named) > 1 and inner[named[0]] != inner[named[1]]:
        raise at.error(f' "{where}": arguments and parameters differ, and both name what the call gives. Keep one')
    arguments = _arguments(at, f"{where}.{named[0]}", inner[named[0]]) if named else "{}"
    identity = call.get("id")
    return ToolCall(name, arguments, None if identity in _EMPTY else at.text(f"{where}.id", identity))


def _arguments(at: Place, where: str, value: Any) -> str:
    values = at.parsed(where, value)
    if values is None:
        return "{}"
    if not isinstance(values, dict):
        raise at.error(
            f' "{where}": expected an object of values by name, or its JSON text, found {type(values).__name__}. '
            'Write it as {"number": "12"}'
        )
    # What tables fill in is no argument.
    given = without_nulls(values)
    return at.text(where, value.strip()) if isinstance(value, str) and given == values else at.json(where, given)


def problem_of_calls(text: str, calls: Sequence[ToolCall]) -> str | None:
    """What of the calls a text does not have, in words; None where it has all: names in their order, all values."""
    bare, start = _bare(text), 0
    for call in calls:
        place = bare.find(_bare(call.name), start)
        if place < 0:
            return f"the call of {call.name}"
        start = place + len(_bare(call.name))
        if _bare(call.arguments) in bare:
            continue
        values = json.loads(call.arguments)
        if any(_misquoted(_bare(name), bare) for name in values):
            return f"the arguments of {call.name} as JSON"
        for value in _leaves(values):
            if not any(form in bare for form in _forms(value)):
                shown = json.dumps(value, ensure_ascii=False)
                return f"{shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'} in the call of {call.name}"
    return None


def _misquoted(name: str, bare: str) -> bool:
    """Whether a name stands there as str() of an object writes it, or as JSON within a text of JSON has it."""
    return f'"{name}":' not in bare and (f"'{name}':" in bare or f'\\"{name}\\":' in bare)


_SHOWN = 60


def _leaves(value: Any) -> Iterator[Any]:
    """All names and values in a value of JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _forms(value: Any) -> Collection[str]:
    """How a text may have a value: as it is, or as JSON or Python writes it."""
    if isinstance(value, str):
        return {
            _bare(form) for form in (value, *(json.dumps(value, ensure_ascii=each)[1:-1] for each in (False, True)))
        }
    return {json.dumps(value), str(value)}


def _bare(text: str) -> str:
    return "".join(text.split())
