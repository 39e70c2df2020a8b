"""Queries of a set length, made of rows: each begins with another row, goes on with those after it until it is long
enough, and is cut.

No token is repeated to make them, for then neither tokenizers nor embeddings would be asked what they are in use.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from operator import add
from typing import Any, TypeVar

from potstill.errors import DataError

Tokens = Callable[[Any, int], int]
"""How many tokens a model reads of a query, with those that stand around it; of more than so many, one more."""
Part = TypeVar("Part", str, list[str], list[int])


def texts_of_length(texts: Sequence[str], length: int, tokens: Tokens) -> list[str]:
    """For each text the most of it, and of those after it, that is read as `length` tokens at most.

    Raises:
        DataError: all texts together are too few tokens.
    """
    return [_text_of_length(each, length, tokens) for each in _turns(texts)]


def pairs_of_length(pairs: Sequence[Sequence[str]], length: int, tokens: Tokens) -> list[list[str]]:
    """The same of pairs of texts, of which the first has half of the tokens.

    Raises:
        DataError: all pairs together are too few tokens.
    """
    found = []
    for each in _turns(pairs):
        first = _text_of_length([first for first, _ in each], length // 2, tokens)

        def beside(second: str, most: int, first: str = first) -> int:
            return tokens([first, second], most)

        found.append([first, _text_of_length([second for _, second in each], length, beside)])
    return found


def documents_of_length(documents: Sequence[Sequence[str]], length: int, tokens: Tokens) -> list[list[str]]:
    """The same of documents, word by word; the last word may be cut.

    Raises:
        DataError: all documents together are too few tokens.
    """
    found = []
    for each in _turns([list(words) for words in documents]):
        words = _joined(each, length, lambda words: tokens(words, length) >= length, add)
        whole = _longest(words, lambda part: tokens(part, length) <= length)
        if len(whole) < len(words):
            begun = _begun(words[len(whole)], whole, length, tokens)
            whole = [*whole, begun] if begun else whole
        found.append(whole)
    return found


def prompts_of_length(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """The first `length` token ids of each prompt and of those after it.

    Raises:
        DataError: they have none.
    """
    ids = [list(each) for each in prompts]
    return [_joined(each, length, lambda joined: len(joined) >= length, add)[:length] for each in _turns(ids)]


def _turns(parts: Sequence[Any]) -> Iterator[list[Any]]:
    """All of them, from each on."""
    for start in range(len(parts)):
        yield [*parts[start:], *parts[:start]]


def _text_of_length(texts: Sequence[str], length: int, tokens: Tokens) -> str:
    text = _joined(texts, length, lambda text: tokens(text, length) >= length, lambda one, other: f"{one} {other}")
    return _longest(text, lambda part: tokens(part, length) <= length)


def _begun(word: str, before: list[str], length: int, tokens: Tokens) -> str:
    """As much of a word as there is room for after others."""
    return _longest(word, lambda part: tokens([*before, part], length) <= length)


def _joined(
    parts: Sequence[Part], length: int, enough: Callable[[Part], bool], join: Callable[[Part, Part], Part]
) -> Part:
    """The first of them, with those after it until they are enough, all over again where they are few."""
    joined = parts[0]
    # Each adds at least one token, unless it has none.
    for part in islice(cycle(parts), 1, 2 + length * len(parts)):
        if enough(joined):
            return joined
        joined = join(joined, part)
    raise DataError(
        f"data.test: no query of {length} tokens can be made of rows that have none. Drop evaluate.lengths."
    )


def _longest(whole: Part, fits: Callable[[Part], bool]) -> Part:
    """The beginning that fits, where one element more would not."""
    if fits(whole):
        return whole
    low, high = 0, len(whole)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(whole[:middle]) else (low, middle)
    return whole[:low]
