"""What a teacher is asked for a batch, by the positions of its student's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from potstill.cross_tokenizer.places import UNKNOWN, Aligned, Prefix
from potstill.cross_tokenizer.vocabularies import NONE, Ids, Vocabularies

BEFORE, AFTER, ENDING = range(3)
"""What a term goes into: the probability of what is written before a token; of that with the token; and, a part of the
first, of what ends there and of which is not known what follows."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is asked for a batch, by its positions."""

    kinds: Ids
    tokens: Ids
    boundaries: Ids
    """The position of the teacher's target whose distribution is told; -1 where the token does not begin with one."""
    following: Ids
    """The teacher's token that begins there, or the student's that goes on within it; -1 of plain positions."""
    mixed: tuple["Mixed", ...]
    """Of mixed positions, ascending."""

    def of(self, rows: slice) -> "Plan":
        first, last, _ = rows.indices(len(self.kinds))
        mixed = tuple(replace(each, row=each.row - first) for each in self.mixed if first <= each.row < last)
        return Plan(self.kinds[rows], self.tokens[rows], self.boundaries[rows], self.following[rows], mixed)


@dataclass(frozen=True, eq=False)
class Mixed:
    """What is asked for a mixed position."""

    row: int
    first: int
    """The position of the teacher's target at step 0."""
    tokens: tuple[int, ...]
    terms: tuple["Term", ...]
    step: int | None
    """That of the boundary, where there is one."""


@dataclass(frozen=True, eq=False)
class Term:
    """A part of a sum over what the teacher may have written: its tokens of the row before `step`, and there one of
    these; or any but these, where it ends at a boundary."""

    side: int
    step: int
    tokens: Ids
    cells: Ids | None = None
    """The student's next token for each of the tokens."""
    all_but: bool = False


def plan_of(
    vocabularies: Vocabularies, examples: Sequence[Aligned], places: Sequence[Ids], firsts: Sequence[Ids]
) -> Plan:
    """What is asked for these examples. `places` are those of each in the teacher's target, and `firsts` those of its
    mixed tokens at step 0, in their order."""
    mixed: list[Mixed] = []
    kinds, tokens = (joined([getattr(each, name) for each in examples]) for name in ("kinds", "tokens"))
    boundaries = np.where(kinds == UNKNOWN, -1, joined(places))
    following = np.full(len(kinds), -1, dtype=np.int64)
    start = 0
    for example, steps in zip(examples, firsts, strict=True):
        for (number, question), first in zip(sorted(example.questions.items()), steps.tolist(), strict=True):
            row, before = start + number, question.before
            terms = [*_terms(vocabularies, before, BEFORE), *_terms(vocabularies, question.after, AFTER)]
            step = None
            boundaries[row] = -1
            if before.asked:
                assert before.boundary is not None and question.next is not None
                step, boundaries[row], following[row] = before.boundary, first + before.boundary, question.next
            elif question.next is not None:
                going = vocabularies.extending(before.open[0][1])
                following[row] = next(iter(going.following[going.longer == question.next]), -1)
            mixed.append(Mixed(row, first, question.tokens, tuple(terms), step))
        start += len(example.tokens)
    return Plan(kinds, tokens, boundaries, following, tuple(mixed))


def _terms(vocabularies: Vocabularies, prefix: Prefix, side: int) -> list[Term]:
    found = []
    for step, begun in prefix.open:
        going = vocabularies.extending(begun)
        found.append(Term(side, step, going.longer, going.following))
    for step, begun in prefix.ending:
        found.append(Term(ENDING if side == BEFORE else side, step, vocabularies.extending(begun).ending))
    if prefix.boundary is not None:
        excluded = vocabularies.going_on(prefix.last) if prefix.asked and prefix.last is not None else NONE
        found.append(Term(side, prefix.boundary, excluded, all_but=True))
    return found


def joined(parts: Sequence[Any]) -> Ids:
    return np.concatenate(parts).astype(np.int64) if parts else NONE
