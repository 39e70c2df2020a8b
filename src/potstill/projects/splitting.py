"""Rows that are tested on, validated with and learnt from, none of which nearly copies one of a part before it."""

from collections.abc import Sequence
from typing import TypeVar

from potstill.data.near_copies import HasText, without_near_copies
from potstill.progress import Progress

JACCARD = 0.8
SHINGLE_WORDS = 5

R = TypeVar("R", bound=HasText)


def disjoint_splits(
    ordered: Sequence[R], *, test: int, validation: int, progress: Progress
) -> tuple[list[R], list[R], list[R]]:
    """The first `test` rows, the next `validation` that copy none of them, and what copies neither of the rest."""
    tests = list(ordered[:test])
    clean = unlike(ordered[test:], tests, progress)
    validations = clean[:validation]
    return tests, validations, unlike(clean[validation:], validations, progress)


def unlike(rows: Sequence[R], held_out: Sequence[HasText], progress: Progress) -> list[R]:
    """The rows that nearly copy none of those that are held out."""
    with progress.task("looking for near-copies", len(rows), "rows") as advance:
        return without_near_copies(rows, held_out, jaccard=JACCARD, shingle_words=SHINGLE_WORDS, advance=advance)
