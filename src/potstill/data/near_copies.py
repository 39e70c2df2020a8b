"""Normalised text and near-copies by shingle overlap, so that no test text is learnt by heart.

Near-copies are found exactly, not by hashing signatures: two sets with Jaccard similarity of at least t share
one of the rarest (1 - t) of their members, so only rows that share a rare shingle are compared (prefix
filtering: Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar, runtime_checkable

from potstill.progress import Advance, unseen

_WORD = re.compile(r"\w+")
_ROUNDING = 1e-9  # 0.56 * 25 is a little more than 14: a share that is just reached counts


def normalised(text: str) -> str:
    """Lower case, words alone, single spaces: texts that are equal so are the same text."""
    return " ".join(_WORD.findall(text.lower()))


def shingles(text: str, size: int) -> set[int]:
    """Hashes of all runs of `size` words; of the whole text where it is shorter."""
    words = _WORD.findall(text.lower())
    runs = range(max(1, len(words) - size + 1))
    # Not hash(), whose values differ from process to process.
    return {int.from_bytes(blake2b(" ".join(words[i : i + size]).encode(), digest_size=8).digest()) for i in runs}


@runtime_checkable
class HasText(Protocol):
    @property
    def text(self) -> str: ...


R = TypeVar("R", bound=HasText)


def without_near_copies(
    rows: Sequence[R],
    held_out: Sequence[HasText],
    *,
    jaccard: float,
    shingle_words: int,
    advance: Advance = unseen,
) -> list[R]:
    """The rows whose text is no near-copy of a held-out one. `advance` counts `rows`."""
    copies = near_copies(
        (row.text for row in rows),
        (row.text for row in held_out),
        jaccard=jaccard,
        shingle_words=shingle_words,
        advance=advance,
    )
    return [row for number, row in enumerate(rows) if number not in copies]


def near_copies(
    texts: Iterable[str],
    held_out: Iterable[str],
    *,
    jaccard: float,
    shingle_words: int,
    advance: Advance = unseen,
) -> dict[int, int]:
    """For each text that is a near-copy of a held-out one: its index and that of the held-out text.

    A near-copy shares at least `jaccard` of the union of both texts' shingles. `advance` counts `texts`.
    """
    targets = [shingles(text, shingle_words) for text in held_out]
    frequency: Counter[int] = Counter()
    for target in targets:
        frequency.update(target)

    def rarest(members: set[int]) -> list[int]:
        needed = len(members) - math.ceil(jaccard * len(members) - _ROUNDING) + 1
        return sorted(members, key=lambda shingle: (frequency[shingle], shingle))[:needed]

    index: dict[int, list[int]] = defaultdict(list)
    for number, target in enumerate(targets):
        for shingle in rarest(target):
            index[shingle].append(number)

    found: dict[int, int] = {}
    for number, text in enumerate(texts):
        advance()
        source = shingles(text, shingle_words)
        candidates = sorted({target for shingle in rarest(source) for target in index.get(shingle, ())})
        for candidate in candidates:
            target = targets[candidate]
            # The sizes alone already bound the similarity.
            if min(len(source), len(target)) < jaccard * max(len(source), len(target)) - _ROUNDING:
                continue
            common = len(source & target)
            if common >= jaccard * (len(source) + len(target) - common) - _ROUNDING:
                found[number] = candidate
                break
    return found
