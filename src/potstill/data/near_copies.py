"""When two texts are the same, and when one nearly copies another, so that no test text is learnt by heart.

Near-copies are found exactly, not by hashing signatures: two sets with Jaccard similarity of at least t share
one of the rarest (1 - t) of their members, so only rows that share a rare shingle are compared (prefix
filtering: Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search").
"""

import html
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from potstill.progress import Advance, unseen

_WORD = re.compile(r"\w+")
_ROUNDING = 1e-9  # 0.56 * 25 is a little more than 14: a share that is just reached counts

SPACELESS = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x312F),
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)
"""Scripts that write words without spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Han."""
_RUNS = r"[-+*/%<>=!&|^~#]+|\.+|\?+|─+|━+|═+"
"""Signs of which a run is one token: `**` is not `*`, `<=` not `<`, and a line of dashes no more than a word."""

BOILERPLATE_SHARE = 0.5
"""A shingle in more of the held-out texts than this tells nobody apart. Half, since such texts are the rule then, and
of any two the other half may be what differs. Only held-out texts are counted: one of them that leaked into most
training rows is still one."""
BOILERPLATE_TEXTS = 3
"""The least number of texts that make a rule: two that share most of their words may be copies."""


_DEPTH = 0xE000
"""Of the characters for private use, one for each depth to which lines are indented."""
_UNSEEN = {0x00AD: None, 0x200B: None, 0x2060: None, 0xFEFF: None}
_FOLDED = (
    _UNSEEN
    | {0x3000: " "}
    | {0xFF01 + offset: 0x21 + offset for offset in range(94)}
    | dict.fromkeys((0x2018, 0x2019, 0x201B, 0x02BC), "'")
    | dict.fromkeys((0x201C, 0x201D, 0x201F), '"')
    | dict.fromkeys(range(0x2010, 0x2016), "-")
)
"""Characters that copying adds, drops or exchanges: soft hyphens, full-width letters, curly quotes, dashes."""
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def same_text_key(text: str) -> str:
    """Texts that are equal so are the same text: every character counts, but for how it is composed and spaced.

    Composed as in NFC, not NFKC, for which x² is x2. Case counts, as it does in code and between US and us. So does
    which lines are indented deeper than others, by which code says what is in a loop, and not by how much.
    """
    return " ".join(_with_depths(unicodedata.normalize("NFC", text)).split())


def _with_depths(text: str) -> str:
    """The text with a sign before each line that is indented deeper, or less, than the one before it."""
    if "\n" not in text:
        return text
    lines: list[str] = []
    depths, before = [0], 0
    for line in text.expandtabs().split("\n"):
        bare = line.lstrip()
        if not bare:
            continue
        indent = len(line) - len(bare)
        if not lines:
            depths = [indent]
        while depths[-1] > indent and len(depths) > 1:
            depths.pop()
        if indent > depths[-1]:
            depths.append(indent)
        depth = len(depths) - 1
        lines.append(bare if depth == before else f"{chr(_DEPTH + min(depth, 255))} {bare}")
        before = depth
    return "\n".join(lines)


def words_alone(text: str) -> str:
    """Lower case, words without signs and marks, single spaces.

    The stable hash that splits a file reads it: it is coarse, so that alike texts fall on one side, and must stay as it
    is, so that no row changes sides.
    """
    return " ".join(_WORD.findall(text.lower()))


@dataclass(frozen=True)
class _Patterns:
    words: re.Pattern[str]
    tokens: re.Pattern[str]


_PLAIN = _Patterns(_WORD, re.compile(rf"\w+|{_RUNS}|[^\w\s]"))
"""For texts without marks, joiners and scripts without spaces; several times as fast."""


@cache
def marks_and_joiners() -> tuple[tuple[int, int], ...]:
    """Marks above, below and after letters, which `\\w` does not hold, and what joins letters or emoji, as ranges."""
    # All marks are in these planes.
    planes = (range(0x300, 0x20000), range(0xE0000, 0xE1000))
    codes = [code for plane in planes for code in plane if unicodedata.category(chr(code))[0] == "M"]
    starts = [code for before, code in pairwise([0, *codes]) if code != before + 1]
    ends = [code for code, after in pairwise([*codes, 0]) if after != code + 1]
    return (*zip(starts, ends, strict=True), (0x200C, 0x200D))


