"""Where in a teacher's tokens of a row each token of the student's lies, by byte offsets of what both learn to write.

Both read a row in their own template; what is compared are the runs of tokens that are learnt, such as responses, by
their segments.

The probability that the student writes its tokens up to some place is the sum over all that the teacher may have
written: its own tokens of the row up to there, or up to an earlier place and then one that goes on as the row does and
further (`Prefix`). What it writes next has the ratio of two such sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from potstill.cross_tokenizer.segments import UNLIKE, Segment, alike, alike_parts, facing, runs
from potstill.cross_tokenizer.vocabularies import Begun, Ids, Vocabularies
from potstill.data.tokens import Tokenised

UNKNOWN, PLAIN, MIXED = range(3)
"""Of a token of the student's: the teacher says nothing of it; what it says is one distribution over its own tokens; or
several go into it."""
BACK = 4
"""Tokens of the teacher's that are looked back over for one that may go on: those of one word."""


@dataclass(frozen=True)
class Prefix:
    """What the teacher may have written where the student has written its tokens up to a place.

    Steps count the teacher's tokens of the row from the first that a `Question` is about.
    """

    open: tuple[tuple[int, Begun], ...]
    """Steps at which a token may have begun that goes on, with what is written of it."""
    ending: tuple[tuple[int, Begun], ...] = ()
    """The same of tokens that end here, where the teacher's of the row does not: what follows them is not known."""
    boundary: int | None = None
    """The step of the token of the row that begins here."""
    asked: bool = False
    """Whether the teacher was asked which token begins here."""
    last: int | None = None
    """The student's token that ends here."""


@dataclass(frozen=True)
class Question:
    """What is asked about one token of the student's."""

    first: int
    """The place of step 0."""
    tokens: tuple[int, ...]
    """The teacher's tokens of the row at each step."""
    before: Prefix
    after: Prefix
    next: int | None = None
    """The teacher's token that goes on as the row does."""

    @property
    def asked(self) -> range:
        """The steps at which the teacher is asked."""
        prefixes = self.before, self.after
        steps = [step for prefix in prefixes for step, _ in (*prefix.open, *prefix.ending)]
        steps += [prefix.boundary for prefix in prefixes if prefix.boundary is not None and prefix.asked]
        steps += [prefix.boundary - 1 for prefix in prefixes if prefix.boundary]
        return range(max(steps) + 1)


@dataclass(frozen=True)
class Aligned:
    """The learnt tokens of an example of the student's."""

    tokens: Ids
    kinds: npt.NDArray[np.int8]
    places: Ids
    """Of plain ones which learnt token of the teacher's rows each begins with, counted over all of them."""
    questions: dict[int, Question] = field(default_factory=dict)
    """By number of the token, of those that are mixed."""

    @property
    def known(self) -> "Aligned":
        """The tokens alone of which the teacher says something."""
        kept = np.flatnonzero(self.kinds != UNKNOWN)
        numbers = {int(old): new for new, old in enumerate(kept)}
        questions = {numbers[old]: question for old, question in self.questions.items()}
        return Aligned(self.tokens[kept], self.kinds[kept], self.places[kept], questions)


def align_row(
    vocabularies: Vocabularies,
    teacher: Sequence[Tokenised],
    first: int,
    student: Sequence[Tokenised],
    *,
    joined: bool,
) -> list[Aligned]:
    """For each of the student's examples of a row where its learnt tokens lie in those of the teacher's.

    `first` is the number of the teacher's first learnt token of the row among those of all rows. `joined` says that
    examples are windows of one text.
    """
    tokens = np.concatenate([each.ids[each.trained] for each in student]).astype(np.int64)
    found = Aligned(tokens, np.full(len(tokens), UNKNOWN, dtype=np.int8), np.zeros(len(tokens), dtype=np.int64))
    theirs = list(runs(teacher, vocabularies.teacher, vocabularies.teacher_roles, UNLIKE[0], joined=joined))
    own = list(runs(student, vocabularies.student, vocabularies.student_roles, UNLIKE[1], joined=joined))
    for other, run in facing(theirs, own):
        for number, (their_segment, own_segment) in enumerate(zip(other, run, strict=False)):
            pair = their_segment, own_segment
            if number == 0 and their_segment.lead != own_segment.lead:
                pair = their_segment.after(their_segment.lead), own_segment.after(own_segment.lead)
            for theirs_here, own_here in alike_parts(*pair):
                _Facing(vocabularies, theirs_here, own_here, first).place(found)
            if not _ends_alike(vocabularies, *pair):
                break
    return _per_example(found, [int(each.trained.sum()) for each in student])


