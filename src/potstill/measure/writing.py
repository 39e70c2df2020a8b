"""What a language model writes, counted: how much of it repeats, and how much is unlike."""

from collections.abc import Hashable, Iterable, Sequence

REPEATED = 4
"""Tokens that are compared with those before: the n of seq-rep-4."""
VARIED = 2
"""The n of distinct-2."""


def repeated_share(tokens: Sequence[Hashable], n: int = REPEATED) -> float:
    """Share of the n-grams of a text that occurred in it before, from 0 to 1 (seq-rep-n; Welleck et al. 2020,
    arXiv:1908.04319). A text of fewer than n tokens has none, and so none that repeats: 0."""
    found = ngrams(tokens, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct_share(texts: Iterable[Sequence[Hashable]], n: int = VARIED) -> float:
    """Different n-grams of all texts together / all their n-grams (distinct-n; Li et al. 2016, arXiv:1510.03055).

    0 where they have none: who writes nothing has no variety. It falls as texts become more and longer, so it compares
    models on the same prompts alone.
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n tokens, in their order."""
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
