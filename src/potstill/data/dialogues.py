"""Examples for language models (conversations, prompts with a completion, plain texts) and their reading from files."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from potstill.data.fields import BESIDE_PROMPT, IN_CHATS, PAIRS_OF_PROMPTS, RESPONSES, Form
from potstill.data.on_disk import OnDisk
from potstill.data.reading import Reading
from potstill.data.rows import Columns, read_each, string_in, text_id
from potstill.data.written import Written
from potstill.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    reasoning: str | None = None
    """What an assistant thought before it answered."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns. Where the last is not the assistant's, the teacher writes the response."""

    id: str
    messages: tuple[Message, ...]
    domain: str | None = None

    @property
    def text(self) -> str:
        return _text_of(self.messages)

    @property
    def own_text(self) -> str:
        return _text_of(message for message in self.messages if message.role != "system")

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return self.messages[-1].role == "assistant"

    @property
    def content(self) -> list[Any]:
        turns = [[message.role, message.content, message.reasoning] for message in self.messages]
        return [self.id, turns, *_given(self.domain)]

    @classmethod
    def of(cls, content: list[Any]) -> "Conversation":
        identity, messages, *domain = content
        return cls(identity, tuple(Message(*message) for message in messages), *domain)


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and how it goes on; without a completion, the teacher writes it."""

    id: str
    prompt: str
    completion: str | None
    domain: str | None = None

    @property
    def text(self) -> str:
        return self.prompt + (self.completion or "")

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return self.completion is not None

    @property
    def content(self) -> list[Any]:
        return [self.id, self.prompt, self.completion, *_given(self.domain)]

    @classmethod
    def of(cls, content: list[Any]) -> "Completion":
        return cls(*content)


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text of which every token is to be learnt."""

    id: str
    text: str
    domain: str | None = None

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return True

    @property
    def content(self) -> list[Any]:
        return [self.id, self.text, *_given(self.domain)]

    @classmethod
    def of(cls, content: list[Any]) -> "PlainText":
        return cls(*content)


def _text_of(messages: Iterable[Message]) -> str:
    return "\n\n".join(part for message in messages for part in (message.reasoning, message.content) if part)


def _given(domain: str | None) -> list[str]:
    # Content without a domain stays as it was before there were any, and so do runs.
    return [] if domain is None else [domain]


Example: TypeAlias = Conversation | Completion | PlainText | Written


def prompt_of(example: Example) -> Example:
    """The example without its last response, where it has one."""
    if isinstance(example, Completion):
        return replace(example, completion=None)
    if isinstance(example, Conversation) and example.labelled:
        return replace(example, messages=example.messages[:-1])
    return example


def columns_read(columns: Columns) -> frozenset[str]:
    """The columns of a row that are read."""
    texts = {columns.messages, columns.prompt, columns.completion, columns.text}
    return frozenset({columns.id, columns.domain, *texts})


