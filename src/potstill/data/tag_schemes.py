"""How tags name entities: `O`, or a prefix with a kind such as `B-PER`; and questions about tags of another form."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from potstill.data.label_checks import NULLS, Seen, listed, no_labels, or_allow, quoted, spelt_twice

OUTSIDE = "O"
ONE_KIND = "span"
"""Of tags that name no kind, as where keyphrases or chunks are marked."""
SCHEMES = tuple(map(frozenset, ("BIES", "BILU", "BMES")))
"""Of prefixes; BIO and IO are parts of them."""
PREFIXES = {prefix: prefix for prefix in "BIELSU"} | {"M": "I"}
"""M is the inside of an entity in BMES."""
BEGIN, WITHIN = {"B"}, {"I", "E", "L", "M"}

NO_TAG = NULLS | {"-1", "-100"}
"""What stands in place of a tag where there is none."""
LIKE_OUTSIDE = frozenset({"o", "0", "_", "-", "out", "outside", "other", "none"})
"""What O is called where it is not O, in lower case."""
WORDS = {
    **dict.fromkeys(("BEGIN", "BEGINNING", "START"), "B"),
    **dict.fromkeys(("INSIDE", "IN", "INTERMEDIATE", "MIDDLE", "MID", "CONT"), "I"),
    **{"END": "E", "LAST": "L", "SINGLE": "S", "SINGLETON": "S", "UNIT": "U"},
}
"""What prefixes are called in whole words."""
_PREFIX = rf"(?P<prefix>[BIELSUM]|{'|'.join(WORDS)})"
OTHERWISE = (
    re.compile(rf"{_PREFIX}(?P<between>[-_./: ])(?P<kind>.+)", re.IGNORECASE),
    re.compile(rf"(?P<kind>.+)(?P<between>[-_./: ]){_PREFIX}", re.IGNORECASE),
)
"""`B_PER`, `b-PER` and `BEGIN-PER`; `PER-B`."""
ENDS = {"U": "L", "S": "E"}
"""By the prefix of an entity of one word, that of the last word of a longer one."""


def stand_alone(tags: Iterable[str]) -> bool:
    """Whether these, all tags of the data, are prefixes without a kind, such as B, I and O.

    They are where all are of one scheme and one begins an entity, or I alone marks them. Other letters name kinds: P
    and L people and places, N and M parts of speech.
    """
    rest = set(tags) - {OUTSIDE}
    return rest == {"I"} or ("B" in rest and any(rest <= scheme for scheme in SCHEMES))


def split_tag(tag: str, *, alone: bool) -> tuple[str, str]:
    """Prefix and kind of a tag: B and PER of `B-PER`, and B and `span` of a `B` where prefixes stand `alone`."""
    prefix, _, kind = tag.partition("-")
    if prefix not in PREFIXES or not (kind or alone):
        return "I", tag
    return PREFIXES[prefix], kind or ONE_KIND


class TagTally:
    """The tags of words, over all files."""

    def __init__(self) -> None:
        self.tags: dict[str, Seen] = {}
        self._words = 0

    def add(self, path: Path, place: str, tags: Iterable[str]) -> None:
        """Count the tags of a row."""
        for tag, count in Counter(tags).items():
            self._words += count
            if (seen := self.tags.get(tag)) is None:
                self.tags[tag] = Seen(count, f"{path}: {place}")
            else:
                seen.count += count

    def problems(self, allowed: Collection[str]) -> Iterator[str]:
        """An error for each question that the recipe does not answer.

        Tags are judged as a whole: where none has a prefix, as those of parts of speech, each is its own kind.
        """
        asked = {tag: seen for tag, seen in self.tags.items() if tag not in allowed}
        if several := {tag for tag in asked if _of_several(tag)}:
            yield (
                f"data: tags that are several in one: {listed(self.tags, several)}. A word has one tag here; write "
                f"that of the entity to be found{or_allow(sorted(several))}"
            )
        rest = {tag for tag in asked.keys() - several if tag != OUTSIDE and tag.casefold() not in NO_TAG}
        prefixed = {tag for tag in rest if tag[:1] in PREFIXES and tag[1:2] == "-" and tag[2:]}
        empty = {tag for tag in rest if tag[:-1] in PREFIXES and tag[-1:] == "-"}
        otherwise = _written_otherwise(rest - prefixed - empty, prefixed)
        outside = set[str]() if prefixed or otherwise else self._outside(asked)
        plain = rest - prefixed - empty - otherwise.keys() - outside
        if outside:
            yield (
                f"data: there is no O among the tags, and {listed(self.tags, outside)} may stand for it; it would be "
                f"read as a kind of entity. Write O where a word is in none{or_allow(sorted(outside))}"
            )
        others = {tag: seen for tag, seen in asked.items() if tag not in outside}
        yield from no_labels(others, NO_TAG, self._words, "tags")
        if empty:
            yield (
                f"data: tags with a prefix and no kind after it: {listed(self.tags, empty)}. Write B-PER, or B alone "
                f"where there is but one kind{or_allow(sorted(empty))}"
            )
        if otherwise:
            tag, right = min(otherwise.items())
            yield (
                f"data: tags that are not of the form B-PER: {listed(self.tags, otherwise)}. Each would be read as a "
                f"kind of its own. Write {right} for {quoted(tag)}: O, and B- or I- (also E-, L-, S- or U-) before "
                f"each kind{or_allow(sorted(otherwise))}"
            )
        if prefixed:
            yield from self._of_prefixes(prefixed, plain)
        kinds: dict[str, Seen] = {}
        alone = stand_alone(self.tags)
        for tag in (prefixed or plain) | (asked.keys() & {OUTSIDE}):
            kind, seen = split_tag(tag, alone=alone)[1], self.tags[tag]
            kinds[kind] = kinds[kind].add(seen) if kind in kinds else seen
        yield from spelt_twice(kinds, allowed, "kinds")

    def _outside(self, asked: Collection[str]) -> set[str]:
        """Those of the tags that seem to be another name of O, where O is not among the tags."""
        like = {tag for tag in self.tags if tag.strip().casefold() in LIKE_OUTSIDE}
        return set() if OUTSIDE in self.tags or len(like) == len(self.tags) else like & set(asked)

    def _of_prefixes(self, prefixed: Collection[str], plain: Collection[str]) -> Iterator[str]:
        """Errors for tags with a prefix beside others without one, without a begin, or of two schemes."""
        prefixes = {tag[0] for tag in prefixed}
        if plain:
            fewer = min(plain, prefixed, key=lambda tags: sum(self.tags[tag].count for tag in tags))
            yield (
                f"data: some tags have a prefix ({listed(self.tags, prefixed)}) and some have none "
                f"({listed(self.tags, plain)}); a tag without one would be read as a kind of its own, and O alone is "
                f"no entity. Write all in one way{or_allow(sorted(fewer))}"
            )
        elif not prefixes & set("BISU"):
            yield (
                f"data: tags that end an entity, or go on with it, and none that begins one: "
                f"{listed(self.tags, prefixed)}. Rename the kinds that only look like it{or_allow(sorted(prefixed))}"
            )
        for one, last in ENDS.items():
            if one in prefixes and last not in prefixes and prefixes & {"B", "I"}:
                of_one = [tag for tag in prefixed if tag[0] == one]
                yield (
                    f"data: tags of entities of one word ({listed(self.tags, of_one)}) beside B- and I-, and no "
                    f"{last}- at the end of longer ones: two schemes are mixed. Write B- for {one}-, or {last}- at the "
                    f"ends{or_allow(sorted(of_one))}"
                )


def _written_otherwise(tags: Collection[str], prefixed: Collection[str]) -> dict[str, str]:
    """Those of the tags that have a prefix in another form, each with its right form: where one form has both the begin
    and the rest of a kind, or all tags are of it, or tags in the right form have the same kind."""
    kinds = {tag[2:] for tag in prefixed}
    known_as = {kind.casefold(): kind for kind in kinds}
    found: dict[str, str] = {}
    for order, form in enumerate(OTHERWISE):
        styles: dict[tuple[str, bool, bool], dict[str, dict[str, str]]] = {}
        for tag in tags:
            # The right form is not asked again.
            if (match := form.fullmatch(tag)) and (order or tag[:2] != match["prefix"].upper() + "-"):
                prefix = match["prefix"]
                style = styles.setdefault((match["between"], prefix.isupper(), len(prefix) > 1), {})
                style.setdefault(match["kind"], {})[_letter(prefix)] = tag
        for (_, _, words), of_kind in styles.items():
            right = {
                tag: f"{letter}-{known_as.get(kind.casefold(), kind)}"
                for kind, prefixes in of_kind.items()
                for letter, tag in prefixes.items()
            }
            begun = any(BEGIN & prefixes.keys() for prefixes in of_kind.values())
            whole = any(BEGIN & prefixes.keys() and WITHIN & prefixes.keys() for prefixes in of_kind.values())
            every = right.keys() >= {tag for tag in tags if tag.casefold() != "o"}
            if words:
                # Kinds are called start_date, end_date and last_date, too.
                inside = any(prefixes.keys() - {"B", "E", "L"} for prefixes in of_kind.values())
                known = whole and (inside or every)
            else:
                known = whole or (begun and every)
            if known or kinds & of_kind.keys():
                found |= right
    upper = {tag: tag.upper() for tag in tags if tag != "o"}
    if len(upper) > 1 and not prefixed and stand_alone(upper.values()):
        found |= {tag: letter for tag, letter in upper.items() if tag != letter}
    return found


def _letter(prefix: str) -> str:
    return WORDS.get(prefix.upper(), prefix.upper())


def _of_several(tag: str) -> bool:
    """Whether it is several tags in one, such as those of nested entities: `B-PER|O`."""
    parts = tag.split("|")
    return len(parts) > 1 and all(part == OUTSIDE or (part[:1] in PREFIXES and part[1:2] == "-") for part in parts)
