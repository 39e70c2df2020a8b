"""Two vocabularies beside each other: which of their tokens can stand for one another, and which follow from which.

A teacher's distribution over its own tokens says how likely each beginning of a text is, and no more. So the student's
tokens are put into the finest groups whose mass the teacher knows: a teacher's token belongs to the student's token
with which its spelling begins, and a student's token to the teacher's with which its own begins. Where both have a
token of the same bytes, and neither a longer one that it spells with it, the group is this token alone. With one
tokenizer on both sides all groups are. That groups are compared bounds the KL between whole tokens from below (the
data-processing inequality), and of two tokens of one group nothing is taught.
"""

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from potstill.cross_tokenizer.token_texts import TokenTexts

Ids = npt.NDArray[np.int64]
REMEMBERED = 100_000
"""Lists of tokens that are kept for each question."""
NONE = np.zeros(0, dtype=np.int64)


Begun = tuple[int, ...] | bytes
"""What is written of a token of the teacher's: the student's tokens; its bytes, where none of them begins with it."""


@dataclass(frozen=True)
class Extensions:
    """The teacher's tokens of which something is written."""

    longer: Ids
    following: Ids
    """The student's next token for each of those that are longer."""
    ending: Ids
    """Those that end there."""


class Vocabularies:
    """What is known of a teacher's and a student's tokens without a text.

    `ends` pairs special tokens with one role, such as those that end a turn, the teacher's first; one may have several.
    Others belong together where their strings are equal. A special token stands for no text, and text never for one.
    """

    def __init__(self, teacher: TokenTexts, student: TokenTexts, ends: Collection[tuple[int, int]]) -> None:
        self.teacher, self.student = teacher, student
        self._paired = _paired(teacher, student, ends)
        there = dict(self._paired)
        back = {own: theirs for theirs, own in self._paired}
        self.teacher_roles, self.student_roles = frozenset(there), frozenset(back)
        """The special tokens that face one of the other's."""
        self.spelled = _all_spelled(teacher, student)
        """Each of the teacher's tokens in the student's; () where it has none."""
        self.first_of_teacher = np.array(
            [there.get(number, ids[0] if ids else -1) for number, ids in enumerate(self.spelled)], dtype=np.int64
        )
        """The student's token with which each of the teacher's begins; -1 where there is none."""
        self._of_student = _all_spelled(student, teacher)
        self.first_of_student = np.array(
            [back.get(number, ids[0] if ids else -1) for number, ids in enumerate(self._of_student)],
            dtype=np.int64,
        )
        """The teacher's token with which each of the student's begins."""
        self.group_of_teacher, self.group_of_student, self.groups = self._grouped()
        self.tokens_in_group = np.bincount(self.group_of_student, minlength=self.groups)
        """How many of the student's."""
        self.extending = lru_cache(REMEMBERED)(self._extending)
        self.longer_than = lru_cache(REMEMBERED)(self._longer_than)
        self.going_on = lru_cache(REMEMBERED)(self._going_on)

    def paired(self, theirs: int, own: int) -> bool:
        """Whether two special tokens have one role."""
        return (theirs, own) in self._paired

    def _grouped(self) -> tuple[Ids, Ids, int]:
        """The group of each token of both, -1 of a teacher's that the student cannot begin to write."""
        known = np.flatnonzero(self.first_of_teacher >= 0)
        begun = np.flatnonzero(self.first_of_student >= 0)
        sides = len(self.teacher), len(self.student)
        rows = np.concatenate([known, self.first_of_student[begun]])
        columns = np.concatenate([self.first_of_teacher[known], begun]) + sides[0]
        size = sum(sides)
        edges = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
        _, found = connected_components(edges, directed=False)
        # Numbered in the order of the student's tokens, each of which is in one.
        names, of_student = np.unique(found[sides[0] :], return_inverse=True)
        place = np.searchsorted(names, found[: sides[0]]).clip(max=len(names) - 1)
        of_teacher = np.where(names[place] == found[: sides[0]], place, -1)
        return of_teacher.astype(np.int64), of_student.astype(np.int64), len(names)

    @cached_property
    def members(self) -> list[Ids]:
        """The student's tokens in each group."""
        return _inverted(self.group_of_student, self.groups)

    @cached_property
    def _by_spelling(self) -> tuple[list[tuple[int, ...]], list[int]]:
        """The teacher's tokens sorted by their spelling, so that those with a beginning are together."""
        pairs = sorted((ids, number) for number, ids in enumerate(self.spelled) if ids)
        return [ids for ids, _ in pairs], [number for _, number in pairs]

    def _extending(self, begun: Begun) -> Extensions:
        """The teacher's tokens that begin with what is written of one, and go on or end there."""
        if isinstance(begun, bytes):
            found = [(number, text[len(begun) :]) for text, number in self.teacher.spelled.beginning_with(begun)]
            spelt = [(number, _spelled(self.student, rest)) for number, rest in found if rest]
            longer = [(number, ids[0]) for number, ids in spelt if ids]
            ending = [number for number, rest in found if not rest]
        else:
            spelled, numbers = self._by_spelling
            lowest = bisect_left(spelled, begun)
            highest = bisect_left(spelled, (*begun[:-1], begun[-1] + 1))
            length = len(begun)
            together = [(numbers[place], spelled[place]) for place in range(lowest, highest)]
            longer = [(number, ids[length]) for number, ids in together if len(ids) > length]
            ending = [number for number, ids in together if len(ids) == length]
        pairs = np.array(longer, dtype=np.int64).reshape(-1, 2)
        return Extensions(pairs[:, 0], pairs[:, 1], np.array(ending, dtype=np.int64))

    @cached_property
    def _further(self) -> dict[int, list[bytes]]:
        """By token of the student's, what longer ones of its tokens have behind it, of those that the teacher spells
        with a token that begins there: where it writes that, the student would have written the longer one."""
        known = dict(self.student.spelled.entries)
        found: dict[int, list[bytes]] = {}
        for text, ids in zip(self.student.texts, self._of_student, strict=True):
            end = 0
            for number in ids[:-1]:
                end += len(self.teacher.texts[number] or b"")
                if text and (shorter := known.get(text[:end])) is not None:
                    found.setdefault(shorter, []).append(text[end:])
        return found

    def _longer_than(self, own: int) -> Ids:
        """The student's tokens that go on where this one ends, of those that the teacher spells with one that begins
        there."""
        text = self.student.texts[own] or b""
        found = {number for more in self._further.get(own, []) for number in self.student.spelled.exactly(text + more)}
        return np.array(sorted(found), dtype=np.int64)

    def _going_on(self, own: int) -> Ids:
        """The teacher's tokens that cannot follow the student's token `own`, which would have been a longer one."""
        found = {
            number for more in self._further.get(own, []) for _, number in self.teacher.spelled.beginning_with(more)
        }
        return np.array(sorted(found), dtype=np.int64)


