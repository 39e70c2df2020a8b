"""The prompts of conversations and completions: what a chat or code model is shown before each response."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Literal

from transformers import PreTrainedTokenizerBase

from potstill.data.chat_tokens import ChatTokens
from potstill.data.dialogues import Completion, Conversation, Example, PlainText
from potstill.data.special_tokens import token_ids
from potstill.data.tokens import Prompt
from potstill.data.turns import Message


class ChatPrompts:
    """Prompts by the chat template of a tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        train_on: Literal["all_turns", "last_turn"],
        moment: datetime | None = None,
    ) -> None:
        self._tokens = ChatTokens(tokenizer, max_length, train_on, moment)
        self._ends: dict[type, int] = {}

    def asks(self, row: Example) -> bool:
        return not isinstance(row, PlainText)

    def of(self, row: Conversation | Completion, *, every: bool) -> Iterator[tuple[str, Prompt]]:
        for name, shown in self.asked(row, every=every):
            yield name, self._tokens.prompt_ids(shown)

    def asked(self, row: Conversation | Completion, *, every: bool) -> Iterator[tuple[str, Conversation | Completion]]:
        """The same as rows without a response."""
        yield from _parts(row, every=every and self._tokens.train_on == "all_turns")

    def last(self, row: Conversation | Completion) -> Prompt:
        return self._tokens.prompt_ids(row)

    def room(self, prompt: Prompt) -> int:
        return self._tokens.max_length - len(prompt) if len(prompt) else 0

    def end_of(self, row: Conversation | Completion) -> int:
        # The same for all rows of a kind, and asking the template costs a rendering.
        if type(row) not in self._ends:
            self._ends[type(row)] = self._tokens.end_id(row)
        return self._ends[type(row)]

    def shown(self, row: Conversation | Completion) -> tuple[str, str]:
        if isinstance(row, Completion):
            return row.prompt, row.completion or ""
        *before, last = row.messages
        return before[-1].said, last.said

    def reference(self, row: Conversation | Completion) -> list[int]:
        return token_ids(self._tokens.tokenizer, self.shown(row)[1], split_special_tokens=True)


def _parts(row: Conversation | Completion, *, every: bool) -> Iterator[tuple[str, Conversation | Completion]]:
    """For each response that is to be written its name, and what goes before it; for none that is only shown."""
    if isinstance(row, Completion):
        yield row.id, row
        return
    messages = row.messages
    asked = [turns for turns in range(1, len(messages) + 1) if _answers(messages, turns)]
    chosen = [turns for turns in (asked if every else asked[-1:]) if turns == len(messages) or messages[turns].learnt]
    for number, turns in enumerate(chosen):
        name = row.id if len(chosen) == 1 else f"{row.id}#{number}"
        yield name, replace(row, messages=messages[:turns])


def _answers(messages: tuple[Message, ...], turns: int) -> bool:
    """Whether the assistant is to speak after so many turns."""
    goes_on = turns == len(messages) or messages[turns].role == "assistant"
    return goes_on and messages[turns - 1].role != "assistant"
