"""The reading of examples for language models from files, in the forms that data sets have."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from potstill.data.columns import KINDS, OPTIONAL, Columns
from potstill.data.dialogues import Completion, Conversation, Example, PlainText
from potstill.data.fields import RESPONSES, Form
from potstill.data.files import json_value
from potstill.data.meanings import BESIDE_PROMPT, IN_CHATS, PAIRS_OF_PROMPTS, PART_OF_PROMPT
from potstill.data.on_disk import OnDisk
from potstill.data.opening import is_table
from potstill.data.places import Place, as_objects, without_nulls
from potstill.data.reading import Reading
from potstill.data.rows import domain_in, id_in, read_each, text_id
from potstill.data.sources import first_record
from potstill.data.turns import Message, read_turn
from potstill.errors import DataError

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
ALPACA = {"instruction": "prompt", "output": "completion"}
"""The columns of Alpaca's form; its `input` has that name here too."""
TURNS_OF_PYTHON = re.compile(r"\s*\[\s*\{\s*'(role|from|content|value)'\s*:")
"""How a text begins that `str` made of turns."""
NO_INPUT = frozenset({"<noinput>", "<no input>", "noinput", "no input", "nan", "null", "none", "n/a", "<na>"})
"""What stands for no input in rows of Alpaca's form (self-instruct, pandas, Python), in lower case."""


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
    ignore = frozenset(how.ignore if how else ())
    columns = _of_alpaca(first_record(path), columns, ignore)
    absent = columns.given_away
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


def read_conversation(messages: Any, beside: Mapping[str, Any], at: Place) -> Example:
    """The conversation of these turns, with what stands `beside` them for the template, as one of a file is read.

    Raises:
        DataError: they are none; names where they stand.
    """
    columns = Columns()
    given = {columns.messages: messages}
    for name in (columns.tools, columns.chat_template_kwargs):
        given[name] = beside.get(name)
    return _Reader(at, columns, frozenset(), frozenset()).example(given)