def _ends_alike(vocabularies: Vocabularies, theirs: Segment, own: Segment) -> bool:
    """Whether special tokens of one role end both, so that what follows faces each other, too."""
    if theirs.ended_by is None or own.ended_by is None:
        return False
    return vocabularies.paired(theirs.ended_by, own.ended_by)


@dataclass(frozen=True)
class _Facing:
    """A segment of the teacher's and one of the student's, of one text."""

    vocabularies: Vocabularies
    theirs: Segment
    own: Segment
    first: int

    @cached_property
    def _same(self) -> int:
        """How many bytes both begin with alike."""
        return alike(self.theirs.text, self.own.text)

    @cached_property
    def _spaced(self) -> Ids:
        """The teacher's tokens that have bytes, in order."""
        return np.flatnonzero(self.theirs.ends > self.theirs.starts)

    @cached_property
    def _starts(self) -> Ids:
        """Where each of these begins."""
        return self.theirs.starts[self._spaced]

    @cached_property
    def _boundaries(self) -> dict[int, int]:
        """By offset the number of the teacher's token that begins there, and of the one behind all."""
        found = {
            int(self.theirs.starts[number]): int(number) for number in self._spaced if self.theirs.starts[number] >= 0
        }
        if self._same == len(self.theirs.text):
            found[len(self.theirs.text)] = len(self.theirs.ids)
        return found

    @cached_property
    def _offsets(self) -> list[int]:
        """Where each of the student's tokens begins, and the end of the last."""
        return [*self.own.starts.tolist(), *self.own.ends[-1:].tolist()] or [len(self.own.text)]

    @cached_property
    def _begins(self) -> dict[int, int]:
        """By offset the student's token that begins there with bytes."""
        return {start: number for number, start in enumerate(self._offsets[:-1]) if 0 <= start < self.own.ends[number]}

    def place(self, found: Aligned) -> None:
        """Fill in what is known of the student's tokens."""
        starts, ends = self.own.starts, self.own.ends
        before = -1, Prefix(())
        for number in np.flatnonzero((starts >= 0) & (ends > starts) & (ends <= self._same)).tolist():
            after = number + 1, self._prefix(number + 1)
            known = before[1] if before[0] == number else self._prefix(number)
            self._place(number, int(self.own.ids[number]), known, after[1], found)
            before = after
        alike = self._same == len(self.theirs.text) == len(self.own.text)
        if alike and _ends_alike(self.vocabularies, self.theirs, self.own):
            last = len(self.own.ids)
            assert self.own.ended_by is not None
            behind = Prefix((), boundary=len(self.theirs.ids) + 1)
            self._place(last, self.own.ended_by, self._prefix(last), behind, found)

    def _place(self, number: int, token: int, before: Prefix, after: Prefix, found: Aligned) -> None:
        vocabularies, own = self.vocabularies, int(self.own.numbers[number])
        if not (before.open or before.ending or before.asked) or not (
            after.open or after.ending or after.boundary is not None
        ):
            return
        following = self._following(before)
        if before.asked and not before.open and not self._excluded(before):
            assert following is not None
            group = vocabularies.group_of_student[token]
            if vocabularies.group_of_teacher[following] == group and vocabularies.tokens_in_group[group] == 1:
                found.kinds[own] = PLAIN
                found.places[own] = self.first + int(self.theirs.numbers[before.boundary])
                return
        steps = [step for prefix in (before, after) for step, _ in (*prefix.open, *prefix.ending)]
        steps += [prefix.boundary for prefix in (before, after) if prefix.boundary is not None]
        lowest, highest = min(steps), max(steps)
        tokens = self.theirs.ids[lowest : highest + 1].tolist()
        if highest >= len(self.theirs.ids) and self.theirs.ended_by is not None:
            tokens.append(self.theirs.ended_by)
        found.kinds[own] = MIXED
        found.questions[own] = Question(
            self.first + int(self.theirs.numbers[lowest]),
            tuple(tokens),
            _shifted(before, lowest),
            _shifted(after, lowest),
            following,
        )

    def _following(self, before: Prefix) -> int | None:
        """The teacher's token of the row that begins here, or that goes on."""
        if before.boundary is not None:
            return self._next(before.boundary)
        return None if not before.open else int(self.theirs.ids[before.open[0][0]])

    def _next(self, boundary: int | None) -> int | None:
        """The teacher's token that begins at a boundary."""
        if boundary is None:
            return None
        return int(self.theirs.ids[boundary]) if boundary < len(self.theirs.ids) else self.theirs.ended_by

    def _excluded(self, prefix: Prefix) -> bool:
        return prefix.last is not None and len(self.vocabularies.going_on(prefix.last)) > 0

    def _prefix(self, number: int) -> Prefix:
        """What the teacher may have written before the student's token of this number."""
        offset = self._offsets[number]
        boundary = self._boundaries.get(offset)
        asked = boundary is not None and (boundary < len(self.theirs.ids) or self.theirs.ended_by is not None)
        begun = list(self._begun(number, offset))
        if boundary is None and not self._goes_on_as_written(begun):
            return Prefix(())
        longer = tuple(each for each in begun if len(self.vocabularies.extending(each[1]).longer))
        last = int(self.own.ids[number - 1]) if number and offset > 0 else None
        if last is not None and self._next(boundary) in self.vocabularies.going_on(last):
            # Within this text the student's token is not the longer one, whatever it is by itself.
            last = None
        ending = tuple(each for each in begun if boundary is None and len(self.vocabularies.extending(each[1]).ending))
        return Prefix(longer, ending, boundary, asked, last)

    def _goes_on_as_written(self, begun: Sequence[tuple[int, Begun]]) -> bool:
        """Whether the teacher's token of the row that goes on here is spelled by the student as by itself."""
        if not begun:
            return False
        step, written = begun[0]
        return int(self.theirs.ids[step]) in self.vocabularies.extending(written).longer

    def _begun(self, number: int, offset: int) -> Iterator[tuple[int, Begun]]:
        """The teacher's last tokens that begin before an offset, the nearest first, with what is written of each."""
        if not len(self._spaced):
            return
        at = int(np.searchsorted(self._starts, offset)) - 1
        for place in range(at, max(-1, at - BACK), -1):
            step = int(self._spaced[place])
            start = int(self.theirs.starts[step])
            if start in self._begins:
                yield step, tuple(self.own.ids[self._begins[start] : number].tolist())
            else:
                written = self.theirs.before[start:] if start < 0 else b""
                yield step, written + self.own.text[max(0, start) : offset]


def _shifted(prefix: Prefix, first: int) -> Prefix:
    """The same with the steps counted from `first`."""
    return Prefix(
        tuple((step - first, begun) for step, begun in prefix.open),
        tuple((step - first, begun) for step, begun in prefix.ending),
        None if prefix.boundary is None else prefix.boundary - first,
        prefix.asked,
        prefix.last,
    )


def _per_example(row: Aligned, counts: Sequence[int]) -> list[Aligned]:
    """What is known of a row, for each of its examples."""
    found, start = [], 0
    for count in counts:
        rows = slice(start, start + count)
        here = {number - start: each for number, each in row.questions.items() if start <= number < start + count}
        found.append(Aligned(row.tokens[rows], row.kinds[rows], row.places[rows], here))
        start += count
    return found
