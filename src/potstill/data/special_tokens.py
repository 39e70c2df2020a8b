"""Token ids of texts, and the strings that must stay text in what the data give to a chat template."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from potstill.data.rendering import Template

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


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, split_special_tokens: bool) -> list[int]:
    """Token ids of a text alone, with nothing put before or after it."""
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
    ).input_ids
    return ids


def ids_after(shown: list[int], whole: list[int]) -> list[int]:
    """What follows `shown` in `whole`; nothing where `whole` does not begin with it."""
    return whole[len(shown) :] if whole[: len(shown)] == shown else []


def any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Matches each of the strings, the longest first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or "(?!)")
