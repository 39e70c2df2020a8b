"""The attack on toy classifiers whose weak places are known."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest

from potstill.evaluation.robustness.attack import (
    CANDIDATES,
    Answers,
    Attack,
    Limits,
    Outcome,
    Texts,
    attack,
    run_attacks,
)

WIDE = Limits(queries=1000, max_changed_words=0.2)
SENTENCE = "one two three four five apple seven eight nine ten"


class Counting:
    """A classifier of one text, or two, which remembers what it was asked, batch by batch."""

    def __init__(self, probability: Callable[[Texts], float], threshold: float = 0.5) -> None:
        self.probability, self.threshold = probability, threshold
        self.batches: list[list[Texts]] = []

    def __call__(self, asked: Sequence[tuple[int, Texts]]) -> Answers:
        self.batches.append([texts for _, texts in asked])
        found = np.array([self.probability(texts) for _, texts in asked])
        return Answers(found, found > self.threshold)

    @property
    def count(self) -> int:
        return sum(map(len, self.batches))


def on(text: str | Texts, model: Counting, limits: Limits = WIDE, seed: int = 0) -> Outcome:
    texts = (text,) if isinstance(text, str) else text
    (outcome,) = run_attacks([attack(texts, limits, Random(seed))], model)
    assert outcome.queries == model.count <= limits.queries
    return outcome


def keyword(word: str) -> Callable[[Texts], float]:
    return lambda texts: 0.9 if word in " ".join(texts).split() else 0.1


def test_the_word_that_decides_is_found_and_alone_changed() -> None:
    for seed in range(5):
        model = Counting(keyword("apple"))
        outcome = on(SENTENCE, model, seed=seed)
        assert (outcome.right_before, outcome.succeeded, outcome.changed, outcome.words) == (True, True, 1, 10)
        assert outcome.share_changed == 0.1
        before, after = SENTENCE.split(), outcome.texts[0].split()
        assert [a for a, b in zip(before, after, strict=True) if a != b] == ["apple"]
        # The text, each word left out, and one round of changes.
        assert [len(batch) for batch in model.batches] == [1, 10, CANDIDATES]


def test_the_order_of_words_is_that_of_their_importance() -> None:
    """A word left out costs what it is worth; a changed one costs nothing, so every word is tried in its turn."""
    worth = {"aa": 0.05, "bb": 0.20, "cc": 0.10, "dd": 0.15}

    def probability(texts: Texts) -> float:
        words = texts[0].split()
        return 0.9 if len(words) == 4 else 0.9 - sum(value for word, value in worth.items() if word not in words)

    model = Counting(probability, threshold=0.0)
    outcome = on("aa bb cc dd", model, Limits(1000, 1.0))
    assert outcome.texts == ("aa bb cc dd",) and outcome.changed == 0 and not outcome.succeeded
    first, left_out, *rounds = model.batches
    assert first == [("aa bb cc dd",)]
    assert left_out == [(" bb cc dd",), ("aa  cc dd",), ("aa bb  dd",), ("aa bb cc ",)]
    tried = [
        [n for n in range(4) if {texts[0].split()[n] for texts in batch} != {["aa", "bb", "cc", "dd"][n]}]
        for batch in rounds
    ]
    assert tried == [[1], [3], [2], [0]]
    assert all(len(set(batch)) == len(batch) == CANDIDATES for batch in rounds)


def test_of_each_round_what_lowers_the_probability_most_is_kept() -> None:
    """Each text has a probability of its own; a round begins with the best of all before."""

    def probability(texts: Texts) -> float:
        return 0.6 + 0.3 * Random(texts[0]).random()

    for seed in range(20):
        model = Counting(probability)
        outcome = on("one two three four five", model, Limits(1000, 1.0), seed)
        lowest, base = probability(("one two three four five",)), "one two three four five"
        changed = 0
        for batch in model.batches[2:]:
            for (text,) in batch:
                assert sum(a != b for a, b in zip(base.split(), text.split(), strict=True)) == 1
            best = min(batch, key=probability)
            if probability(best) < lowest:
                lowest, base, changed = probability(best), best[0], changed + 1
        assert outcome.texts == (base,) and outcome.changed == changed and not outcome.succeeded


def test_a_wrong_answer_comes_before_a_low_probability() -> None:
    """As of several labels, where a text can be wrong with a high chance of the truth."""
    seen: list[str] = []

    def ask(asked: Sequence[tuple[int, Texts]]) -> Answers:
        texts = [text for _, (text,) in asked]
        seen.extend(texts)
        falling = np.linspace(0.9, 0.6, len(texts))
        wrong = np.array([len(texts) == CANDIDATES and number == 2 for number in range(len(texts))])
        return Answers(falling, ~wrong)

    (outcome,) = run_attacks([attack(("wonderful days",), Limits(1000, 1.0), Random(0))], ask)
    assert outcome.succeeded and outcome.changed == 1
    assert outcome.texts == (seen[3 + 2],)


@pytest.mark.parametrize(
    ("share", "words", "most"), [(0.2, 10, 2), (0.2, 14, 2), (0.2, 15, 3), (0.2, 3, 1), (1.0, 4, 4)]
)
def test_no_more_words_are_changed_than_allowed(share: float, words: int, most: int) -> None:
    text = " ".join(f"word{number}" for number in range(words))
    # Every change lowers it, and nothing makes it wrong.
    model = Counting(
        lambda texts: 0.9 - 0.01 * sum(a != b for a, b in zip(texts[0].split(), text.split(), strict=False))
    )
    outcome = on(text, model, Limits(10_000, share))
    assert outcome.changed == most == sum(a != b for a, b in zip(outcome.texts[0].split(), text.split(), strict=True))
    assert outcome.share_changed == pytest.approx(most / words) and not outcome.succeeded


@pytest.mark.parametrize("budget", [1, 2, 3, 10, 11, 27, 200])
def test_the_budget_is_used_up_and_never_passed(budget: int) -> None:
    text = " ".join(f"word{number}" for number in range(300))
    model = Counting(lambda texts: 0.9)
    outcome = on(text, model, Limits(budget, 1.0))
    assert outcome.queries == budget and not outcome.succeeded
    if budget > 3:
        # Half of what is left after the text itself.
        assert len(model.batches[1]) == (budget - 1) // 2


def test_what_is_wrong_already_is_not_attacked() -> None:
    model = Counting(keyword("pear"))
    outcome = on(SENTENCE, model)
    assert outcome == Outcome((SENTENCE,), False, False, 1, 0, 10) and model.count == 1


@pytest.mark.parametrize("text", ["", "?!", "🦊 🦊"])
def test_a_text_without_words_cannot_be_changed(text: str) -> None:
    outcome = on(text, Counting(lambda texts: 0.9))
    assert outcome == Outcome((text,), True, False, 1, 0, 0) and outcome.share_changed == 0


def test_a_single_word_is_changed_and_never_left_out() -> None:
    model = Counting(keyword("apple"))
    assert on("apple", model).succeeded
    assert all(texts[0] for batch in model.batches for texts in batch)


def test_what_stands_between_words_stays() -> None:
    text = "(see:\tapple,\n now)"
    outcome = on(text, Counting(lambda texts: 0.9 if "apple" in texts[0] else 0.1))
    assert outcome.succeeded and outcome.texts[0].startswith("(see:\t") and outcome.texts[0].endswith(",\n now)")


def test_of_a_pair_either_text_can_be_changed() -> None:
    outcome = on(("one two", "three apple"), Counting(keyword("apple")))
    assert outcome.succeeded and outcome.texts[0] == "one two" and outcome.texts[1] != "three apple"


def test_attacks_side_by_side_are_those_one_by_one() -> None:
    texts = [SENTENCE, "apple", "nothing here", "an apple a day and more", "?"]
    wanted = [on(text, Counting(keyword("apple")), seed=number) for number, text in enumerate(texts)]
    model, ended = Counting(keyword("apple")), []
    begun: list[Attack] = [attack((text,), WIDE, Random(number)) for number, text in enumerate(texts)]
    assert run_attacks(begun, model, ended.append) == wanted
    assert sum(ended) == len(texts) and len(model.batches[0]) == len(texts)
    assert model.count == sum(each.queries for each in wanted)


def test_the_same_seed_makes_the_same_attack() -> None:
    found = [on(SENTENCE, Counting(keyword("apple")), seed=3).texts for _ in range(2)]
    assert found[0] == found[1]
    assert len({on(SENTENCE, Counting(keyword("apple")), seed=seed).texts for seed in range(5)}) > 1
