"""A conversation in the words of a chat template: for each response, what inference shows before it, and what to say.

Nothing is searched for in a rendered conversation. A template is asked for the prompt before a response, and, with a
placeholder for the response, for what it writes after one.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from potstill.data.dialogues import Conversation, Message
from potstill.errors import DataError, ModelError

_EMPTY_REASONING = re.compile(r"<think>\s*</think>\s*")


@dataclass(frozen=True)
class Turn:
    """Token ids of what a model is shown, as far as it is new, and of what it must then say."""

    shown: list[int]
    response: list[int]


@dataclass(frozen=True)
class SpecialTokens:
    strings: re.Pattern[str]
    ids: frozenset[int]
    whole: re.Pattern[str]
    """Also the other tokens that the tokenizer keeps whole in any text: one of them can end a turn."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialTokens":
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        whole = special | {token.content for token in added if token.content.strip()}
        ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(special)))
        return cls(_any_of(special), ids, _any_of(whole))


class Chat:
    """One conversation and the template of a tokenizer.

    Where contents hold strings of special tokens, the template is given placeholders for these, and `ids` reads each
    placeholder as the text that it stands for: special tokens come from the template alone.
    """

    def __init__(
        self, conversation: Conversation, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f'row "{conversation.id}" has messages, but the tokenizer has no chat template. Take the tokenizer of '
                "an instruction-tuned model, or give rows with prompt and completion."
            )
        self._row = conversation.id
        self._tokenizer = tokenizer
        self._special = special_tokens
        self._plain = conversation.messages
        # No content holds its own hash, so these strings occur nowhere else.
        digest = hashlib.sha256(repr(conversation.messages).encode()).hexdigest()[:32]
        self._content, self._reasoning = f"{digest}content", f"{digest}reasoning"
        strings = sorted(set(special_tokens.strings.findall(conversation.text)))
        self._texts = {f"{digest}text{number:04}": string for number, string in enumerate(strings)}
        self._placeholders = _any_of(self._texts)
        names = {string: name for name, string in self._texts.items()}

        def guarded(text: str) -> str:
            return special_tokens.strings.sub(lambda match: names[match.group()], text)

        self._messages = tuple(
            Message(message.role, guarded(message.content), message.reasoning and guarded(message.reasoning))
            for message in conversation.messages
        )

    def examples(self, *, last_only: bool) -> list[list[Turn]]:
        """The conversation as one example, or as more where the template does not repeat what was said.

        Raises:
            DataError: a conversation that the template refuses or rewrites.
            ModelError: a template that rewrites every response, or writes no end-of-turn token.
        """
        answers = [number for number, message in enumerate(self._messages) if message.role == "assistant"]
        examples: list[list[Turn]] = []
        before: str | None = None
        end = ""
        for number in answers[-1:] if last_only else answers:
            prompt = self._prompt(number)
            goes_on = before is not None and prompt.startswith(before)
            # The end of the last turn stands before the new part, for it can take in the white space behind it.
            new = end + prompt[len(before) :] if before is not None and goes_on else prompt
            response, end = self._response(number, prompt)
            shown = self._ids(new)
            said = ids_after(shown, self._ids(new + response))
            if goes_on:
                examples[-1].append(Turn(shown[1:], said or self._ids(response)))
            else:
                examples.append([Turn(shown, said or self._ids(response))])
            # Where the response melts into the prompt, a later prompt would not have the tokens that were learnt.
            before = prompt + response if said else None
        return examples

    def prompt_ids(self) -> list[int]:
        """What a model is shown before it writes the last response.

        Raises:
            DataError: a conversation that the template refuses or rewrites.
        """
        turns = len(self._messages)
        return self._ids(self._prompt(turns - 1 if self._messages[-1].role == "assistant" else turns))

    def end_id(self) -> int:
        """The token that ends a response.

        Raises:
            DataError, ModelError: as `examples`.
        """
        turns = len(self._messages) - (self._messages[-1].role == "assistant")
        _, end = self._around(turns, Message("assistant", self._content))
        return int(self._tokenizer.convert_tokens_to_ids(end.group()))

    def _prompt(self, turns: int) -> str:
        """What inference shows after the first `turns` messages."""
        shown = self._rendered(self._messages[:turns], add_generation_prompt=True)
        if self._texts:
            plain = self._rendered(self._plain[:turns], add_generation_prompt=True)
            if self._placeholders.sub(lambda match: self._texts[match.group()], shown) != plain:
                strings = ", ".join(map(repr, self._texts.values()))
                raise DataError(
                    f'row "{self._row}": the chat template rewrites a content that holds {strings}, which it must '
                    "not, for the string to stay text. Drop the string or the row."
                )
        return shown

    def _response(self, number: int, prompt: str) -> tuple[str, str]:
        """What the assistant must say as message `number`, up to its end-of-turn token, and that token."""
        message = self._messages[number]
        lead, end = self._around(number, Message("assistant", self._content, message.reasoning and self._reasoning))
        # What the template itself writes between prompt and content is the model's to say, but for an empty
        # reasoning block, which later prompts do not show.
        lead = lead[len(prompt) :] if lead.startswith(prompt) else ""
        if message.reasoning is None:
            lead = _EMPTY_REASONING.sub("", lead)
        elif self._reasoning in lead:
            lead = lead.replace(self._reasoning, message.reasoning)
        else:
            lead = f"<think>\n{message.reasoning}\n</think>\n\n"
        response = lead + message.content + end.string[: end.end()]
        for opening in ("<think>\n", "<think>"):
            if prompt.endswith(opening) and response.startswith(opening):
                return response.removeprefix(opening), end.group()
        return response, end.group()

    def _around(self, turns: int, response: Message) -> tuple[str, re.Match[str]]:
        """What the template writes before the content of a response, and its end-of-turn token in what follows."""
        shown = self._rendered((*self._messages[:turns], response), add_generation_prompt=False)
        if shown.count(self._content) != 1:
            raise ModelError(
                f'row "{self._row}": the chat template does not write a response once and as it is, so nobody can say '
                "what a student should learn of it. Use another template."
            )
        lead, _, rest = shown.partition(self._content)
        end = self._special.whole.search(rest)
        if not end:
            raise ModelError(
                f'row "{self._row}": the chat template writes no special token after a response, so a student could '
                "not learn to stop. Use a template that ends each turn with one."
            )
        return lead, end

    def _ids(self, text: str) -> list[int]:
        """Token ids of a rendered text; what stands for a string of a special token is read as text."""
        if not self._texts:
            return token_ids(self._tokenizer, text, split_special_tokens=False)
        ids: list[int] = []
        for piece in re.split(f"({self._placeholders.pattern})", text):
            string = self._texts.get(piece)
            encoded = token_ids(self._tokenizer, string or piece, split_special_tokens=string is not None)
            if string is not None and not self._special.ids.isdisjoint(encoded):
                raise DataError(f'row "{self._row}": the tokenizer cannot write {string!r} as text. Drop the string.')
            ids.extend(encoded)
        return ids

    def _rendered(self, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> str:
        turns = [
            {"role": message.role, "content": message.content}
            | ({} if message.reasoning is None else {"reasoning_content": message.reasoning})
            for message in messages
        ]
        try:
            return str(
                self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
            )
        except TemplateError as error:
            raise DataError(
                f'row "{self._row}": the chat template refuses the conversation: {error}. Change its turns, or drop it.'
            ) from error


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, split_special_tokens: bool) -> list[int]:
    """Token ids of a text alone, with nothing put before or after it."""
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
    ).input_ids
    return ids


def ids_after(shown: list[int], whole: list[int]) -> list[int]:
    """What follows `shown` in `whole`; nothing where `whole` does not begin with it."""
    return whole[len(shown) :] if whole[: len(shown)] == shown else []


def _any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the strings, the longest first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or "(?!)")
