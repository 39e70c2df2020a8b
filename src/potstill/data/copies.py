"""Which rows of the splits are copies of others, for which reason, and some of them to look at."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from json import dumps

import numpy as np
import numpy.typing as npt

from potstill.data.dialogues import Conversation
from potstill.data.ids import Index, Keys
from potstill.data.near_copies import HeldOut, Readings, same_text_key
from potstill.data.rows import DataRow, Row
from potstill.progress import Progress

EXAMPLES = 3
"""Of each kind, to look at."""
SNIPPET_CHARACTERS = 60

HELD_OUT = ("test", "validation")
TAUGHT = ("train", "adapt")


@dataclass(frozen=True, slots=True)
class Copy:
    """A row that is left out, and the row that it copies."""

    id: str
    of: str
    text: str
    """How it begins."""
    other_label: bool
    """Whether the two are labelled differently."""

    @classmethod
    def between(cls, row: DataRow, original: DataRow) -> "Copy":
        return cls(row.id, original.id, beginning(row.text), other_label=_labelled_otherwise(row, original))


@dataclass(frozen=True)
class Copies:
    """The rows of a split that are copies."""

    dropped: npt.NDArray[np.bool_]
    other_label: int
    """How many of them are labelled otherwise than what they copy."""
    examples: tuple[Copy, ...]


def beginning(text: str) -> str:
    """How a text begins, on one line."""
    text = " ".join(text[: 2 * SNIPPET_CHARACTERS].split())
    return f"{text[:SNIPPET_CHARACTERS]}..." if len(text) > SNIPPET_CHARACTERS else text


def some(examples: Iterable[Copy]) -> tuple[Copy, ...]:
    """The first of them, and of those with another label too."""
    found: dict[bool, list[Copy]] = {True: [], False: []}
    for each in examples:
        found[each.other_label].append(each)
    return (*found[True][:EXAMPLES], *found[False][:EXAMPLES])


def duplicates(splits: Mapping[str, Sequence[DataRow]]) -> dict[str, Copies]:
    """Rows whose text is that of another. Splits that come first keep the text; in a split a labelled row does."""
    texts, labels = Keys(), Keys()
    flags, numbers, of_split = [], [], []
    held_out: set[int] = set()
    for name, rows in splits.items():
        own, with_label, labelled = Keys(), Keys(), []
        for row in rows:
            key = same_text_key(row.text)
            if isinstance(row, Row) and row.second_at is not None:
                # The same words are another pair where the second text begins elsewhere.
                key += f" {len(row.texts[0].split())}"
            if isinstance(row, Conversation):
                # The same turns ask for something else with other tools.
                key += row.beside
                if name in HELD_OUT:
                    held_out.add(hash(key))
                elif hash(key) not in held_out:
                    # They teach something else where others are learnt, but none of what is held out.
                    key += _learnt(row)
            own.add(key)
            with_label.add(dumps([key, row.label]))
            labelled.append(row.labelled)
        flag = np.array(labelled, dtype=np.bool_)
        order = np.concatenate([np.flatnonzero(flag), np.flatnonzero(~flag)])
        texts, labels = texts + own.where(order), labels + with_label.where(order)
        flags.append(flag[order])
        numbers.append(order)
        of_split += [name] * len(order)
    first, first_labelled = Index(texts).first_with(), Index(labels).first_with()
    labelled_rows, number = np.concatenate(flags), np.concatenate(numbers)
    dropped = first != np.arange(len(first))
    # The first with a text is the first with that text and its own label.
    other = dropped & labelled_rows & labelled_rows[first] & (first_labelled != first)

    def row_at(place: int) -> DataRow:
        return splits[of_split[place]][int(number[place])]

    result, start = {}, 0
    for name, order in zip(splits, numbers, strict=True):
        own_places = slice(start, start + len(order))
        mask = np.empty(len(order), dtype=np.bool_)
        mask[order] = dropped[own_places]
        places = [
            int(place) + start
            for kind in (other, dropped & ~other)
            for place in np.flatnonzero(kind[own_places])[:EXAMPLES]
        ]
        examples = [Copy.between(row_at(place), row_at(int(first[place]))) for place in places]
        result[name] = Copies(mask, int(other[own_places].sum()), tuple(examples))
        start += len(order)
    return result


def _learnt(row: Conversation) -> str:
    learnt = [message.learnt for message in row.messages]
    return "" if all(learnt) else dumps(learnt)


def near_copies(
    splits: Mapping[str, Sequence[DataRow]],
    progress: Progress,
    *,
    jaccard: float,
    shingle_words: int,
    prompt_of: Callable[[DataRow], DataRow] | None = None,
) -> dict[str, Copies]:
    """Rows of validation that nearly copy one of test, and rows to learn from that nearly copy one of either.

    With `prompt_of`, also the rows of train whose prompt nearly copies that of a held-out row.
    """
    held_out = [row for name in HELD_OUT for row in splits[name]]
    known = HeldOut(map(_readings, held_out), jaccard=jaccard, shingle_words=shingle_words)
    taught = [name for name in TAUGHT if name in splits]
    tests = range(len(splits["test"]))
    result = {"test": _copies(splits["test"], {}, held_out)}
    total = sum(len(splits[name]) for name in ("validation", *taught))
    with progress.task("near-copies", total, "rows") as advance:
        of_test = known.copies(map(_readings, splits["validation"]), among=tests, advance=advance)
        result["validation"] = _copies(splits["validation"], of_test, held_out)
        # A row of validation that is itself left out is no reason to leave out another.
        used = frozenset(range(len(held_out))) - {len(tests) + number for number in of_test}
        for name in taught:
            found = known.copies(map(_readings, splits[name]), among=used, advance=advance)
            if prompt_of is not None and name == "train":
                prompts = HeldOut(
                    (_readings(prompt_of(row)) for row in held_out), jaccard=jaccard, shingle_words=shingle_words
                )
                asked = (_readings(prompt_of(row)) for row in splits[name])
                found = prompts.copies(asked, among=used) | found
            result[name] = _copies(splits[name], found, held_out)
    return result


def _readings(row: DataRow) -> Readings:
    # A pair is copied where both of its texts are: one premise has many hypotheses, and each pair its own label.
    if isinstance(row, Row) and row.second_at is not None:
        return row.texts
    # Without the system turn first, by which what is shared by many rows alone makes no candidates.
    return row.own_text, row.text


def _copies(rows: Sequence[DataRow], found: Mapping[int, int], originals: Sequence[DataRow]) -> Copies:
    dropped = np.zeros(len(rows), dtype=np.bool_)
    dropped[list(found)] = True
    other = 0
    examples: list[Copy] = []
    for number, original in sorted(found.items()):
        row = rows[number]
        otherwise = _labelled_otherwise(row, originals[original])
        other += otherwise
        if sum(each.other_label is otherwise for each in examples) < EXAMPLES:
            examples.append(Copy.between(row, originals[original]))
    return Copies(dropped, other, some(examples))


def _labelled_otherwise(row: DataRow, original: DataRow) -> bool:
    return row.labelled and original.labelled and bool(row.label != original.label)
