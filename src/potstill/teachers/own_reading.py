"""A teacher whose student reads with another tokenizer: it reads the same rows with its own.

Labels belong to rows and to words, which both read. The words of a document lie in windows, which are cut by tokens:
those that the student reads together, the teacher may read in two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from potstill.data.encoded import Encoded
from potstill.data.words import EncodedWords
from potstill.signals import Batch, Signals, Teacher
from potstill.targets import LogitTargets


@dataclass(frozen=True)
class OwnReadingTeacher:
    """`teacher`, shown its own token ids of the rows of a batch of its student's."""

    teacher: Teacher
    rows: Encoded
    """As the teacher reads them."""

    def __call__(self, batch: Batch) -> Signals:
        """The teacher's distributions for the rows of the batch, in their order."""
        own = self.rows.collate([self._numbers[name] for name in batch.ids])
        if not batch.mask.any():
            # Of a process without rows in this step nothing counts.
            own = replace(own, mask=torch.zeros_like(own.mask))
        return self.teacher(own)

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.rows.ids)}


@dataclass(frozen=True)
class OwnWindowsTeacher:
    """`teacher`, shown its own windows in which the words of a batch of its student's are answered."""

    teacher: Teacher
    words: EncodedWords
    """As the teacher reads them."""
    of_student: EncodedWords
    """The same documents, of which the student answers no other words than the teacher does (`answered_by_both`)."""

    def __call__(self, batch: Batch) -> Signals:
        """The teacher's distributions at the words of the batch, in their order."""
        windows = [self._numbers[name] for name in batch.ids]
        places = np.concatenate([self._places_of(window) for window in windows])
        asked, where = np.unique(places[:, 0], return_inverse=True)
        own = self.words.collate(asked.tolist())
        if not batch.mask.any():
            return self.teacher(replace(own, mask=torch.zeros_like(own.mask)))
        signals = self.teacher(own)
        if signals.target is not None:
            assert isinstance(signals.target, LogitTargets)
            logits = signals.target.logits
        else:
            assert signals.logits is not None
            logits = signals.logits[own.mask.to(signals.logits.device)]
        starts = np.cumsum([0, *(self.words.positions[window] for window in asked.tolist())])
        order = torch.from_numpy(starts[where] + places[:, 1]).to(logits.device)
        return Signals(target=LogitTargets(logits[order]))

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.of_student.ids)}

    @cached_property
    def _places(self) -> Sequence[Mapping[int, tuple[int, int]]]:
        return places_of_words(self.words)

    def _places_of(self, window: int) -> npt.NDArray[np.int64]:
        """For each word that the student answers in a window, the teacher's window and the word's number in it."""
        known = self._places[int(self.of_student.documents[window])]
        words = self.of_student.windows[window].words.tolist()
        return np.array([known[word] for word in words], dtype=np.int64).reshape(-1, 2)


def places_of_words(encoded: EncodedWords) -> list[dict[int, tuple[int, int]]]:
    """For each document, the window in which each of its words is answered, and the word's number there."""
    documents = int(encoded.documents.max(initial=-1)) + 1
    found: list[dict[int, tuple[int, int]]] = [{} for _ in range(documents)]
    for number, (window, document) in enumerate(zip(encoded.windows, encoded.documents.tolist(), strict=True)):
        for place, word in enumerate(window.words.tolist()):
            found[document][word] = number, place
    return found


def answered_by_both(student: EncodedWords, teacher: EncodedWords) -> EncodedWords:
    """The student's windows without the words that the teacher's tokenizer reads as nothing, of which it has no label.

    A window that has no other words is left out.
    """
    known = places_of_words(teacher)
    windows, labels, kept = [], [], []
    for number, (window, document) in enumerate(zip(student.windows, student.documents.tolist(), strict=True)):
        there = known[document] if document < len(known) else {}
        both = np.array([word in there for word in window.words.tolist()], dtype=np.bool_)
        if both.any():
            windows.append(replace(window, places=window.places[both], words=window.words[both]))
            labels.append(student.labels[number][both])
            kept.append(number)
    return replace(
        student,
        ids=tuple(student.ids[number] for number in kept),
        windows=windows,
        labels=labels,
        documents=student.documents[kept],
    )
