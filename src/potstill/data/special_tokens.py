"""Token ids of texts, and the strings that must stay text in what the data give to a chat template."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from transformers import PreTrainedTokenizerBase

from potstill.data.rendering import Template
from potstill.errors import ModelError

_OF_REASONING = frozenset({"<think>", "</think>"})
"""Templates write them around turns, and responses hold them as tokens."""


@dataclass(frozen=True)
class SpecialTokens:
    strings: re.Pattern[str]
    """Those that a content may hold as text alone."""
    ids: frozenset[int]
    whole: re.Pattern[str]
    """Also the other tokens that the tokenizer keeps whole in any text: one of them can end a turn."""

    @classmethod
    def of(cls, template: Template) -> "SpecialTokens":
        tokenizer = template.tokenizer
        added = tokenizer.added_tokens_decoder.values()
        whole = {token.content for token in added if token.content.strip()} | set(tokenizer.all_special_tokens)
        guarded = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        # Many tokenizers have the tokens of turns among those that are added and not special. A word may be one too.
        frame = template.frame
        guarded |= {token for token in whole - _OF_REASONING if token in frame and not token.isalnum()}
        ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(guarded)))
        return cls(any_of(guarded), ids, any_of(whole))

    def as_text(self, tokenizer: PreTrainedTokenizerBase, string: str) -> list[int] | None:
        """Token ids of one of the strings without its token; None where the tokenizer has no others."""
        ids = token_ids(tokenizer, string, split_special_tokens=True)
        if not self.ids.isdisjoint(ids):
            # The setting is for special tokens alone; of another the tokenizer must not see the whole.
            ids = [
                *token_ids(tokenizer, string[:1], split_special_tokens=True),
                *token_ids(tokenizer, string[1:], split_special_tokens=True),
            ]
        return ids if self.ids.isdisjoint(ids) else None


def token_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, *, split_special_tokens: bool, target: bool = False
) -> list[int]:
    """Token ids of a text alone, with nothing put before or after it; of a target, as the tokenizer reads targets."""
    ids: list[int] = tokenizer(
        **_given(text, target=target),
        add_special_tokens=False,
        split_special_tokens=split_special_tokens,
        verbose=False,
    ).input_ids
    return ids


def _given(text: str, *, target: bool) -> dict[str, str]:
    return {"text_target" if target else "text": text}


def around(tokenizer: PreTrainedTokenizerBase, *, target: bool = False) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    text = _given("a", target=target)
    bare, full = (list(tokenizer(**text, add_special_tokens=special).input_ids) for special in (False, True))
    place = next(place for place in range(len(full)) if full[place : place + len(bare)] == bare)
    return full[:place], full[place + len(bare) :]


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends what a model writes.

    Raises:
        ModelError: the tokenizer has none.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so a student could not learn to stop. "
            "Set eos_token in its tokenizer_config.json."
        )
    return int(end)


@dataclass(frozen=True)
class TextIds:
    """Token ids of texts in which no string is a special token, put together here and not by a tokenizer's own
    truncation: so what is cut is known, whatever the tokenizer runs in."""

    tokenizer: PreTrainedTokenizerBase
    target: bool = False
    """Whether they are targets, which some tokenizers cut by other rules than sources: Marian's has two models."""

    def alone(self, text: str) -> list[int]:
        """A text alone. Where the tokenizer reads the string of a special token as that token, it is spelled out.

        Unigram models do, though asked not to: their special tokens are words of theirs, and likely ones. So do many
        tokenizers that run in Python.
        """
        ids = self._ids(text)
        if self._structural.isdisjoint(ids):
            return ids
        return [
            spelled for token in ids for spelled in (self._spelled(token) if token in self._structural else [token])
        ]

    def within(self, text: str, most: int, *, side: Literal["left", "right"] = "right") -> tuple[list[int], bool]:
        """A text in at most so many tokens, and whether it was cut at `side`; what is put around it stays."""
        before, after = self.around
        ids = self.alone(text)
        room = max(0, most - len(before) - len(after))
        shown = ids[:room] if side == "right" else ids[max(0, len(ids) - room) :]
        return [*before, *shown, *after], len(ids) > room

    def pair_within(
        self, texts: Sequence[str], most: int, *, side: Literal["left", "right"] = "right"
    ) -> tuple[list[int], list[int], bool]:
        """Two texts in at most so many tokens, the type of each token, and whether one was cut: always the longer one,
        so that a short second text stays whole beside a long first one."""
        first, second = map(self.alone, texts)
        room = max(0, most - len(self.tokenizer.build_inputs_with_special_tokens([], [])))
        over = max(0, len(first) + len(second) - room)
        for _ in range(over):
            longer = first if len(first) > len(second) else second
            del longer[-1 if side == "right" else 0]
        ids = self.tokenizer.build_inputs_with_special_tokens(first, second)
        return ids, self.tokenizer.create_token_type_ids_from_sequences(first, second), over > 0

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        return around(self.tokenizer, target=self.target)

    def _ids(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text, split_special_tokens=True, target=self.target)

    @cached_property
    def _structural(self) -> frozenset[int]:
        """Special tokens but for the one of words that are not known, which means nothing else."""
        tokenizer = self.tokenizer
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset((added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id})

    def _spelled(self, token: int) -> list[int]:
        characters = str(self.tokenizer.convert_ids_to_tokens(token))
        ids = [each for one in characters for each in self._ids(one)]
        return [each for each in ids if each not in self._structural]


def ids_after(shown: list[int], whole: list[int]) -> list[int]:
    """What follows `shown` in `whole`; nothing where `whole` does not begin with it."""
    return whole[len(shown) :] if whole[: len(shown)] == shown else []


def any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the strings, the longest first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or "(?!)")
