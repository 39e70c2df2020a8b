"""A teacher that answers in its student's tokens: it reads the same rows with its own tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby

import numpy as np
import torch

from potstill.cross_tokenizer.places import MIXED, PLAIN, UNKNOWN, Aligned, align_row
from potstill.cross_tokenizer.plans import Plan, plan_of
from potstill.cross_tokenizer.retold import RetoldTarget, Tables
from potstill.cross_tokenizer.vocabularies import Ids, Vocabularies
from potstill.data.packing import PackedRows
from potstill.data.token_rows import TokenRows
from potstill.data.tokens import TokenFile, Tokenised
from potstill.signals import Batch, PreparedTeacher, Signals, Teacher
from potstill.targets import FullTarget, LogitTargets

REMEMBERED = 1024
"""Rows whose alignment is kept: those of a few batches, since a row is aligned where it is read."""


class AlignedRows:
    """Which learnt tokens of the teacher's rows those of the student's rows lie in.

    `windows` tells of a row's id whether its examples are windows of one text.
    """

    def __init__(
        self, vocabularies: Vocabularies, teacher: TokenRows, student: TokenRows, windows: frozenset[str]
    ) -> None:
        self.vocabularies = vocabularies
        self.teacher, self.student = teacher.unpacked(), student
        self.windows = windows
        self._of_row = lru_cache(REMEMBERED)(self._align)

    @cached_property
    def starts(self) -> Ids:
        """The number of the first learnt token of each of the teacher's examples, and behind the last."""
        return np.concatenate([[0], np.cumsum(self.teacher.examples.trained_counts, dtype=np.int64)])

    def of(self, name: str) -> Aligned:
        """The learnt tokens of an example of the student's, by its id."""
        row, place = self._numbers[name]
        return self._of_row(row)[place]

    def counts(self, examples: int) -> Ids:
        """How many learnt tokens of the student's first examples are of each kind."""
        names = self.student.examples.names[:examples]
        kinds = np.concatenate([self.of(name).kinds for name in names])
        return np.bincount(kinds, minlength=MIXED + 1)

    def answered(self) -> "AnsweredRows":
        """The same without the tokens of the student's of which the teacher says nothing."""
        return AnsweredRows(self)

    @cached_property
    def _numbers(self) -> Mapping[str, tuple[str, int]]:
        """For each of the student's examples its row and its number in it."""
        named = zip(self.student.examples.row_names, self.student.examples.names, strict=True)
        return {
            name: (row, place)
            for row, names in groupby(named, key=lambda pair: pair[0])
            for place, (_, name) in enumerate(names)
        }

    @cached_property
    def _theirs(self) -> Mapping[str, range]:
        return _by_row(self.teacher.examples)

    @cached_property
    def _own(self) -> Mapping[str, range]:
        return _by_row(self.student.examples)

    def _align(self, row: str) -> list[Aligned]:
        theirs, own = self._theirs.get(row, range(0)), self._own[row]
        return align_row(
            self.vocabularies,
            [self.teacher.examples[number] for number in theirs],
            int(self.starts[theirs.start]) if theirs else 0,
            [self.student.examples[number] for number in own],
            joined=row in self.windows,
        )


class AnsweredRows(AlignedRows):
    """Aligned rows of which only the tokens count that the teacher says something of."""

    def __init__(self, whole: AlignedRows) -> None:
        assert isinstance(whole.student, PackedRows), "these are rows of a decoder"
        self._whole = whole
        known = (self._known(example) for example in whole.student.examples)
        left = TokenFile(example for example in known if example.trained.any())
        own = replace(whole.student, examples=left, counts=None).unpacked()
        super().__init__(whole.vocabularies, whole.teacher, own, whole.windows)

    def of(self, name: str) -> Aligned:
        return self._whole.of(name).known

    def _known(self, example: Tokenised) -> Tokenised:
        trained = example.trained.copy()
        trained[np.flatnonzero(trained)[self._whole.of(example.id).kinds == UNKNOWN]] = False
        return replace(example, trained=trained)


def _by_row(examples: TokenFile) -> Mapping[str, range]:
    """The examples of each row, which stand beside each other."""
    found: dict[str, range] = {}
    for number, row in enumerate(examples.row_names):
        found[row] = range(found[row].start if row in found else number, number + 1)
    return found


@dataclass(frozen=True, eq=False)
class RetellingTeacher:
    """`teacher`, shown its own tokens of the rows of a batch of its student's, and retold in those of the student."""

    teacher: Teacher
    rows: AlignedRows
    device: torch.device

    def prepare(self, batch: Batch) -> None:
        """Let the teacher read what it has stored."""
        if isinstance(self.teacher, PreparedTeacher) and (own := self._question(batch).batch) is not None:
            self.teacher.prepare(own)

    def __call__(self, batch: Batch) -> Signals:
        """The retold distributions at the positions of the batch that count."""
        if not batch.mask.any():
            return Signals()
        question = self._question(batch)
        target: FullTarget = LogitTargets(torch.zeros(0, len(self.rows.vocabularies.teacher), device=self.device))
        if question.batch is not None:
            answer = self.teacher(question.batch).target
            assert isinstance(answer, FullTarget), "such a teacher's distributions are over all of its tokens"
            target = answer
        return Signals(target=RetoldTarget(target, question.plan, self.rows.vocabularies, self._tables))

    @cached_property
    def _tables(self) -> Tables:
        return Tables.of(self.rows.vocabularies, self.device)

    def _question(self, batch: Batch) -> "_Question":
        aligned = [self.rows.of(name) for name in batch.ids]
        starts = self.rows.starts
        reached = [_reached(each) for each in aligned]
        needed = np.unique(np.searchsorted(starts, np.concatenate([*reached, []]), side="right") - 1).astype(np.int64)
        counts = starts[needed + 1] - starts[needed]
        begins = np.cumsum(counts) - counts

        def in_target(places: Ids) -> Ids:
            example = np.searchsorted(needed, np.searchsorted(starts, places, side="right") - 1)
            # What nothing is known of has no place; it is not read.
            example = example.clip(max=max(0, len(needed) - 1))
            return places - starts[needed[example]] + begins[example] if len(needed) else np.zeros_like(places)

        plan = plan_of(
            self.rows.vocabularies,
            aligned,
            [in_target(each.places) for each in aligned],
            [in_target(_firsts(each)) for each in aligned],
        )
        return _Question(self.rows.teacher.collate(needed.tolist()) if len(needed) else None, plan)


@dataclass(frozen=True, eq=False)
class _Question:
    """What the teacher is asked for a batch of its student's."""

    batch: Batch | None
    """Its own rows; None where nothing is asked."""
    plan: Plan


def _firsts(aligned: Aligned) -> Ids:
    """The places at which the questions of an example begin, in their order."""
    return np.array([aligned.questions[number].first for number in sorted(aligned.questions)], dtype=np.int64)


def _reached(aligned: Aligned) -> Ids:
    """All learnt tokens of the teacher's at which an example asks."""
    plain = aligned.places[aligned.kinds == PLAIN]
    mixed = [question.first + step for question in aligned.questions.values() for step in question.asked]
    return np.concatenate([plain, np.array(mixed, dtype=np.int64)])