@cache
def _special() -> frozenset[str]:
    """The characters for which the plain patterns will not do, but for the rare Han, which are beyond all of them."""
    ranges = (*marks_and_joiners(), *SPACELESS[:-1])
    return frozenset(chr(code) for first, last in ranges for code in range(first, last + 1))


@cache
def _full(*, wide: bool) -> _Patterns:
    """With marks as parts of their words, and each character of a script without spaces as a word.

    Those that are not `wide` know 16-bit characters alone, and are several times as fast.
    """

    def those_in(ranges: Iterable[tuple[int, int]]) -> str:
        return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges if wide or last <= 0xFFFF)

    joined, spaceless = those_in(marks_and_joiners()), those_in(SPACELESS)
    letter = rf"[^\W{spaceless}]"
    word = rf"{letter}+(?:[{joined}]+{letter}*)*|[{spaceless}][{joined}]*"
    return _Patterns(re.compile(word), re.compile(rf"{word}|{_RUNS}|[^\w\s][{joined}]*"))


def _read(text: str) -> tuple[str, _Patterns]:
    """The text in lower case and as it is without what copying changes, and the patterns that read it."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _BREAK.sub(" ", text)
    if text.isascii():
        return text.lower(), _PLAIN
    folded = unicodedata.normalize("NFC", text.translate(_FOLDED)).lower()
    highest = max(folded, default="")
    if highest < chr(SPACELESS[-1][0]) and _special().isdisjoint(folded):
        return folded, _PLAIN
    return folded, _full(wide=highest > "\uffff")


def words(text: str) -> list[str]:
    """The words of a text in lower case, with the marks of their letters."""
    folded, patterns = _read(text)
    return patterns.words.findall(folded)


def tokens(text: str) -> list[str]:
    """The words of a text in lower case, and every other sign that is no space; also where indentation changes."""
    folded, patterns = _read(_with_depths(text))
    return patterns.tokens.findall(folded)


def shingles(found: Sequence[str], size: int) -> frozenset[int]:
    """Hashes of all runs of `size` words or tokens; of all together where there are fewer."""
    # The values of hash() differ from process to process. Nothing depends on them but which are equal.
    runs = zip(*(found[start:] for start in range(size)), strict=False)
    return frozenset(map(hash, runs)) or frozenset({hash(tuple(found))})


@dataclass(frozen=True)
class Shingles:
    """What of a text is compared: its words, and of a short text also its signs, where the other is short too.

    In a short text a sign is a difference: `return a + b` is not `return a - b`. A long one is compared by its words
    alone, since prose is copied with other signs: quoted, as a comment, as a list. Long is a text of which, with one
    token more or less, enough shingles stay as they are.
    """

    of_words: frozenset[int]
    of_tokens: frozenset[int]
    signs: tuple[str, ...] | None
    """Of a short text all that are no words."""

    @classmethod
    def of(cls, text: str, *, jaccard: float, size: int) -> "Shingles":
        """A text without any word has none."""
        found = words(text)
        if not found:
            return cls(frozenset(), frozenset(), ())
        # A token that differs is in `size` shingles of either text.
        if (len(found) - size + 1) * (1 - jaccard) >= size * (1 + jaccard) - _ROUNDING:
            return cls(shingles(found, size), frozenset(), None)
        with_signs = tokens(text)
        signs = tuple(token for token in with_signs if not _WORD.match(token))
        return cls(shingles(found, size), shingles(with_signs, size), signs)

    def without(self, boilerplate: frozenset[int]) -> "Shingles":
        if not boilerplate:
            return self
        return Shingles(self.of_words - boilerplate, self.of_tokens - boilerplate, self.signs)

    def alike(self, other: "Shingles", jaccard: float) -> bool:
        """Whether they share enough. Two of which nothing is left do."""
        if not _near(self.of_words, other.of_words, jaccard):
            return False
        if self.signs is None or other.signs is None:
            return True
        return _near(self.of_tokens, other.of_tokens, jaccard) or _punctuated(self.signs, other.signs)


def _near(own: frozenset[int], other: frozenset[int], jaccard: float) -> bool:
    # The sizes alone already bound the similarity.
    if min(len(own), len(other)) < jaccard * max(len(own), len(other)) - _ROUNDING:
        return False
    common = len(own & other)
    return common >= jaccard * (len(own) + len(other) - common) - _ROUNDING


def _punctuated(signs: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether one has but more punctuation than the other: a mark left out is no other text, as another sign in its
    place is, or an emoji."""
    fewer, more = sorted((signs, others), key=len)
    rest = iter(more)
    if not all(sign in rest for sign in fewer):
        return False
    return all(unicodedata.category(each)[0] == "P" for sign in Counter(more) - Counter(fewer) for each in sign)


