"""How tags name entities: `O`, or a prefix with a kind such as `B-PER`; and questions about tags of another form."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from potstill.data.label_checks import Seen, listed, no_labels, or_allow, spelt_twice

OUTSIDE = "O"
ONE_KIND = "span"
"""Of tags that name no kind, as where keyphrases or chunks are marked."""
SCHEMES = tuple(map(frozenset, ("BIES", "BILU", "BMES")))
"""Of prefixes; BIO and IO are parts of them."""
PREFIXES = {prefix: prefix for prefix in "BIELSU"} | {"M": "I"}
"""M is the inside of an entity in BMES."""
BEGIN, WITHIN = {"B"}, {"I", "E", "L", "M"}

NO_TAG = frozenset({"-1", "-100", "nan", "null", "none", "<na>"})
"""What stands in place of a tag where there is none."""
OTHERWISE = (
    re.compile(r"(?P<prefix>[BIELSUM])(?P<between>[-_./: ])(?P<kind>.+)", re.IGNORECASE),
    re.compile(r"(?P<kind>.+)(?P<between>[-_./: ])(?P<prefix>[BIELSUM])", re.IGNORECASE),
)
"""`B_PER` and `b-PER`; `PER-B`."""


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
        yield from no_labels(asked, NO_TAG, self._words, "tags")
        rest = {tag for tag in asked if tag != OUTSIDE and tag.casefold() not in NO_TAG}
        prefixed = {tag for tag in rest if tag[:1] in PREFIXES and tag[1:2] == "-" and tag[2:]}
        empty = {tag for tag in rest if tag[:-1] in PREFIXES and tag[-1:] == "-"}
        otherwise = _written_otherwise(rest - prefixed - empty, prefixed)
        plain = rest - prefixed - empty - otherwise
        if empty:
            yield (
                f"data: tags with a prefix and no kind after it: {listed(self.tags, empty)}. Write B-PER, or B alone "
                f"where there is but one kind{or_allow(sorted(empty))}"
            )
        if otherwise:
            yield (
                f"data: tags that are not of the form B-PER: {listed(self.tags, otherwise)}. Each would be read as a "
                "kind of its own. Write O, and B- or I- (also E-, L-, S- or U-) before each kind"
                f"{or_allow(sorted(otherwise))}"
            )
        if prefixed and plain:
            fewer = min(plain, prefixed, key=lambda tags: sum(self.tags[tag].count for tag in tags))
            yield (
                f"data: some tags have a prefix ({listed(self.tags, prefixed)}) and some have none "
                f"({listed(self.tags, plain)}); a tag without one would be read as a kind of its own, and O alone is "
                f"no entity. Write all in one way{or_allow(sorted(fewer))}"
            )
        elif prefixed and not any(tag[0] in "BISU" for tag in prefixed):
            yield (
                f"data: tags that end an entity, or go on with it, and none that begins one: "
                f"{listed(self.tags, prefixed)}. Rename the kinds that only look like it{or_allow(sorted(prefixed))}"
            )
        kinds: dict[str, Seen] = {}
        alone = stand_alone(self.tags)
        for tag in (prefixed or plain) | (asked.keys() & {OUTSIDE}):
            kind, seen = split_tag(tag, alone=alone)[1], self.tags[tag]
            kinds[kind] = kinds[kind].add(seen) if kind in kinds else seen
        yield from spelt_twice(kinds, allowed, "kinds")


def _written_otherwise(tags: Collection[str], prefixed: Collection[str]) -> set[str]:
    """Those of the tags that have a prefix in another form: where one form has both the begin and the rest of a kind,
    or all tags are of it, or tags in the right form have the same kind."""
    kinds = {tag[2:] for tag in prefixed}
    found: set[str] = set()
    for order, form in enumerate(OTHERWISE):
        styles: dict[tuple[str, bool], dict[str, dict[str, str]]] = {}
        for tag in tags:
            # The right form is not asked again.
            if (match := form.fullmatch(tag)) and (order or tag[:2] != match["prefix"].upper() + "-"):
                style = styles.setdefault((match["between"], match["prefix"].isupper()), {})
                style.setdefault(match["kind"], {})[match["prefix"].upper()] = tag
        for of_kind in styles.values():
            own = {tag for prefixes in of_kind.values() for tag in prefixes.values()}
            begun = any(BEGIN & prefixes.keys() for prefixes in of_kind.values())
            whole = any(BEGIN & prefixes.keys() and WITHIN & prefixes.keys() for prefixes in of_kind.values())
            if whole or (begun and own >= {tag for tag in tags if tag.casefold() != "o"}) or kinds & of_kind.keys():
                found |= own
    return found
