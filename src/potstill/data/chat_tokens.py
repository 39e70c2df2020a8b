"""Examples as token ids, with the exact mask of the tokens that a model must learn to produce.

An example is put together from what a model is shown and what it must then say, so its mask is known from the start;
nothing is derived from token ids afterwards.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerBase

from potstill.data.chat_template import Chat, Turn
from potstill.data.copies import beginning
from potstill.data.dialogues import Completion, Conversation, Example, PlainText, WrittenResponse
from potstill.data.generated import GeneratedResponse
from potstill.data.on_disk import place_of
from potstill.data.reading import Refusals
from potstill.data.rendering import MOMENTS, Template
from potstill.data.rows import OWN_ID
from potstill.data.special_tokens import SpecialTokens, around, end_token, ids_after, token_ids
from potstill.data.tokens import TokenFile, Tokenised
from potstill.errors import DataError

FIRST_DROPPED = 5
"""How many dropped examples are named."""


@dataclass(frozen=True)
class TokenCounts:
    """What became of the examples on their way into `max_length` tokens."""

    examples: int
    tokens: int
    trained_tokens: int
    rows_cut: int
    """Rows of which something was cut or left out."""
    responses_cut: int
    """Responses cut on the right; the last token of such an example is no end of turn."""
    turns_dropped: int
    """Responses left out, whole, behind those that fit."""
    examples_dropped: int
    """Examples whose prompt leaves no room for a single token of the response."""
    first_dropped: tuple[str, ...]
    rows_only_shown: int = 0
    """Conversations of which no turn is to be learnt."""
    rows_rewritten: int = 0
    """Conversations whose template writes another white space around a response than the data have there."""


@dataclass(frozen=True)
class ChatTokens:
    """Makes token ids of examples, by the rules and the chat template of one tokenizer.

    Strings of special tokens in the data stay text.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which responses of a conversation are learnt."""
    moment: datetime | None = None
    """What the chat template takes for now; None for the time of each rendering."""

    def __post_init__(self) -> None:
        assert self.max_length >= 2, "a token to learn needs one before it"

    def tokenise(self, examples: Iterable[Example]) -> tuple[TokenFile, TokenCounts]:
        """Answered examples as tokens, and the counts of what did not fit.

        A conversation becomes several, named `id#turn`, where the template does not show earlier turns as they were
        written (many drop their reasoning): each then has the prompt that inference would show. A long text becomes
        `id#window`, each reaching one token into the one before it, so that every token is learnt once.

        Raises:
            DataError: rows that the chat template refuses or rewrites, all in one error, or an id that occurs twice.
            ModelError: a tokenizer without a chat template or an end token, where rows need it.
        """
        first_dropped: list[str] = []
        refused = Refusals()
        dropped = 0
        rows_cut = responses_cut = turns_dropped = only_shown = rewritten = 0

        def fitted() -> Iterator[Tokenised]:
            nonlocal dropped, rows_cut, responses_cut, turns_dropped, only_shown, rewritten
            for number, example in enumerate(examples):
                before = (dropped, responses_cut, turns_dropped)
                assert example.labelled, f"{example.id}: there is no response to learn"
                try:
                    parts, as_given = self._parts(example)
                except DataError as error:
                    refused.add(_with_beginning(error, example), place_of(examples, number))
                    continue
                only_shown += not parts
                rewritten += not as_given
                for part, turns in parts:
                    fitting, cut = _fitting(turns, self.max_length)
                    if not fitting:
                        dropped += 1
                        if len(first_dropped) < FIRST_DROPPED:
                            first_dropped.append(example.id + part)
                        continue
                    responses_cut += cut
                    turns_dropped += len(turns) - len(fitting)
                    yield _concatenated(example.id, part, fitting)
                rows_cut += before != (dropped, responses_cut, turns_dropped)

        kept = TokenFile(fitted())
        refused.require_none()
        repeated = kept.first_repeated()
        if repeated is not None:
            raise DataError(f'Duplicate id "{kept.names[repeated]}", after long rows were cut. {OWN_ID}')
        return kept, TokenCounts(
            examples=len(kept),
            tokens=int(kept.lengths.sum()),
            trained_tokens=int(kept.trained_counts.sum()),
            rows_cut=rows_cut,
            responses_cut=responses_cut,
            turns_dropped=turns_dropped,
            examples_dropped=dropped,
            first_dropped=tuple(first_dropped),
            rows_only_shown=only_shown,
            rows_rewritten=rewritten,
        )

    def refusal(self, example: Example) -> DataError | None:
        """Why no tokens can be made of an example, answered or not; None where they can.

        Raises:
            ModelError: as `tokenise`.
        """
        try:
            if example.labelled:
                self._parts(example)
            elif isinstance(example, Conversation | Completion):
                self.prompt_ids(example)
        except DataError as error:
            return _with_beginning(error, example)
        return None

    def prompt_ids(self, example: Conversation | Completion) -> Int32[np.ndarray, "tokens"]:
        """What a model is shown before it writes the last response, whether the example has one or not.

        Raises:
            DataError: a row that the chat template refuses or rewrites.
            ModelError: a tokenizer without a chat template, where the row needs it.
        """
        if isinstance(example, Completion):
            shown = self._text_ids(example.prompt, start=True)
        else:
            shown = self._chat(example).prompt_ids()
        return np.array(shown, dtype=np.int32)

    def end_id(self, example: Conversation | Completion) -> int:
        """The token that ends its responses: what the chat template writes there, or the end of a sequence.

        Raises:
            DataError, ModelError: as `tokenise`.
        """
        if isinstance(example, Completion):
            return self._end
        return self._chat(example).end_id()

    def writes_date(self, examples: Iterable[Example]) -> bool:
        """Whether the chat template writes the date into the prompt of one of these, whatever `moment` is.

        Raises:
            ModelError: as `prompt_ids`.
        """
        if not self._template.reads_clock:
            return False
        then, later = (replace(self, moment=moment) for moment in MOMENTS)

        def differs(chat: Conversation) -> bool:
            try:
                return then._chat(chat).prompt_text() != later._chat(chat).prompt_text()
            except DataError:
                # One that is refused has no date; all of those are named when tokens are made of them.
                return False

        return any(differs(example) for example in examples if isinstance(example, Conversation))

    def _chat(self, conversation: Conversation) -> Chat:
        return Chat(conversation, self._template, self._special_tokens)

    def _parts(self, example: Example) -> tuple[list[tuple[str, list[Turn]]], bool]:
        """What is to be learnt of an example, and whether its responses stand there as they were given."""
        as_given = True
        if isinstance(example, Completion):
            parts = [[self._completion(example)]]
        elif isinstance(example, PlainText):
            parts = [[turn] for turn in self._windows(example)]
        elif isinstance(example, GeneratedResponse):
            parts = [[Turn(example.prompt.tolist(), example.response.tolist())]]
        elif isinstance(example, WrittenResponse):
            parts = [[self._written(example)]]
        else:
            chat = self._chat(example)
            parts = chat.examples(last_only=self.train_on == "last_turn")
            as_given = not chat.rewritten
        if len(parts) == 1:
            return [("", parts[0])], as_given
        return [(f"#{number}", part) for number, part in enumerate(parts)], as_given

    def _completion(self, example: Completion) -> Turn:
        assert example.completion is not None
        shown = self._text_ids(example.prompt, start=True)
        ids = ids_after(shown, self._text_ids(example.prompt + example.completion, start=True))
        return Turn(shown, [*(ids or self._text_ids(example.completion)), self._end])

    def _written(self, example: WrittenResponse) -> Turn:
        """As a model would have written it, token by token after what it is shown."""
        asked = example.asked
        if isinstance(asked, Completion):
            turn = self._completion(replace(asked, completion=example.response))
            return turn if example.ended else replace(turn, response=turn.response[:-1])
        turn = self._chat(asked).written_after(example.response)
        end = [self.end_id(asked)] if example.ended else []
        return Turn(turn.shown, [*turn.response, *end])

    def _windows(self, example: PlainText) -> list[Turn]:
        ids = [*self._text_ids(example.text, start=True), self._end]
        learnt = self.max_length - 1
        return [Turn(ids[i : i + 1], ids[i + 1 : i + 1 + learnt]) for i in range(0, max(1, len(ids) - 1), learnt)]

    def _text_ids(self, text: str, *, start: bool = False) -> list[int]:
        return (self._start if start else []) + token_ids(self.tokenizer, text, split_special_tokens=True)

    @cached_property
    def _template(self) -> Template:
        return Template(self.tokenizer, self.moment)

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        return SpecialTokens.of(self._template)

    @cached_property
    def _start(self) -> list[int]:
        """What the tokenizer itself puts before a text: a beginning-of-sequence token, or nothing."""
        return around(self.tokenizer)[0]

    @property
    def _end(self) -> int:
        return end_token(self.tokenizer)


def marked_text(tokenised: Tokenised, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The example as text, in pieces of which every token is learnt (true) or none is."""
    ends = [*(np.flatnonzero(np.diff(tokenised.trained)) + 1).tolist(), len(tokenised.ids)]
    pieces: list[tuple[str, bool]] = []
    before = ""
    for end in ends:
        # Decoded from the start each time: many tokenizers write the first word of a text in another way.
        text = tokenizer.decode(tokenised.ids[:end].tolist(), clean_up_tokenization_spaces=False)
        pieces.append((text[len(before) :], bool(tokenised.trained[end - 1])))
        before = text
    return pieces


def _with_beginning(error: DataError, example: Example) -> DataError:
    """The error of a row with how the row begins, for the id of many is a hash."""
    return DataError(f"{error} It begins: {beginning(example.own_text)!r}.")


def _fitting(turns: list[Turn], room: int) -> tuple[list[Turn], bool]:
    """The leading turns that fit into `room` tokens, and whether the first had to be cut for it."""
    fitting: list[Turn] = []
    left = room
    for turn in turns:
        left -= len(turn.shown) + len(turn.response)
        if left < 0 or not turn.response:
            break
        fitting.append(turn)
    if fitting:
        return fitting, False
    first = turns[0]
    response = first.response[: max(0, room - len(first.shown))]
    return ([Turn(first.shown, response)] if response else []), True


def _concatenated(row_id: str, part: str, turns: list[Turn]) -> Tokenised:
    pieces = [(piece, learnt) for turn in turns for piece, learnt in ((turn.shown, False), (turn.response, True))]
    ids = np.array([token for piece, _ in pieces for token in piece], dtype=np.int32)
    trained = np.repeat([learnt for _, learnt in pieces], [len(piece) for piece, _ in pieces])
    trained[0] = False
    return Tokenised(row_id + part, ids, trained, part)
