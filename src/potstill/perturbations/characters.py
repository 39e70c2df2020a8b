"""Changes of single characters, or of a word's case, at random places."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import NamedTuple

SHARES = (0.02, 0.05, 0.10)
"""Of the characters, by severity: a careful typist, a hasty one, and a poor scan."""
SHARES_OF_PLACES = (0.10, 0.25, 0.50)
"""Of the places, where there are few of them in a text."""


class Change(NamedTuple):
    """Characters `start` to `end` of a text and what stands in their place, which is never the same."""

    start: int
    end: int
    instead: str


@dataclass(frozen=True)
class CharacterChanges:
    """Some of the changes that are possible at places of a text, which do not overlap."""

    name: str
    place: re.Pattern[str]
    changes: Callable[[str, int, int], Sequence[Change]]
    """All that are possible at the place from one character to another, if any."""
    shares: tuple[float, float, float] = SHARES
    of_characters: bool = True
    """Whether the shares are of all characters, and not of the places."""

    def apply(self, text: str, severity: int, random: Random) -> str:
        places = [found.span() for found in self.place.finditer(text)]
        whole = len(text) if self.of_characters else len(places)
        count = max(1, round(self.shares[severity - 1] * whole))
        changes: list[Change] = []
        taken: set[int] = set()
        for start, end in random.sample(places, len(places)):
            if len(changes) == count:
                break
            possible = self.changes(text, start, end)
            change = random.choice(possible) if possible else None
            if change is not None and taken.isdisjoint(range(change.start, change.end)):
                changes.append(change)
                taken.update(range(change.start, change.end))
        result = with_changes(text, changes)
        # Several may undo each other, or leave nothing; one alone does neither.
        return result if result != text and result.strip() else with_changes(text, changes[:1])


def with_changes(text: str, changes: Sequence[Change]) -> str:
    """The text with changes that do not overlap."""
    parts, at = [], 0
    for change in sorted(changes):
        parts += [text[at : change.start], change.instead]
        at = change.end
    return "".join([*parts, text[at:]])


_KEYS = (("1234567890", 0.0), ("qwertyuiop", 0.5), ("asdfghjkl", 0.75), ("zxcvbnm", 1.25))
"""The rows of a QWERTY keyboard, and how far each is set to the right, in widths of a key."""
_NEAR = 1.3


def _neighbours() -> dict[str, str]:
    at = {key: (left + number, row) for row, (keys, left) in enumerate(_KEYS) for number, key in enumerate(keys)}
    near = {
        key: "".join(
            other for other, (u, v) in at.items() if other != key and ((x - u) ** 2 + (y - v) ** 2) ** 0.5 < _NEAR
        )
        for key, (x, y) in at.items()
    }
    return near | {key.upper(): others.upper() for key, others in near.items() if key.isalpha()}


NEIGHBOURS = _neighbours()
"""The keys beside each letter and digit, in its case."""


def typos(text: str, start: int, end: int) -> list[Change]:
    """The character swapped with the next, left out, doubled, or replaced by one on a key beside it."""
    char, following = text[start:end], text[end : end + 1]
    found = [Change(start, end, 2 * char), *(Change(start, end, key) for key in NEIGHBOURS.get(char, ""))]
    if _leaves_something(text, char):
        found.append(Change(start, end, ""))
    if following.isalnum() and following != char:
        found.append(Change(start, end + 1, following + char))
    return found


def _leaves_something(text: str, char: str) -> bool:
    return text.strip() != char


_CONFUSED = (
    "l1 lI l| I1 I| O0 o0 S5 s5 B8 Z2 z2 G6 g9 q9 b6 T7 A4 ec hb uv nh it fr",
    "rn-m cl-d vv-w ii-u li-h nn-m",
)
"""Characters that a scan takes for each other, and pairs of them that it takes for one."""


def _confusions() -> dict[str, list[str]]:
    pairs = [(pair[0], pair[1]) for pair in _CONFUSED[0].split()]
    pairs += [(several, one) for several, _, one in (pair.partition("-") for pair in _CONFUSED[1].split())]
    found: dict[str, list[str]] = {}
    for one, other in pairs:
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


CONFUSIONS = _confusions()


def misread(text: str, start: int, end: int) -> list[Change]:
    return [Change(start, end, other) for other in CONFUSIONS[text[start:end]]]


def other_case(text: str, start: int, end: int) -> list[Change]:
    """The word in lower case, in upper case, and with the case of every other letter changed."""
    word = text[start:end]
    alternating = "".join(char.swapcase() if number % 2 else char for number, char in enumerate(word))
    others = dict.fromkeys((word.lower(), word.upper(), alternating, word.swapcase()))
    return [Change(start, end, other) for other in others if other != word]


def other_space(text: str, start: int, end: int) -> list[Change]:
    """White space doubled, left out, or replaced by a tab or a new line."""
    space = text[start:end]
    others = [2 * space, "\t", "\n", *([""] if len(text) > 1 else [])]
    return [Change(start, end, other) for other in others if other != space]


SIGNS = ",.;:!?-"


def other_punctuation(text: str, start: int, end: int) -> list[Change]:
    """A sign left out, or one added at the end of a word."""
    char = text[start:end]
    if unicodedata.category(char).startswith("P"):
        return [Change(start, end, "")] if _leaves_something(text, char) else []
    return [Change(start, end, char + sign) for sign in SIGNS] if char.isalnum() else []


_HOMOGLYPHS = {
    # Latin letters, and those of Cyrillic and Greek that are drawn alike (Unicode Technical Standard 39).
    **{"a": "а", "c": "с", "d": "ԁ", "e": "е", "h": "һ", "i": "іι", "j": "ј", "k": "κ", "l": "ӏ", "n": "ո"},
    **{"o": "оο", "p": "рρ", "q": "ԛ", "s": "ѕ", "u": "υ", "v": "νѵ", "w": "ԝ", "x": "х", "y": "у"},
    **{"A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "J": "Ј", "K": "КΚ", "M": "МΜ", "N": "Ν"},
    **{"O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ", "Y": "ΥҮ", "Z": "Ζ"},
}  # fmt: skip
_FULL_WIDTH = 0xFEE0
"""From a visible ASCII character to its form as wide as an ideograph."""


def look_alikes(text: str, start: int, end: int) -> list[Change]:
    """The character as another script draws it, or in full width."""
    char = text[start:end]
    return [Change(start, end, other) for other in (*_HOMOGLYPHS.get(char, ""), chr(ord(char) + _FULL_WIDTH))]


def word_changes(word: str) -> Iterator[str]:
    """All that a slip of the hand or a look-alike makes of one word; never an empty one."""
    seen = {word}
    for start, end in pairwise(range(len(word) + 1)):
        changes = typos(word, start, end) + (look_alikes(word, start, end) if "!" <= word[start] <= "~" else [])
        for change in changes:
            if (made := with_changes(word, [change])) not in seen:
                seen.add(made)
                yield made


KEYBOARD = CharacterChanges("keyboard", re.compile(r"[^\W_]"), typos)
OCR = CharacterChanges("ocr", re.compile("|".join(sorted(map(re.escape, CONFUSIONS), key=len, reverse=True))), misread)
CASE = CharacterChanges("case", re.compile(r"\S+"), other_case, (0.25, 0.50, 1.0), of_characters=False)
WHITE_SPACE = CharacterChanges("white_space", re.compile(r"\s"), other_space, SHARES_OF_PLACES, of_characters=False)
PUNCTUATION = CharacterChanges(
    "punctuation", re.compile(r"[^\w\s]|_|\w(?!\w)"), other_punctuation, SHARES_OF_PLACES, of_characters=False
)
LOOK_ALIKES = CharacterChanges("look_alikes", re.compile("[!-~]"), look_alikes)
