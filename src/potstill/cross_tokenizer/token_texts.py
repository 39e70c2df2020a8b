"""What the tokens of a tokenizer are as bytes, and how a tokenizer spells bytes.

Tokens are compared by their bytes and never by their strings: one tokenizer writes a space as `Ġ`, another as `▁`, and
a character outside of ASCII may be several tokens, none of which is text by itself.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from potstill.errors import ModelError

SPACE = "▁"
"""What SentencePiece writes for a space."""
SPELLED = 200_000
"""Spellings that are remembered; a text of a token is looked up many times."""


@dataclass(frozen=True, eq=False)
class TokenTexts:
    """The bytes of each token id of a tokenizer."""

    texts: Sequence[bytes | None]
    """None of a special token, which stands for no text, and of an id without a token."""
    names: dict[int, str]
    """The special tokens."""
    pieces: dict[bytes, dict[str, int]]
    """The tokens that stand for these bytes, by how the tokenizer writes them: SentencePiece has a space twice."""
    _core: Tokenizer
    _of_bytes: bool
    """Whether pieces are written in the alphabet of byte-level BPE."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, rows: int, where: str) -> "TokenTexts":
        """Those of a model whose matrix of embeddings has so many rows.

        Raises:
            ModelError: a tokenizer of which is not known here what its pieces are as bytes.
        """
        core = getattr(tokenizer, "backend_tokenizer", None)
        if core is None:
            raise _unknown(where, "runs in Python, so how it spells a text cannot be looked up")
        rules: dict[str, Any] = json.loads(core.to_str())
        kind = rules["model"].get("type", "BPE")
        decoders = set(_steps(rules.get("decoder")))
        of_bytes = "ByteLevel" in decoders
        if kind not in {"BPE", "Unigram"} or not (of_bytes or decoders & {"Metaspace", SPACE}):
            raise _unknown(where, f"is of the type {kind}, whose pieces do not say which bytes they stand for")
        texts: list[bytes | None] = [None] * rows
        for piece, number in tokenizer.get_vocab().items():
            if number < rows:
                texts[number] = _bytes_of(piece, of_bytes=of_bytes)
        names: dict[int, str] = {}
        for number, added in tokenizer.added_tokens_decoder.items():
            if number < rows:
                texts[number] = None if added.special else added.content.encode()
                if added.special:
                    names[number] = added.content
        for number in set(tokenizer.all_special_ids) - names.keys():
            if number < rows:
                texts[number], names[number] = None, str(tokenizer.convert_ids_to_tokens(number))
        pieces: dict[bytes, dict[str, int]] = {}
        for piece, number in tokenizer.get_vocab().items():
            if number < rows and (text := texts[number]):
                pieces.setdefault(text, {})[piece] = number
        return cls(texts, names, pieces, core, of_bytes)

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def spelled(self) -> "SpelledTexts":
        """The tokens that stand for text, in the order of their bytes."""
        return SpelledTexts([(text, number) for number, text in enumerate(self.texts) if text])

    @cached_property
    def spell(self) -> Any:
        """`spell(text)` gives the tokens that the tokenizer makes of bytes within a text; () where it has none."""
        return lru_cache(SPELLED)(self._spell)

    def _spell(self, text: bytes) -> tuple[int, ...]:
        if text in self._added:
            # They are found in a text before the model cuts it.
            return (self._added[text],)
        try:
            piece = _AS_CHARACTERS(text) if self._of_bytes else text.decode().replace(" ", SPACE)
        except UnicodeDecodeError:
            return self._longest_first(text)
        ids = tuple(token.id for token in self._core.model.tokenize(piece))
        if b"".join(self._text(number) for number in ids) != text:
            return self._longest_first(text)
        return ids

    def _text(self, number: int) -> bytes:
        return (self.texts[number] if number < len(self.texts) else None) or b""

    @cached_property
    def _added(self) -> dict[bytes, int]:
        """The added tokens that stand for text, such as `<think>` of some models."""
        added = self._core.get_added_tokens_decoder()
        return {text: number for text, number in self.spelled.entries if number in added}

    def _longest_first(self, text: bytes) -> tuple[int, ...]:
        """The longest tokens that fit, from left to right: for what is no text by itself."""
        found: list[int] = []
        while text:
            longest = self.spelled.longest_prefix(text)
            if longest is None:
                return ()
            found.append(longest)
            text = text[len(self._text(longest)) :]
        return tuple(found)


class SpelledTexts:
    """Bytes with the numbers of the tokens that stand for them, sorted, so that those with a beginning are together."""

    def __init__(self, entries: Sequence[tuple[bytes, int]]) -> None:
        self.entries = sorted(entries)
        self._texts = [text for text, _ in self.entries]
        self._most = max(map(len, self._texts), default=0)

    def exactly(self, text: bytes) -> tuple[int, ...]:
        return tuple(number for found, number in self.beginning_with(text) if found == text)

    def beginning_with(self, text: bytes) -> list[tuple[bytes, int]]:
        """All whose bytes begin with these, these themselves among them."""
        first = bisect_left(self._texts, text)
        after = _next_after(text)
        return self.entries[first : len(self.entries) if after is None else bisect_left(self._texts, after)]

    def longest_prefix(self, text: bytes) -> int | None:
        """The longest token with which the text begins."""
        for length in range(min(self._most, len(text)), 0, -1):
            if found := self.exactly(text[:length]):
                return found[0]
        return None


def _next_after(text: bytes) -> bytes | None:
    """The first bytes behind all that begin with these."""
    kept = text.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None


def _steps(decoder: dict[str, Any] | None) -> Iterator[str]:
    """The types of all steps of a decoder, and the space of SentencePiece where a step replaces it."""
    if decoder is None:
        return
    yield decoder["type"]
    if decoder["type"] == "Replace" and decoder["pattern"].get("String") == SPACE:
        yield SPACE
    for step in decoder.get("decoders", ()):
        yield from _steps(step)


def _characters() -> Any:
    table = bytes_to_unicode()
    return lambda text: "".join(table[byte] for byte in text)


_AS_CHARACTERS = _characters()
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


def _bytes_of(piece: str, *, of_bytes: bool) -> bytes | None:
    if of_bytes:
        return bytes(_BYTE_OF[each] for each in piece) if all(each in _BYTE_OF for each in piece) else None
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()


def _unknown(where: str, why: str) -> ModelError:
    return ModelError(
        f"{where}: its tokenizer {why}, so distributions over its tokens cannot be told over other ones. Take a "
        "student with the teacher's tokens, or models whose tokenizers are byte-level BPE or SentencePiece."
    )
