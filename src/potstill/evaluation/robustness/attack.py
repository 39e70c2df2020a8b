"""A greedy attack on a classifier, letter by letter, that sees nothing but its probabilities.

After DeepWordBug (Gao et al. 2018, arXiv:1801.04354), with the importance of words as TextFooler has it (Jin et al.
2019, arXiv:1907.11932): by how much the probability of the truth falls where the word is left out.
"""

import math
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from potstill.perturbations.characters import word_changes

CANDIDATES = 10
"""Changes of a word that are tried, drawn from all that are possible."""
_WORD = re.compile(r"(\w+)")

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """What a model answers to texts: the probability of the truth of each, and whether it is right."""

    probability: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Limits:
    """What an attack may do."""

    queries: int
    """Texts that it asks about, the unchanged one among them."""
    max_changed_words: float
    """Share of the words, of which one can always be changed."""


@dataclass(frozen=True)
class Outcome:
    """What came of an attack."""

    texts: Texts
    """With the changes that were made."""
    right_before: bool
    succeeded: bool
    queries: int
    changed: int
    words: int

    @property
    def share_changed(self) -> float:
        return self.changed / max(1, self.words)


Attack = Generator[list[Texts], Answers, Outcome]
"""Yields texts to ask about, is sent the answers, and ends with what came of it."""


class _Words:
    """The words of a row's texts, each of which can be replaced."""

    def __init__(self, texts: Texts) -> None:
        # The words stand at the odd places, and what is between them at the even ones.
        self._pieces = [_WORD.split(text) for text in texts]
        self.places = [(text, piece) for text, pieces in enumerate(self._pieces) for piece in range(1, len(pieces), 2)]

    def at(self, place: int) -> str:
        text, piece = self.places[place]
        return self._pieces[text][piece]

    def put(self, place: int, word: str) -> None:
        text, piece = self.places[place]
        self._pieces[text][piece] = word

    def with_word(self, place: int, word: str) -> Texts:
        """The texts where this word stands there."""
        before = self.at(place)
        self.put(place, word)
        texts = self.texts
        self.put(place, before)
        return texts

    @property
    def texts(self) -> Texts:
        return tuple("".join(pieces) for pieces in self._pieces)


def attack(texts: Texts, limits: Limits, random: Random) -> Attack:
    """Change one word after the other, the most important first, until the model is wrong or a limit is reached.

    Half of the queries at most go into the order of the words; those after the first so many are left as they are.
    """
    words = _Words(texts)
    answers = yield [texts]
    queries, changed, lowest = 1, 0, float(answers.probability[0])

    def outcome(*, right: bool, succeeded: bool) -> Outcome:
        return Outcome(words.texts, right, succeeded, queries, changed, len(words.places))

    if not answers.right[0]:
        return outcome(right=False, succeeded=False)
    order = list(range(min(len(words.places), max(1, (limits.queries - queries) // 2))))
    if len(order) > 1:
        answers = yield [words.with_word(place, "") for place in order]
        queries += len(order)
        order = np.argsort(answers.probability, kind="stable").tolist()
    most = max(1, math.floor(limits.max_changed_words * len(words.places)))
    for place in order:
        if changed == most or queries == limits.queries:
            break
        possible = list(word_changes(words.at(place)))
        tried = random.sample(possible, min(len(possible), CANDIDATES, limits.queries - queries))
        if not tried:
            continue
        answers = yield [words.with_word(place, word) for word in tried]
        queries += len(tried)
        # One that the model is wrong about comes before all others.
        best = int(np.lexsort((answers.probability, answers.right))[0])
        if answers.right[best] and answers.probability[best] >= lowest:
            continue
        words.put(place, tried[best])
        changed, lowest = changed + 1, float(answers.probability[best])
        if not answers.right[best]:
            return outcome(right=True, succeeded=True)
    return outcome(right=True, succeeded=False)


def run_attacks(
    attacks: Sequence[Attack],
    ask: Callable[[Sequence[tuple[int, Texts]]], Answers],
    advance: Callable[[int], object] = lambda ended: None,
) -> list[Outcome]:
    """What comes of all attacks, side by side, so that a model is asked about many texts at a time.

    `ask` is given texts, each with the number of its attack; `advance` is told how many attacks have ended.
    """
    outcomes: dict[int, Outcome] = {}
    waiting = {number: next(each) for number, each in enumerate(attacks)}
    while waiting:
        answers = ask([(number, texts) for number, asked in waiting.items() for texts in asked])
        start, following = 0, {}
        for number, asked in waiting.items():
            part = slice(start, start + len(asked))
            start += len(asked)
            try:
                following[number] = attacks[number].send(Answers(answers.probability[part], answers.right[part]))
            except StopIteration as end:
                outcomes[number] = end.value
                advance(1)
        waiting = following
    return [outcomes[number] for number in range(len(attacks))]
