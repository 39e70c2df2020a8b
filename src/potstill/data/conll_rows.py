"""The sentences of CoNLL files: a word a line, its tag last, and an empty line after each sentence."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.data.opening import MAX_ROW_CHARACTERS, lines_of, too_long
from potstill.errors import DataError

DOCUMENT = "-DOCSTART-"
"""The line between two documents (CoNLL-2003)."""
TAG = re.compile(r"O|[BIESLUM]-\S+", re.ASCII)
UNTAGGED = "_"
"""What stands for a value that is not given (CoNLL-X, CoNLL-U)."""
SPACES = re.compile(r"[ \t]+")


@dataclass
class _Sentence:
    first: int
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    characters: int = 0
    problem: DataError | None = None


def tagged_records(
    path: Path, refuse: Callable[[DataError], None], names: tuple[str, str]
) -> Iterator[tuple[str, Any]]:
    """The sentences, each with the line on which it begins: `line 3`. `names` are those of words and tags in them.

    Columns are parted by tabs where a line has any, else by spaces; those between the first and the last are left out.
    A line that begins with `#` before a sentence is a comment, unless it has as many columns as the others and a tag
    in the last. A sentence of which all tags are `_` has none.

    Raises:
        DataError: a sentence that is no sentence; `refuse` is given those of which a line has too few columns or more
            than others.
    """
    words, tags = names
    for sentence in _sentences(path):
        if sentence.problem is not None:
            refuse(sentence.problem)
        else:
            untagged = all(tag == UNTAGGED for tag in sentence.tags)
            yield f"line {sentence.first}", {words: sentence.words, tags: None if untagged else sentence.tags}


def _sentences(path: Path) -> Iterator[_Sentence]:
    columns, columns_line = 0, 0
    known: set[str] = set()
    sentence: _Sentence | None = None
    for number, line in enumerate(lines_of(path), start=1):
        if isinstance(line, int):
            raise too_long(path, f"line {number}", line, "bytes")
        if not line.strip() or line.startswith(DOCUMENT):
            if sentence is not None:
                yield sentence
            sentence = None
            continue
        parts = _columns(line)
        if sentence is None:
            tag = parts[-1]
            is_row = len(parts) == (columns or len(parts)) > 1 and bool(
                TAG.fullmatch(tag) or tag in known or tag == UNTAGGED
            )
            if line.startswith("#") and not is_row:
                continue
            sentence = _Sentence(number)
        columns, columns_line = columns or len(parts), columns_line or number
        sentence.characters += len(line) + 1
        if sentence.characters > MAX_ROW_CHARACTERS:
            raise DataError(
                f"{path}: line {sentence.first}: a sentence of more than {MAX_ROW_CHARACTERS:,} characters. Write an "
                "empty line after each."
            )
        if sentence.problem is not None:
            continue
        if len(parts) < 2 or len(parts) != columns or not all((parts[0], parts[-1])):
            sentence.problem = _other_number(path, number, line, parts, columns, columns_line)
            continue
        if sentence.tags and (parts[-1] == UNTAGGED) != (sentence.tags[0] == UNTAGGED):
            sentence.problem = DataError(
                f"{path}: line {number}: some words of the sentence have a tag and some have _. Write O for a word of "
                "no kind, or _ for all."
            )
            continue
        sentence.words.append(parts[0])
        sentence.tags.append(parts[-1])
        known.add(parts[-1])
    if sentence is not None:
        yield sentence


def _columns(line: str) -> list[str]:
    text = line.removesuffix("\r")
    if "\t" in text:
        return [part.strip(" ") for part in text.split("\t")]
    return SPACES.split(text.strip(" "))


def _other_number(path: Path, number: int, line: str, parts: list[str], columns: int, first: int) -> DataError:
    if len(parts) < 2:
        return DataError(
            f"{path}: line {number}: {line.strip()[:60]!r} is one column; expected a word and its tag, parted by white "
            "space. A sentence without tags has _ for each."
        )
    if len(parts) == columns:
        return DataError(f"{path}: line {number}: the word or its tag is missing. Write O for a word without a tag.")
    return DataError(
        f"{path}: line {number}: {len(parts)} columns, and {columns} in line {first}. Write as many in each, the word "
        "first and its tag last."
    )
