"""A turn of a conversation, and its reading from a record in the forms that data sets have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from potstill.data.places import Place
from potstill.data.reading import PARTS_OF_TURNS
from potstill.data.reasoning_blocks import without_repeated
from potstill.data.tool_calls import CALLS, ToolCall, calls_in, read_calls

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)

REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names of an assistant's reasoning: of DeepSeek's, OpenRouter's and Ollama's interfaces."""
WEIGHTS = ("weight", "loss", "train", "trainable")
"""The names for whether a turn is learnt: of OpenAI's fine-tuning, ms-swift and Axolotl."""
SHAREGPT: Mapping[Any, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""Who speaks under `from` in ShareGPT's form."""
CALLING = "function_call"
"""Who speaks there where the value is a call of a tool, as JSON."""
RESULT_OF = ("tool_call_id", "name")
"""What a tool's turn says of the call that it answers; many templates write neither."""
OTHER_ROLES: Mapping[Any, Role] = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""What a role that is not read is for most templates; OpenAI's, Google's and Meta's names are among them."""


KINDS_OF_TEXT = ("text", "input_text", "output_text")
"""The types of a content's parts that hold text: of chat templates, and of OpenAI's Responses."""
EMPTY: tuple[Any, ...] = ("", [], {})
"""What interfaces and tables write under a key that has no value."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    reasoning: str | None = None
    """What an assistant thought before it answered."""
    learnt: bool = True
    """Or, of an assistant's turn, only shown."""
    calls: tuple[ToolCall, ...] = ()
    """The tools that an assistant calls; the content may then be empty."""
    call_id: str | None = None
    """Of a tool's turn, the call that it answers."""
    name: str | None = None
    """Of a tool's turn, the function that was called."""

    @property
    def values(self) -> list[Any]:
        """As JSON has it; without what it does not say, as it was before a turn could say so."""
        tools = [[call.values for call in self.calls], self.call_id, self.name] if self._of_tools else []
        return [self.role, self.content, self.reasoning, *([self.learnt] if tools or not self.learnt else []), *tools]

    @classmethod
    def of(cls, values: list[Any]) -> "Message":
        """The inverse of `values`."""
        role, content, reasoning, *rest = values
        learnt, calls, *of_result = rest if len(rest) > 1 else [*(rest or [True]), []]
        return cls(role, content, reasoning, learnt, tuple(ToolCall(*call) for call in calls), *of_result)

    @property
    def said(self) -> str:
        """Content and calls, for people to read."""
        return "\n\n".join(part for part in (self.content, *(call.text for call in self.calls)) if part)

    @property
    def _of_tools(self) -> bool:
        return bool(self.calls) or self.call_id is not None or self.name is not None


def read_turn(at: Place, where: str, turn: Any, ignore: Collection[str]) -> Message:
    """The turn of a record: of role and content, or of ShareGPT's from and value.

    Raises:
        DataError: it is none, or has a key that is not read and not in `ignore`.
    """
    if not isinstance(turn, dict):
        raise at.error(f' "{where}": expected an object with role and content, found {type(turn).__name__}')
    # Parquet gives every turn every key, with nulls.
    ignore = frozenset(ignore) - PARTS_OF_TURNS
    given = {key: value for key, value in turn.items() if value is not None and key not in ignore}
    speaker = given.get("from")
    role, content = _role_and_content(at, where, given)
    _refuse_others(at, where, role, given)
    if speaker == CALLING:
        calls, content = calls_in(at, f"{where}.value", content), ""
    else:
        calls = read_calls(at, where, given)
    if calls and role != "assistant":
        raise at.error(f' "{where}": {_named(CALLS, given)} in a turn of the {role}; only assistants call tools')
    content = _content(at, where, role, content, ignore, may_be_empty=bool(calls))
    reasoning = _reasoning(at, where, role, given)
    if reasoning is not None:
        answer = without_repeated(content, reasoning)
        if answer is None:
            raise at.error(
                f' "{where}": the content begins with <think> and other reasoning than that beside it. Keep the '
                "reasoning in one of the two places"
            )
        content = answer if calls else at.filled(f"{where}.content", answer, "drop the turn")
    of_result = {key: at.text(f"{where}.{key}", given[key]) for key in RESULT_OF if given.get(key, "") not in EMPTY}
    learnt = _learnt(at, where, role, given)
    return Message(role, content, reasoning, learnt, calls, of_result.get("tool_call_id"), of_result.get("name"))


def _content(at: Place, where: str, role: Role, content: Any, ignore: Collection[str], *, may_be_empty: bool) -> str:
    if isinstance(content, list):
        content = "".join(_part(at, f"{where}.content[{number}]", part, ignore) for number, part in enumerate(content))
    if content is None and may_be_empty:
        return ""
    if not isinstance(content, str):
        fix = "Drop the turn, or write its text" if content is None else "Write it as text"
        raise at.error(f' "{where}.content": expected text, found {type(content).__name__}. {fix}')
    # Without a turn of the system, many templates write one of their own; with an empty one they do not. What a tool
    # answers may be nothing.
    empty = may_be_empty or role in ("system", "tool")
    return (at.text if empty else partial(at.filled, fix="drop the turn"))(f"{where}.content", content)


def _role_and_content(at: Place, where: str, given: dict[str, Any]) -> tuple[Role, Any]:
    """Takes them out of `given`."""
    # Converters between ShareGPT's form and the other leave turns of one with keys of the other.
    speaker, named = _taken(given, "from"), _taken(given, "role")
    role = SHAREGPT.get(speaker) if isinstance(speaker, str) else None
    if speaker is not None and named is not None and role != named:
        raise at.error(f' "{where}": "from" {speaker!r} and "role" {named!r} differ. Keep one of the two in the turn')
    if speaker is not None and role is None:
        raise at.error(
            f' "{where}": ShareGPT\'s form with unknown "from" {speaker!r}; expected one of {", ".join(SHAREGPT)}. '
            'Write the turns as {"role": ..., "content": ...}, or drop the row'
        )
    role = named if role is None else role
    if role not in ROLES:
        raise at.error(f' "{where}": unknown role {named!r}; expected one of {", ".join(ROLES)}. {_advice(named)}')
    found = [given.pop(key) for key in ("content", "value") if key in given]
    filled = [value for value in found if value not in EMPTY]
    if any(value != filled[0] for value in filled):
        raise at.error(f' "{where}": "content" and "value" differ. Keep one of the two in the turn')
    return role, next(iter(filled or found), None)


def _taken(given: dict[str, Any], key: str) -> Any:
    value = given.pop(key, None)
    return None if value in EMPTY else value


def _advice(role: Any) -> str:
    """How a turn with a role that is not read can be used."""
    if role is None:
        return 'Give the turn a "role", or drop the row'
    name = role.strip().lower() if isinstance(role, str) else None
    meant = name if name in ROLES else OTHER_ROLES.get(name)
    return f'Write "role": "{meant}" instead, or drop the row' if meant else "Write one of these, or drop the row"


def _refuse_others(at: Place, where: str, role: Role, given: Mapping[str, Any]) -> None:
    known = (*REASONING, *WEIGHTS, *CALLS, *(RESULT_OF if role == "tool" else ()))
    # Interfaces write all keys that they know, many of them empty (refusal, annotations, audio of OpenAI's).
    unknown = [str(key) for key, value in given.items() if key not in known and value not in EMPTY]
    if unknown:
        names = ", ".join(f'"{key}"' for key in unknown)
        raise at.error(
            f' "{where}": {names} would not be read; of a turn role, content, {", ".join(known)} are. Say that '
            f"it may go with data.ignore: [{', '.join(unknown)}], or drop the row"
        )


def _named(keys: Collection[str], given: Mapping[str, Any]) -> str:
    return " and ".join(key for key in keys if given.get(key, "") not in EMPTY)


def _part(at: Place, where: str, part: Any, ignore: Collection[str]) -> str:
    """The text of a part of a content."""
    if not isinstance(part, dict):
        raise at.error(
            f' "{where}": expected a part such as {{"type": "text", "text": ...}}, found {type(part).__name__}'
        )
    own = frozenset({"type", "text"})
    given = {key: value for key, value in part.items() if value is not None and (key in own or key not in ignore)}
    kind = given.pop("type", "text" if "text" in given else None)
    if kind not in KINDS_OF_TEXT:
        raise at.error(f' "{where}": a part of type {kind!r}; only text can be learnt. Drop the row')
    text = at.text(f"{where}.text", given.pop("text", None))
    if given:
        names = ", ".join(map(str, given))
        raise at.error(f' "{where}": {names} would not be read. Say that it may go with data.ignore: [{names}]')
    return text


def _reasoning(at: Place, where: str, role: Role, given: Mapping[str, Any]) -> str | None:
    found = {key: at.text(f"{where}.{key}", given[key]) for key in REASONING if key in given}
    filled = {key: text for key, text in found.items() if text.strip()}
    if not filled:
        return None
    key, *others = filled
    if role != "assistant":
        raise at.error(f' "{where}": {key} in a turn of the {role}; only assistants have it')
    if any(filled[other] != filled[key] for other in others):
        raise at.error(f' "{where}": {" and ".join(filled)} differ, and both name the reasoning. Keep one')
    return filled[key]


def _learnt(at: Place, where: str, role: Role, given: Mapping[str, Any]) -> bool:
    found = {key: given[key] for key in WEIGHTS if key in given}
    for key, value in found.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            fix = "Write it as a number" if isinstance(value, str) else "Round it"
            raise at.error(
                f' "{where}.{key}": expected 0 for a turn that is only shown or 1 for one that is learnt, found '
                f"{value!r}. {fix}, or say that it may go with data.ignore: [{key}]"
            )
        if value and role != "assistant":
            raise at.error(
                f' "{where}.{key}": {value!r} asks to learn a turn of the {role}; only assistants\' are learnt. Set it '
                f"to 0, or say that it may go with data.ignore: [{key}]"
            )
    if len({bool(value) for value in found.values()}) > 1:
        raise at.error(f' "{where}": {" and ".join(found)} differ in whether the turn is learnt. Keep one')
    return role != "assistant" or all(found.values())
