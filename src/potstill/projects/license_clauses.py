"""The project license-clauses: where does a document name a licence, and of what kind? From licensedcode-data.

A document is put together from real notices, references and clues, as they follow each other in the files of a code
base. An entity is a name of a licence, with its version: an official name, or a reference of ScanCode's without the
words around the name in it. Names are looked up wherever they stand, so that their ends follow one rule. Each of the
splits has notices and references of its own.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from potstill.data.near_copies import words_alone
from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Advance, Progress
from potstill.projects.license_notices import licence_category, rules_folder, split_rule
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import unlike
from potstill.run_dir import write_text

SALT = "license-clauses"
KINDS = {"permissive": "permissive", "copyleft": "copyleft", "copyleft limited": "weak-copyleft"}
"""Categories of licences that are kinds of their own; all others are `other`."""
MAX_REFERENCE_WORDS = 12
MIN_NOTICE_WORDS, MAX_NOTICE_WORDS = 8, 120
DOCUMENTS = {"test": 300, "validation": 100, "adapt": 900, "train": 1800}
LABELLED = 150
"""Of the training documents those with tags: few, as where tagging is what costs."""
SHARES = {"test": 0.2, "validation": 0.1, "adapt": 0.35, "train": 0.35}
"""Of the notices and references that each split is made of."""

AROUND = re.compile(
    "a|an|and|any|are|as|at|be|by|can|files?|for|found|from|have|here|in|is|its?|licen[sc]e[sd]?|name|of|on|or|released|"
    "see|software|source|terms|that|the|this|to|type|under|used|using|which|with|you|your",
    re.IGNORECASE,
)
"""Words that stand around a name in a reference, and are no part of it."""

_WORD = re.compile(r"\w+|[^\w\s]")
_NAMES = re.compile(r"^(?:name|short_name|spdx_license_key): *(.+)$", re.MULTILINE)
_VERSION = re.compile(
    r"(?:, )?(?:(?:version|ver|v) (?:\. )?)?v?\d+(?: \. \d+)*"
    r" (?:\+ |or (?:\( ?at your option ?\) )?(?:any )?(?:later|newer) (?:version )?)?",
    re.IGNORECASE,
)
_COMBINED = re.compile(r"\b(AND|OR|WITH)\b")

Words = tuple[str, ...]
Rule = TypeVar("Rule")


@dataclass(frozen=True, slots=True)
class Mention:
    """A text that names a licence, as words, with the kind of the licence."""

    words: Words
    kind: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A text that grants a licence."""

    id: str
    text: str
    kind: str