Readings: TypeAlias = str | tuple[str, ...]
"""A text, or several readings of it: what copies another does so in each reading in which there is something to
compare."""


class HeldOut:
    """Held-out texts, and which others nearly copy one of them.

    A near-copy shares at least `jaccard` of the union of both texts' shingles, of which those that most of the held-out
    texts have do not count. A text of which nothing is left then is a copy only if it is the same but for case.
    """

    def __init__(self, texts: Iterable[Readings], *, jaccard: float, shingle_words: int) -> None:
        self._jaccard, self._size = jaccard, shingle_words
        self._same: dict[int, list[int]] = defaultdict(list)
        self._boilerplate: frozenset[int] = frozenset()
        self._frequency: Counter[int] = Counter()
        compared = []
        for number, text in enumerate(texts):
            self._same[_whole(text)].append(number)
            compared.append(self._shingled(text))
            self._frequency.update(frozenset().union(*(each.of_words | each.of_tokens for each in compared[-1])))
        least = max(BOILERPLATE_TEXTS, math.floor(BOILERPLATE_SHARE * len(compared)) + 1)
        self._boilerplate = frozenset(each for each, count in self._frequency.items() if count >= least)
        self._compared = [tuple(each.without(self._boilerplate) for each in readings) for readings in compared]
        self._index: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, readings in enumerate(self._compared):
            for key in self._rarest(readings):
                self._index[key].append(number)

    def copies(
        self, texts: Iterable[Readings], *, among: Container[int] | None = None, advance: Advance = unseen
    ) -> dict[int, int]:
        """For each text that is a near-copy of a held-out one: its number, and the least number of those it copies.

        `among` are the held-out texts that count, all if not given. `advance` counts `texts`.
        """
        found: dict[int, int] = {}
        for number, text in enumerate(texts):
            advance()
            readings = self._shingled(text)
            same = self._same.get(_whole(text), ())
            near = {candidate for key in self._rarest(readings) for candidate in self._index.get(key, ())}
            for candidate in sorted(near.union(same)):
                if among is not None and candidate not in among:
                    continue
                if self._alike(readings, candidate):
                    found[number] = candidate
                    break
        return found

    def _alike(self, readings: tuple[Shingles, ...], candidate: int) -> bool:
        pairs = zip(readings, self._compared[candidate], strict=True)
        return all(one.alike(other, self._jaccard) for one, other in pairs)

    def _shingled(self, text: Readings) -> tuple[Shingles, ...]:
        made: dict[str, Shingles] = {}
        readings = (text,) if isinstance(text, str) else text
        for each in readings:
            if each not in made:
                made[each] = Shingles.of(each, jaccard=self._jaccard, size=self._size).without(self._boilerplate)
        return tuple(made[each] for each in readings)

    def _rarest(self, readings: tuple[Shingles, ...]) -> list[tuple[int, int]]:
        """Of the first reading that has any, the shingles of which a near-copy must have one, with its place."""
        for place, reading in enumerate(readings):
            if own := reading.of_words:
                needed = len(own) - math.ceil(self._jaccard * len(own) - _ROUNDING) + 1
                ordered = sorted(own, key=lambda shingle: (self._frequency[shingle], shingle))
                return [(place, shingle) for shingle in ordered[:needed]]
        return []


def _whole(text: Readings) -> int:
    return hash(tuple(same_text_key(each).lower() for each in ((text,) if isinstance(text, str) else text)))


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
    known = HeldOut((row.text for row in held_out), jaccard=jaccard, shingle_words=shingle_words)
    copies = known.copies((row.text for row in rows), advance=advance)
    return [row for number, row in enumerate(rows) if number not in copies]