def _paired(teacher: TokenTexts, student: TokenTexts, ends: Collection[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """The special tokens of the teacher's, each with one of the student's: by their role, or else by their string."""
    theirs, own = {pair[0] for pair in ends}, {pair[1] for pair in ends}
    by_name = {name: number for number, name in student.names.items() if number not in own}
    named = ((number, by_name[name]) for number, name in teacher.names.items() if name in by_name)
    return frozenset(ends) | {pair for pair in named if pair[0] not in theirs}


def _all_spelled(tokens: TokenTexts, by: TokenTexts) -> list[tuple[int, ...]]:
    """Each token in those of another tokenizer; () where it has none. One that is written alike there is itself."""
    found: list[tuple[int, ...]] = [_spelled(by, text) for text in tokens.texts]
    for text, pieces in tokens.pieces.items():
        alike = by.pieces.get(text, {})
        for piece, number in pieces.items():
            if piece in alike:
                found[number] = (alike[piece],)
    return found


def _spelled(by: TokenTexts, text: bytes | None) -> tuple[int, ...]:
    return tuple(by.spell(text)) if text else ()


def _inverted(values: Ids, size: int) -> list[Ids]:
    """For each value below `size` the places where it stands."""
    order = np.argsort(values, kind="stable")
    starts = np.searchsorted(values[order], np.arange(size + 1))
    return [order[start:end] for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