def read_dialogues(path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[Example]:
    """All examples of a file, in its order. Blank lines count as nothing.

    Raises:
        DataError: the file, its bad rows by line or row number, or a field whose meaning would be lost.
    """
    form = Form(
        reads=columns_read(columns),
        text=columns.prompt,
        label=columns.completion,
        setting="completion",
        meanings=IN_CHATS,
        labels=RESPONSES,
        seconds=BESIDE_PROMPT,
        pairs=PAIRS_OF_PROMPTS,
        verdicts=frozenset({"label"}),
    )
    return read_each(
        path,
        lambda place, record: _Reader(path, place, columns).example(record),
        # Two of which one lacks a response differ; the class cannot, with the same content.
        lambda example: json.dumps(example.content),
        form=form,
        how=how,
    )


@dataclass(frozen=True)
class _Reader:
    """Makes an example of a record, and knows where it stands for the error."""

    path: Path
    place: str
    columns: Columns

    def example(self, record: Any) -> Example:
        names = self.columns
        if not isinstance(record, dict):
            raise self._error(f": expected an object with {self._kinds()}, found {type(record).__name__}")
        # Parquet gives every row every column, with nulls.
        given = {column: value for column, value in record.items() if value is not None}
        kinds: dict[str, Callable[[dict[str, Any]], Example]] = {
            names.messages: self._conversation,
            names.prompt: self._completion,
            names.text: self._plain_text,
        }
        found = [column for column in kinds if column in given]
        if not found:
            filled = sorted(map(str, given))[:12]
            raise self._error(
                f" has no {self._kinds()}; found {filled}. Set data.columns to the names of the columns that hold them"
            )
        if len(found) > 1:
            both = " and ".join(f'"{column}"' for column in found)
            raise self._error(f" has both {both}; expected one of {self._kinds()}. Drop the others")
        if names.completion in given and found != [names.prompt]:
            raise self._error(
                f' has "{names.completion}" beside "{found[0]}"; it belongs to a "{names.prompt}". Drop one of the two'
            )
        return kinds[found[0]](given)

    def _conversation(self, given: dict[str, Any]) -> Conversation:
        column = self.columns.messages
        turns = given[column]
        if not isinstance(turns, list) or not turns:
            kind = "an empty list" if isinstance(turns, list) else type(turns).__name__
            raise self._error(f' "{column}": expected a list of turns with role and content, found {kind}')
        messages = tuple(self._message(f"{column}[{number}]", turn) for number, turn in enumerate(turns))
        asked = [message.role for message in messages if message.role != "system"]
        if not asked or asked[0] != "user":
            turn = f"the {asked[0]}'s" if asked else "none"
            raise self._error(
                f' "{column}": expected a user turn first, after the system turn if there is one; found {turn}. '
                "Drop what comes before it"
            )
        if messages[-1].role == "system":
            raise self._error(f' "{column}": ends with a system turn, which asks for nothing. Drop or move it')
        content = json.dumps([[message.role, message.content, message.reasoning] for message in messages])
        return Conversation(self._id(given, content), messages, self._domain(given))

    def _message(self, where: str, turn: Any) -> Message:
        if not isinstance(turn, dict):
            raise self._error(f' "{where}": expected an object with role and content, found {type(turn).__name__}')
        role = turn.get("role")
        if role not in ROLES:
            raise self._error(f' "{where}": unknown role {role!r}; expected one of {", ".join(ROLES)}')
        if turn.get("tool_calls"):
            raise self._error(f' "{where}": tool_calls are not supported. Write the call into content, or drop the row')
        content = turn.get("content")
        if isinstance(content, list):
            raise self._error(f' "{where}": content of parts is not supported. Join its texts into one string')
        content = self._filled(f"{where}.content", content, "drop the turn")
        reasoning = turn.get("reasoning_content")
        if reasoning is not None:
            if role != "assistant":
                raise self._error(f' "{where}": reasoning_content in a turn of the {role}; only assistants have it')
            reasoning = self._filled(f"{where}.reasoning_content", reasoning, "use null for none")
        return Message(role, content, reasoning)

    def _completion(self, given: dict[str, Any]) -> Completion:
        names = self.columns
        for column in (names.prompt, names.completion):
            if isinstance(given.get(column), list):
                raise self._error(f' "{column}": expected text, found list. Put turns into "{names.messages}"')
        prompt = self._filled(names.prompt, given[names.prompt], f'use "{names.text}" for a text without a prompt')
        completion = given.get(names.completion)
        if completion is not None:
            completion = self._filled(names.completion, completion, "use null where the teacher is to write it")
        identity = self._id(given, json.dumps([prompt, completion]))
        return Completion(identity, prompt, completion, self._domain(given))

    def _plain_text(self, given: dict[str, Any]) -> PlainText:
        # Blank texts are dropped and counted with the duplicates, as blank rows of other tasks are.
        text = string_in(self.path, self.place, self.columns.text, given[self.columns.text])
        return PlainText(self._id(given, text), text, self._domain(given))

    def _domain(self, given: dict[str, Any]) -> str | None:
        domain = given.get(self.columns.domain)
        return None if domain is None else string_in(self.path, self.place, self.columns.domain, domain)

    def _id(self, given: dict[str, Any], content: str) -> str:
        identity = given.get(self.columns.id)
        if identity is None:
            return text_id(content)
        return self._filled(self.columns.id, str(identity), "use null to name the row by its content")

    def _filled(self, where: str, value: Any, fix: str) -> str:
        text = string_in(self.path, self.place, where, value)
        if not text.strip():
            raise self._error(f' "{where}": empty; {fix}')
        return text

    def _kinds(self) -> str:
        return f'"{self.columns.messages}", "{self.columns.prompt}" or "{self.columns.text}"'

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.path}: {self.place}{problem}.")