def write(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe and `data/{adapt,train,validation,test}.jsonl` into `folder`; return what was done.

    Raises:
        DataError: the package with the texts is not installed, or holds other texts than expected.
    """
    paths = sorted(rules_folder().glob("*.RULE"))
    with progress.task("reading rules", len(paths), "files") as advance:
        notices, mentions = read(paths, advance)
    names = known_names(mentions, sorted((rules_folder().parent / "licenses").glob("*.LICENSE")))
    notices_of = _disjoint_notices(divided(notices, lambda each: each.id), progress)
    mentions_of = divided(mentions, lambda each: " ".join(each.words))
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{len(paths):,} rules read from licensedcode-data (CC-BY-4.0): {len(notices):,} notices and {len(mentions):,} "
        "references and clues of one licence"
    ]
    for split, count in DOCUMENTS.items():
        if len(notices_of[split]) < 100 or len(mentions_of[split]) < 100:
            raise DataError(
                f"licensedcode: too few rules for {split} ({len(notices_of[split])} notices). "
                "Run: pip install --upgrade 'potstill[demo]'"
            )
        documents = list(assembled(split, count, notices_of[split], mentions_of[split], names))
        labelled = LABELLED if split == "train" else count
        write_text(data / f"{split}.jsonl", "".join(_line(split, n, d, n < labelled) for n, d in enumerate(documents)))
        kinds = Counter(tag[2:] for _, tags in documents for tag in tags if tag.startswith("B-"))
        found = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
        lines.append(f"{split}: {count:,} documents, {labelled:,} of them tagged; entities: {found}")
    write_recipes(folder, {"recipe.yaml": "license_clauses.yaml"})
    return lines


def read(paths: Sequence[Path], advance: Advance) -> tuple[list[Notice], list[Mention]]:
    """Notices, and short references and clues, of one licence each; each text once."""
    notices, mentions = [], []
    seen: set[str] = set()
    for path in paths:
        advance()
        keys, text = split_rule(path)
        licence = keys.get("license_expression", "")
        true = {key for key, value in keys.items() if value.lower() in {"yes", "true", "on"}}
        key = words_alone(text)
        if "is_deprecated" in true or not licence or _COMBINED.search(licence) or not key or key in seen:
            continue
        words = tuple(_WORD.findall(_unmarked(text)))
        if true & {"is_license_reference", "is_license_clue"}:
            # An address is no name, and a long one would be most of a document.
            if len(words) <= MAX_REFERENCE_WORDS and "://" not in text:
                seen.add(key)
                mentions.append(Mention(words, _kind(licence)))
        elif "is_license_notice" in true and MIN_NOTICE_WORDS <= len(words) <= MAX_NOTICE_WORDS:
            seen.add(key)
            notices.append(Notice(path.stem, _unmarked(text), _kind(licence)))
    return notices, mentions


def known_names(mentions: Sequence[Mention], licences: Sequence[Path]) -> Mapping[Words, str]:
    """The kind that each name stands for, in lower case: of licences, and of references without the words around it.

    A name of licences of several kinds stands for the most frequent of them. One word alone is a name only where it is
    an abbreviation that several references consist of, such as GPL, and is kept as it is written: a word such as "Free"
    is the name of some licence, and mostly is not meant.
    """
    kinds: dict[Words, Counter[str]] = {}
    short: dict[Words, Counter[str]] = {}
    for mention in mentions:
        name = bare_name(mention.words)
        where = short if len(name) == 1 else kinds
        where.setdefault(name if len(name) == 1 else _lower(name), Counter())[mention.kind] += 1
    for path in licences:
        for text in _NAMES.findall(path.read_text(encoding="utf-8").split("---\n")[1]):
            name = bare_name(tuple(_WORD.findall(text.strip("'\" "))))
            if len(name) > 1:
                kinds.setdefault(_lower(name), Counter())[_kind(path.stem)] += 1
    for name, counts in short.items():
        if len(name[0]) > 2 and name[0].isupper() and counts.total() > 1:
            kinds[name] = counts
    kinds.pop((), None)
    return {words: counts.most_common(1)[0][0] for words, counts in sorted(kinds.items())}


def bare_name(words: Words) -> Words:
    """The words without those around a name, and without the version, which is looked up behind every name."""
    start, end = 0, len(words)
    while start < end and not _belongs(words[start]):
        start += 1
    while end > start and not (_belongs(words[end - 1]) or words[end - 1].lower() in ("license", "licence")):
        end -= 1
    for place in range(start + 1, end):
        if version_length(words[place:end]) == end - place:
            return words[start:place]
    return words[start:end]


def _belongs(word: str) -> bool:
    return word[0].isalnum() and not AROUND.fullmatch(word)


def version_length(words: Sequence[str]) -> int:
    """How many words at the beginning say a version, such as `, version 2 . 0 or later`; 0 where none does."""
    found = _VERSION.match(" ".join(words) + " ")
    return len(found[0].split()) if found else 0


def tagged(words: Sequence[str], names: Mapping[Words, str], longest: int) -> list[str]:
    """Tags of the words: at each place the longest name that begins there is an entity, with the version behind it."""
    lower, tags, place = _lower(words), ["O"] * len(words), 0
    while place < len(words):
        lengths = range(min(longest, len(words) - place), 0, -1)
        found = ((size, text[place : place + size]) for size in lengths for text in (lower, tuple(words)))
        length, name = next(((size, name) for size, name in found if name in names), (0, ()))
        if length:
            kind = names[name]
            length += version_length(words[place + length :])
            tags[place : place + length] = [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
        place += max(1, length)
    return tags


def assembled(
    split: str, count: int, notices: Sequence[Notice], mentions: Sequence[Mention], names: Mapping[Words, str]
) -> Iterator[tuple[list[str], list[str]]]:
    """Documents of one to four notices and two to five references in a random order, with their tags."""
    draw = random.Random(f"{SALT} {split}")
    longest = max(map(len, names))
    for _ in range(count):
        parts: list[list[str]] = []
        for notice in draw.sample(notices, draw.randint(1, 4)):
            parts.append(_WORD.findall(notice.text))
        parts.extend(list(mention.words) for mention in draw.sample(mentions, draw.randint(2, 5)))
        draw.shuffle(parts)
        # A name does not go on from one text to the next.
        tags = [tag for words in parts for tag in tagged(words, names, longest)]
        yield [word for words in parts for word in words], tags


def divided(rules: Sequence[Rule], name: Callable[[Rule], str]) -> dict[str, list[Rule]]:
    """The rules of each split."""
    ordered = stable_order(rules, name, salt=SALT)
    result, start = {}, 0.0
    for split, share in SHARES.items():
        result[split] = ordered[round(start * len(ordered)) : round((start + share) * len(ordered))]
        start += share
    return result


def _disjoint_notices(notices: Mapping[str, list[Notice]], progress: Progress) -> dict[str, list[Notice]]:
    """Without the notices of a teaching split that nearly copy a held-out one."""
    held_out = [*notices["test"], *notices["validation"]]
    return {**notices, **{name: unlike(notices[name], held_out, progress) for name in ("adapt", "train")}}


def _line(split: str, number: int, document: tuple[list[str], list[str]], labelled: bool) -> str:
    tokens, tags = document
    row = {"id": f"{split}-{number}", "tokens": tokens, "tags": tags if labelled else None}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _unmarked(text: str) -> str:
    """The text without the marks of phrases that a rule requires."""
    return text.replace("{{", " ").replace("}}", " ")


def _lower(words: Sequence[str]) -> Words:
    return tuple(word.lower() for word in words)


def _kind(licence: str) -> str:
    return KINDS.get(licence_category(licence), "other")