def _of_alpaca(record: dict[str, Any], columns: Columns, ignore: Collection[str]) -> Columns:
    """The names of the columns, with Alpaca's where the first row of a file is of that form and the recipe names none.

    https://github.com/tatsu-lab/stanford_alpaca
    """
    given = {name for name, value in record.items() if value is not None and name not in ignore}
    others = {getattr(columns, kind) for kind in KINDS} | {CONVERSATIONS}
    if given & others or not given >= ALPACA.keys() or (columns.prompt, columns.completion) != ("prompt", "completion"):
        return columns
    return columns.model_copy(update={role: name for name, role in ALPACA.items()})


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
        if not found and kinds.get(names.text) == "text" and names.text in record.keys() - self.ignore:
            # Nothing in a table is an empty text in other files.
            found = [names.text] if is_table(self.at.path) else []
            given |= dict.fromkeys(found, "")
        if not found:
            raise self.at.error(f" has no {self._kinds()}; found {sorted(map(str, given))[:12]}. {self._advice(given)}")
        if len(found) > 1:
            both = " and ".join(f'"{column}"' for column in found)
            raise self.at.error(
                f" has both {both}; expected one of {self._kinds()}. Drop the others, or say that they may go with "
                "data.ignore"
            )
        column, kind = found[0], kinds[found[0]]
        asked = self._asked(given) if kind == "prompt" else None
        self._refuse_beside(given, column, "messages" if asked else kind, of_turns=asked is not None)
        if asked is not None:
            return self._conversation(given, column, self._with_completion(given, asked))
        if kind == "messages":
            return self._conversation(given, column, self._turns(column, given[column]))
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

    def _refuse_beside(self, given: dict[str, Any], found: str, kind: str, *, of_turns: bool) -> None:
        """Raises DataError: a column that belongs to another kind of row than this, which column `found` makes it.

        `of_turns` says that the prompt is a list of turns, which its completion goes on with.
        """
        for role in OPTIONAL:
            column = getattr(self.columns, role)
            belongs = "prompt" if role in ("completion", "input") else "messages"
            fits = kind == belongs or (of_turns and role == "completion")
            if fits or self._value(given, role) in (None, "", [], {}):
                continue
            if of_turns:
                raise self.at.error(
                    f' has "{column}" beside turns in "{found}". Write it into a turn; data.ignore: [{column}] leaves '
                    "it out"
                )
            if kind == "text" and ALPACA.keys() <= given.keys():
                raise self._beside_alpaca(given, found, column)
            raise self.at.error(
                f' has "{column}" beside "{found}"; it belongs to a "{getattr(self.columns, belongs)}". Drop one of '
                f"the two; data.ignore: [{column}] leaves it out"
            )
        # Without its input too, if that is not left out, which says that the text is meant.
        both = all(given.get(column) not in (None, "") for column in ALPACA)
        if found == kind == "text" and both and self.columns.input not in self.ignore:
            raise self._beside_alpaca(given, found, *ALPACA)

    def _beside_alpaca(self, given: dict[str, Any], found: str, *columns: str) -> DataError:
        both = " and ".join(f'"{column}"' for column in columns)
        return self.at.error(
            f' has {both} beside "{found}". {self._advice(given)}; data.ignore: [{found}] leaves out the text that was '
            f"made of them. To learn that text alone, data.ignore: [{', '.join(columns)}] does"
        )

    def _asked(self, given: dict[str, Any]) -> list[Any] | None:
        """The turns of a prompt, which is a list of them as TRL has it, or the JSON text of one; None for a text."""
        prompt = as_objects(given[self.columns.prompt])
        if isinstance(prompt, list):
            return prompt
        return self._listed(self.columns.prompt, prompt)

    def _listed(self, column: str, value: Any) -> list[Any] | None:
        """The turns of which a text is the JSON; None for any other text.

        Raises:
            DataError: they are written as Python writes them, which would be learnt as they stand.
        """
        if isinstance(value, str) and TURNS_OF_PYTHON.match(value):
            self.at.parsed(column, value)
        return turns_in(value)

    def _turns(self, column: str, value: Any) -> tuple[Message, ...]:
        """The turns in a column."""
        turns = self.at.parsed(column, value) if isinstance(value, str) and value.lstrip().startswith("[") else value
        turns = as_objects(turns)
        if not isinstance(turns, list) or not turns:
            kind = "an empty list" if isinstance(turns, list) else type(turns).__name__
            raise self.at.error(f' "{column}": expected a list of turns with role and content, found {kind}')
        return tuple(read_turn(self.at, f"{column}[{number}]", turn, self.ignore) for number, turn in enumerate(turns))

    def _with_completion(self, given: dict[str, Any], asked: list[Any]) -> tuple[Message, ...]:
        """The turns of a prompt, of which none is learnt, and what goes on with them: turns, or the answer as text."""
        names = self.columns
        prompt = self._turns(names.prompt, asked)
        if prompt[-1].role == "assistant":
            raise self.at.error(
                f' "{names.prompt}": ends with a turn of the assistant, after which nobody is asked. Move it to '
                f'"{names.completion}"'
            )
        shown = tuple(replace(turn, learnt=False) if turn.role == "assistant" else turn for turn in prompt)
        value = self._value(given, "completion")
        if value is None:
            return shown
        if isinstance(value, str) and self._listed(names.completion, value) is None:
            text = self.at.filled(names.completion, value, "use null where the teacher is to write it")
            return (*shown, Message("assistant", text))
        said = self._turns(names.completion, value)
        if wrong := next((turn.role for turn in (said[0], said[-1]) if turn.role != "assistant"), None):
            raise self.at.error(
                f' "{names.completion}": expected turns of the assistant first and last, found one of the {wrong}. '
                f'Move what comes before the answer to "{names.prompt}"'
            )
        return (*shown, *said)

    def _conversation(self, given: dict[str, Any], column: str, messages: tuple[Message, ...]) -> Conversation:
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
        # Arrow, and JSON or a table that datasets or pandas wrote of it, give every object every key, with nulls.
        tools = without_nulls(self.at.parsed(column, value))
        if not isinstance(tools, list | None) or not all(isinstance(tool, dict) for tool in tools or []):
            raise self.at.error(f' "{column}": expected a list of objects, as JSON or as its text. Correct it')
        return self.at.json(column, tools) if tools else None

    def _template_kwargs(self, value: Any) -> str | None:
        column = self.columns.chat_template_kwargs
        values = without_nulls(self.at.parsed(column, value))
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
        return self.at.json(column, values) if values else None

    def _completion(self, given: dict[str, Any]) -> Completion:
        names = self.columns
        completion, more = self._value(given, "completion"), self._value(given, "input")
        if isinstance(completion, list):
            raise self.at.error(
                f' "{names.completion}": expected text, found list. Put turns into "{names.messages}", or into '
                f'"{names.prompt}" too'
            )
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


def turns_in(value: Any) -> list[Any] | None:
    """A list of turns, or the one of which a text is the JSON; None for anything else."""
    turns = as_objects(value)
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return None
        try:
            turns = json_value(value)
        except (ValueError, RecursionError):
            return None
    is_turns = isinstance(turns, list) and turns and all(isinstance(each, dict) for each in turns)
    return turns if is_turns and all({"role", "from"} & each.keys() for each in turns) else None
