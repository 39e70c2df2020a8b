"""What is learnt of a row in the tokens of one tokenizer, as bytes, and which of it faces which of another one's.

White space before a run is the template's, and may differ. A special token has no bytes: it ends a segment of a run,
and faces the one with its role that ends the other's. What a template or a tokenizer writes otherwise
than the other's is left out, and both go on where they are alike again.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt

from potstill.cross_tokenizer.token_texts import TokenTexts
from potstill.cross_tokenizer.vocabularies import Ids
from potstill.data.tokens import Tokenised

UNLIKE = b"\xfe", b"\xff"
"""What special tokens without a role are written as, the teacher's and the student's: bytes of no text, and two."""
WORD = re.compile(rb"\s*[^\s\xfe\xff]+|\s+|[\xfe\xff]")
"""By which texts are compared that are not the same."""
NEAR = 32
"""Words of both within which they are mostly alike again; what is longer is searched for in all that is left."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens that are learnt, with the special token that ends them, if one does."""

    ids: Ids
    numbers: Ids
    """Of each token among the learnt ones of its row, the special one's last."""
    starts: Ids
    ends: Ids
    text: bytes
    ended_by: int | None = None
    before: bytes = b""
    """What is written before its text; a token that begins there and goes on in the text has a start below zero."""

    @property
    def lead(self) -> int:
        """Bytes of white space before all else."""
        return len(self.text) - len(self.text.lstrip())

    def after(self, offset: int) -> "Segment":
        """The same, counted from this offset; tokens that end before it have no bytes then."""
        starts, ends = np.where(self.ends > offset, self.starts - offset, 0), np.maximum(self.ends - offset, 0)
        before, text = self.before + self.text[:offset], self.text[offset:]
        return Segment(self.ids, self.numbers, starts, ends, text, self.ended_by, before)


Run = list[Segment]


def runs(
    examples: Sequence[Tokenised], texts: TokenTexts, roles: frozenset[int], unlike: bytes, *, joined: bool
) -> Iterator[Run]:
    """The runs of the examples of a row; of windows of one text a single one, which begins behind what is shown.

    A special token of none of these roles ends no segment, and is written as `unlike`.
    """

    def piece(number: int) -> bytes | None:
        return unlike if texts.texts[number] is None and number not in roles else texts.texts[number]

    if joined:
        shown = b"".join(texts.texts[number] or b"" for number in examples[0].ids[~examples[0].trained].tolist())
        yield _run(np.concatenate([each.ids[each.trained] for each in examples]), 0, shown, piece)
        return
    learnt = 0
    for example in examples:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], example.trained, [False]]).astype(np.int8)))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield _run(example.ids[start:end], learnt, b"", piece)
            learnt += end - start


def _run(ids: npt.NDArray[np.int32], number: int, shown: bytes, bytes_of: Callable[[int], bytes | None]) -> Run:
    pieces = [bytes_of(each) for each in ids.tolist()]
    found: Run = []
    start = 0
    for end in [*(place for place, piece in enumerate(pieces) if piece is None), len(pieces)]:
        if start == end == len(pieces) and found:
            break
        here = [piece or b"" for piece in pieces[start:end]]
        ends = len(shown) + np.cumsum([len(piece) for piece in here], dtype=np.int64)
        starts = np.concatenate([[len(shown)], ends]).astype(np.int64)[: len(ends)]
        ended_by = int(ids[end]) if end < len(pieces) else None
        numbers = number + np.arange(start, end + (ended_by is not None))
        found.append(Segment(ids[start:end].astype(np.int64), numbers, starts, ends, shown + b"".join(here), ended_by))
        shown, start = b"", end + 1
    return found


def facing(theirs: Sequence[Run], own: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """The runs that are of one text. Where one side has fewer, since its rows are longer in its tokens, by the text."""
    if len(theirs) == len(own):
        yield from zip(theirs, own, strict=True)
        return
    left = list(theirs)
    for run in own:
        for number, other in enumerate(left):
            if _one_text(other[0], run[0]):
                yield other, run
                # Later runs face later ones.
                del left[: number + 1]
                break


def _one_text(theirs: Segment, own: Segment) -> bool:
    """Whether two segments have one text, or one of them was cut: then no special token ends it."""
    shorter, longer = sorted((theirs, own), key=lambda segment: len(segment.text.strip()))
    if shorter.text.strip() == longer.text.strip():
        return True
    return shorter.ended_by is None and longer.text.strip().startswith(shorter.text.strip())


def alike_parts(theirs: Segment, own: Segment) -> Iterator[tuple[Segment, Segment]]:
    """Both from where they begin, and from each place on at which they are alike again after something that a
    template or a tokenizer writes otherwise; last from their ends."""
    yield theirs, own
    same = alike(theirs.text, own.text)
    cut = theirs.ended_by is None or own.ended_by is None
    if theirs.text == own.text or (cut and same == min(len(theirs.text), len(own.text))):
        return
    their_words, own_words = (tuple[bytes, ...](WORD.findall(each.text, same)) for each in (theirs, own))
    offsets = [np.cumsum([same, *map(len, words)]).tolist() for words in (their_words, own_words)]
    for place, number in _alike_again(their_words, own_words):
        yield theirs.after(offsets[0][place]), own.after(offsets[1][number])


def _alike_again(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """The places of words from which two texts are alike again; last their ends."""
    here = there = 0
    while here < len(first) and there < len(second):
        if first[here] == second[there]:
            here, there = here + 1, there + 1
            continue
        ways = ((here + some, there + both - some) for both in range(1, NEAR) for some in range(both + 1))
        near = next((way for way in ways if first[way[0] : way[0] + 1] == second[way[1] : way[1] + 1] != ()), None)
        if near is None:
            for block in SequenceMatcher(None, first[here:], second[there:]).get_matching_blocks():
                yield here + block.a, there + block.b
            return
        here, there = near
        yield near
    yield len(first), len(second)


def alike(first: bytes, second: bytes) -> int:
    """How many bytes two texts begin with alike."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    apart = np.frombuffer(first[:length], dtype=np.uint8) != np.frombuffer(second[:length], dtype=np.uint8)
    return int(apart.argmax())
