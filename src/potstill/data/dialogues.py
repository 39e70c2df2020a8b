"""Examples for language models (conversations, prompts with a completion, plain texts) and their reading from files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from potstill.data.columns import KINDS, OPTIONAL, Columns
from potstill.data.fields import RESPONSES, Form
from potstill.data.files import RepeatedKey, json_value
from potstill.data.generated import GeneratedResponse
from potstill.data.meanings import BESIDE_PROMPT, IN_CHATS, PAIRS_OF_PROMPTS, PART_OF_PROMPT
from potstill.data.on_disk import OnDisk
from potstill.data.reading import Reading
from potstill.data.rows import domain_in, id_in, read_each, text_id
from potstill.data.turns import Message, Place, read_turn

CONVERSATIONS = "conversations"
"""What ShareGPT's form calls the messages."""
ARGUMENTS = frozenset(
    {
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "strftime_now",
        "raise_exception",
    }
)
"""Arguments of `apply_chat_template` itself, which no row gives."""
NO_INPUT = frozenset({"<noinput>", "<no input>", "noinput", "no input", "nan", "null", "none", "n/a", "<na>"})
"""What stands for no input in rows of Alpaca's form (self-instruct, pandas, Python), in lower case."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns. Where the last is not the assistant's, the teacher writes the response."""

    id: str
    messages: tuple[Message, ...]
    domain: str | None = None
    tools: str | None = None
    """As JSON, the list of the tools that the template is given."""
    template_kwargs: str | None = None
    """As JSON, what else the template is given, by name."""

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
        turns = [message.values for message in self.messages]
        if self.beside:
            return [self.id, turns, self.domain, self.tools, self.template_kwargs]
        return [self.id, turns, *_given(self.domain)]

    @property
    def beside(self) -> str:
        """What the template is given beside the turns: with other tools, the same turns ask for something else."""
        return (self.tools or "") + (self.template_kwargs or "")

    @classmethod
    def of(cls, content: list[Any]) -> "Conversation":
        identity, messages, *others = content
        return cls(identity, tuple(Message(*message) for message in messages), *others)


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


Example: TypeAlias = Conversation | Completion | PlainText | GeneratedResponse


def prompt_of(example: Example) -> Example:
    """The example without its last response, where it has one."""
    if isinstance(example, Completion):
        return replace(example, completion=None)
    if isinstance(example, Conversation) and example.labelled:
        return replace(example, messages=example.messages[:-1])
    return example


def columns_read(columns: Columns) -> frozenset[str]:
    """The names of the columns that an example is made of."""
    names = (columns.id, columns.domain, columns.messages, columns.prompt, columns.completion, columns.text)
    return frozenset((*names, columns.input, columns.tools, columns.chat_template_kwargs, CONVERSATIONS))


def read_dialogues(path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[Example]:
    """All examples of a file, in its order. Blank lines count as nothing.

    Columns and keys of turns that `how` ignores are taken for not there.

    Raises:
        DataError: the file, its bad rows by line or row number, or a field whose meaning would be lost.
    """
    absent, ignore = columns.given_away, frozenset(how.ignore if how else ())
    form = Form(
        reads=columns_read(columns),
        id=columns.id,
        text=columns.prompt,
        label=columns.completion,
        setting="completion",
        meanings=IN_CHATS,
        labels=RESPONSES,
        beside=BESIDE_PROMPT,
        second=PART_OF_PROMPT,
        pairs=PAIRS_OF_PROMPTS,
    )
    return read_each(
        path,
        lambda file, place, record: _Reader(Place(file, place), columns, absent, ignore).example(record),
        # Two of which one lacks a response differ; the class cannot, with the same content.
        lambda example: json.dumps(example.content),
        form=form,
        how=how,
    )


@dataclass(frozen=True)
class _Reader:
    """Makes an example of a record."""

    at: Place
    columns: Columns
    absent: frozenset[str]
    """The columns that no row has, for another has their name."""
    ignore: frozenset[str]

    def example(self, record: Any) -> Example:
        names = self.columns
        if not isinstance(record, dict):
            raise self.at.error(f": expected an object with {self._kinds()}, found {type(record).__name__}")
        # Parquet gives every row every column, with nulls.
        given = {column: value for column, value in record.items() if value is not None and column not in self.ignore}
        kinds = {getattr(names, kind): kind for kind in KINDS if kind not in self.absent}
        named = {getattr(names, role) for role in (*KINDS, *OPTIONAL)}
        if CONVERSATIONS not in named and given.get(CONVERSATIONS) not in (None, "", [], {}):
            kinds[CONVERSATIONS] = "messages"
        found = [column for column in kinds if column in given]
        if not found:
            raise self.at.error(f" has no {self._kinds()}; found {sorted(map(str, given))[:12]}. {self._advice(given)}")
        if len(found) > 1:
            both = " and ".join(f'"{column}"' for column in found)
            raise self.at.error(
                f" has both {both}; expected one of {self._kinds()}. Drop the others, or say that they may go with "
                "data.ignore"
            )
        column, kind = found[0], kinds[found[0]]
        self._refuse_beside(given, column, kind)
        if kind == "messages":
            return self._conversation(given, column)
        return self._completion(given) if kind == "prompt" else self._plain_text(given)

    def _advice(self, given: dict[str, Any]) -> str:
        if "instruction" in given:
            # https://github.com/tatsu-lab/stanford_alpaca
            columns = "prompt: instruction, completion: output" if "output" in given else "prompt: instruction"
            return f"Alpaca's form is read with data.columns: {{{columns}}}, and its input put after the instruction"
        return "Set data.columns to the names of the columns that hold them"

    def _value(self, given: dict[str, Any], role: str) -> Any:
        """What stands in a column that a row may be without."""
        return None if role in self.absent else given.get(getattr(self.columns, role))

    def _refuse_beside(self, given: dict[str, Any], found: str, kind: str) -> None:
        """Raises DataError: a column that belongs to another kind of row than this, which column `found` makes it."""
        for role in OPTIONAL:
            column = getattr(self.columns, role)
            belongs = "prompt" if role in ("completion", "input") else "messages"
            if kind == belongs or self._value(given, role) in (None, "", [], {}):
                continue
            if kind == "text" and {"instruction", "output"} <= given.keys():
                raise self.at.error(
                    f' has "{column}" beside "{found}". {self._advice(given)}; data.ignore: [{found}] leaves out the '
                    f"text that was made of them. To learn that text alone, data.ignore: [{column}] does"
                )
            raise self.at.error(
                f' has "{column}" beside "{found}"; it belongs to a "{getattr(self.columns, belongs)}". Drop one of '
                f"the two; data.ignore: [{column}] leaves it out"
            )

    def _conversation(self, given: dict[str, Any], column: str) -> Conversation:
        turns = given[column]
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            turns = self._parsed(column, turns)
        if not isinstance(turns, list) or not turns:
            kind = "an empty list" if isinstance(turns, list) else type(turns).__name__
            raise self.at.error(f' "{column}": expected a list of turns with role and content, found {kind}')
        messages = tuple(
            read_turn(self.at, f"{column}[{number}]", turn, self.ignore) for number, turn in enumerate(turns)
        )
        asked = [message.role for message in messages if message.role != "system"]
        if not asked or asked[0] != "user":
            turn = f"the {asked[0]}'s" if asked else "none"
            raise self.at.error(
                f' "{column}": expected a user turn first, after the system turn if there is one; found {turn}. '
                "Drop what comes before it"
            )
        if messages[-1].role == "system":
            raise self.at.error(f' "{column}": ends with a system turn, which asks for nothing. Drop or move it')
        tools = self._tools(self._value(given, "tools"))
        more = self._template_kwargs(self._value(given, "chat_template_kwargs"))
        content = json.dumps([message.values for message in messages]) + (tools or "") + (more or "")
        return Conversation(self._id(given, content), messages, self._domain(given), tools, more)

    def _tools(self, value: Any) -> str | None:
        column = self.columns.tools
        tools = self._parsed(column, value)
        # Parquet, and JSON that datasets wrote, give every object every key, with nulls. A text has its author's alone.
        if self.at.path.suffix.lower() == ".parquet" or not isinstance(value, str):
            tools = _without_nulls(tools)
        if not isinstance(tools, list | None) or not all(isinstance(tool, dict) for tool in tools or []):
            raise self.at.error(f' "{column}": expected a list of objects, as JSON or as its text. Correct it')
        return self._json(column, tools) if tools else None

    def _template_kwargs(self, value: Any) -> str | None:
        column = self.columns.chat_template_kwargs
        values = self._parsed(column, value)
        if self.at.path.suffix.lower() == ".parquet":
            values = _without_nulls(values)
        if not isinstance(values, dict | None):
            raise self.at.error(f' "{column}": expected an object of values by name, found {type(values).__name__}')
        # Of these an empty value is what a template gets without it.
        values = {
            name: value
            for name, value in (values or {}).items()
            if name not in ARGUMENTS or value not in (None, "", [], {})
        }
        if taken := sorted(ARGUMENTS & values.keys()):
            raise self.at.error(
                f' "{column}": {", ".join(taken)}: of apply_chat_template itself, and not read from rows. Drop it; '
                "what the model is to be shown, such as documents, goes into a turn"
            )
        return self._json(column, values) if values else None

    def _parsed(self, column: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json_value(value) if value.strip() else None
        except RepeatedKey as error:
            raise self.at.error(f' "{column}": an object in its text has the key "{error}" twice. Correct it') from None
        except (ValueError, RecursionError):
            raise self.at.error(f' "{column}": a text that is no JSON. Correct it') from None

    def _json(self, column: str, value: Any) -> str:
        def refuse(inner: Any) -> None:
            kind = type(inner).__name__
            raise self.at.error(f' "{column}": a value of type {kind}, which JSON does not have. Write it as text')

        return self.at.text(column, json.dumps(value, ensure_ascii=False, default=refuse))

    def _completion(self, given: dict[str, Any]) -> Completion:
        names = self.columns
        completion, more = self._value(given, "completion"), self._value(given, "input")
        for column, value in ((names.prompt, given[names.prompt]), (names.completion, completion)):
            if isinstance(value, list):
                raise self.at.error(f' "{column}": expected text, found list. Put turns into "{names.messages}"')
        prompt = self.at.filled(names.prompt, given[names.prompt], f'use "{names.text}" for a text without a prompt')
        if more is not None and (stated := self.at.text(names.input, more).strip()):
            if stated.casefold() in NO_INPUT:
                raise self.at.error(
                    f' "{names.input}": {stated!r} stands for none, and would be put after the prompt. Write null or '
                    f'"" for none; if it is meant, write it into "{names.prompt}". data.ignore: [{names.input}] leaves '
                    "all of them out"
                )
            # One blank line between them, as in the prompts of https://github.com/tatsu-lab/stanford_alpaca.
            prompt = f"{prompt}\n\n{more}"
        if completion is not None:
            completion = self.at.filled(names.completion, completion, "use null where the teacher is to write it")
        identity = self._id(given, json.dumps([prompt, completion]))
        return Completion(identity, prompt, completion, self._domain(given))

    def _plain_text(self, given: dict[str, Any]) -> PlainText:
        # Blank texts are dropped and counted with the duplicates, as blank rows of other tasks are.
        text = self.at.text(self.columns.text, given[self.columns.text])
        return PlainText(self._id(given, text), text, self._domain(given))

    def _domain(self, given: dict[str, Any]) -> str | None:
        return domain_in(self.at.path, self.at.place, self.columns.domain, given.get(self.columns.domain))

    def _id(self, given: dict[str, Any], content: str) -> str:
        identity = id_in(self.at.path, self.at.place, self.columns.id, given.get(self.columns.id))
        if identity is None:
            return text_id(content)
        return self.at.filled(self.columns.id, identity, "use null to name the row by its content")

    def _kinds(self) -> str:
        *others, last = [f'"{getattr(self.columns, kind)}"' for kind in KINDS if kind not in self.absent]
        return f"{', '.join(others)} or {last}" if others else last


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
