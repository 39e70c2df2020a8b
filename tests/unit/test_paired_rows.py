"""Two models on the same rows, against references that draw the rows one by one."""

from collections.abc import Callable
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, r2_score

from potstill.comparison.paired import MEAN_ABSOLUTE_ERROR, MEASURES, compared
from potstill.evaluation.kept_rows import KeptRows, ModelRows
from potstill.measure.quality import bootstrap_weights
from potstill.records import AnswerKind

ROWS = 40
NAMES = ["fruit", "metal", "beast"]
Naive = Callable[[KeptRows, ModelRows, np.ndarray], float]


def rows_of(kind: AnswerKind, *, seed: int = 1) -> tuple[KeptRows, ModelRows, ModelRows]:
    """Rows, and the answers of two models to them, drawn at random."""
    draw = np.random.default_rng(seed)
    truth = [NAMES[number] for number in draw.integers(0, 3, ROWS)] if kind == "single_label" else None
    shared = {
        "true": draw.normal(100, 15, ROWS) if kind == "regression" else draw.integers(0, 4, ROWS).astype(float),
        "words": draw.integers(4, 20, ROWS).astype(float),
        "tokens": draw.integers(0, 20, ROWS).astype(float),
    }
    shared["tokens"][:2] = 0  # rows that are not read
    models = [_model(kind, draw, truth, shared) for _ in range(2)]
    rows = KeptRows(
        kind=kind,
        ids=[f"row-{number}" for number in range(ROWS)],
        digests=[f"{number:064x}" for number in range(ROWS)],
        models={},
        texts=[f"text {number}" for number in range(ROWS)],
        truth=truth,
    )
    return rows, models[0], models[1]


def _model(
    kind: AnswerKind, draw: np.random.Generator, truth: list[str] | None, shared: dict[str, np.ndarray]
) -> ModelRows:
    if truth is not None:
        said = [draw.choice([right, *NAMES]) for right in truth]
        right = np.array([a == b for a, b in zip(said, truth, strict=True)])
        return ModelRows([str(each) for each in said], right, {"confidence": draw.uniform(0.4, 1, ROWS)})
    if kind == "regression":
        return ModelRows(numbers={"value": shared["true"] + draw.normal(0, 8, ROWS), "true": shared["true"]})
    hits = np.minimum(shared["true"], draw.integers(0, 4, ROWS))
    labels = {"hits": hits, "given": hits + draw.integers(0, 3, ROWS), "true": shared["true"]}
    if kind == "multi_label":
        return ModelRows(["a"] * ROWS, draw.random(ROWS) < 0.6, {"confidence": draw.uniform(0.1, 1, ROWS), **labels})
    if kind == "tags":
        right_words = shared["words"] - draw.integers(0, 4, ROWS)
        numbers = {"words": shared["words"], "right_words": right_words, **labels}
        return ModelRows(["a"] * ROWS, right_words == shared["words"], numbers)
    tokens = shared["tokens"]
    sums = {name: draw.uniform(0.1, 2, ROWS) * tokens for name in ("kl", "loss")}
    numbers = {"tokens": tokens, "right_tokens": np.floor(tokens * draw.random(ROWS)), **sums}
    if kind == "text":
        return ModelRows(numbers=numbers)
    return ModelRows(["a"] * ROWS, draw.random(ROWS) < 0.6, numbers)


def unread(model: ModelRows, rows: set[int]) -> ModelRows:
    """The same, of which no token of these rows found room."""
    kept = np.array([row not in rows for row in range(ROWS)])
    sums = {name: np.where(kept, values, 0.0) for name, values in model.numbers.items()}
    return ModelRows(model.said, model.right, sums)


def put(values: np.ndarray, others: dict[int, bool]) -> np.ndarray:
    """The values with others at some places."""
    return np.array([others.get(place, value) for place, value in enumerate(values.tolist())])


def of(model: ModelRows, name: str, drawn: np.ndarray) -> np.ndarray:
    return np.array([model.numbers[name][row] for row in drawn])


def pooled(hits: str, counts: str) -> Naive:
    return lambda _, model, drawn: float(of(model, hits, drawn).sum() / of(model, counts, drawn).sum())


def share_of_right(_: KeptRows, model: ModelRows, drawn: np.ndarray) -> float:
    assert model.right is not None
    return sum(bool(model.right[row]) for row in drawn) / len(drawn)


def f1(_: KeptRows, model: ModelRows, drawn: np.ndarray) -> float:
    hits, given, true = (of(model, name, drawn).sum() for name in ("hits", "given", "true"))
    precision, recall = hits / given, hits / true
    return float(2 * precision * recall / (precision + recall))


def macro_f1(rows: KeptRows, model: ModelRows, drawn: np.ndarray) -> float:
    assert rows.truth is not None and model.said is not None
    truth, said = ([side[row] for row in drawn] for side in (rows.truth, model.said))
    return float(f1_score(truth, said, average="macro", labels=sorted(set(truth)), zero_division=0))


NAIVE: dict[AnswerKind, dict[str, Naive]] = {
    "single_label": {"accuracy": share_of_right, "macro_f1": macro_f1},
    "multi_label": {"micro_f1": f1, "accuracy": share_of_right},
    "regression": {
        MEAN_ABSOLUTE_ERROR: lambda _, model, drawn: mean_absolute_error(
            of(model, "true", drawn), of(model, "value", drawn)
        ),
        "r2": lambda _, model, drawn: r2_score(of(model, "true", drawn), of(model, "value", drawn)),
    },
    "tags": {"entity_f1": f1, "accuracy": pooled("right_words", "words")},
    "text": {
        "kl_from_teacher": pooled("kl", "tokens"),
        "cross_entropy": pooled("loss", "tokens"),
        "token_accuracy": pooled("right_tokens", "tokens"),
    },
}
NAIVE["target"] = {"exact_match": share_of_right, **NAIVE["text"]}
IN_POINTS = {"accuracy", "macro_f1", "micro_f1", "r2", "entity_f1", "token_accuracy", "exact_match"}


@pytest.mark.parametrize("kind", NAIVE)
def test_differences_are_those_of_rows_drawn_one_by_one(kind: AnswerKind) -> None:
    rows, first, second = rows_of(kind)
    weights = bootstrap_weights(ROWS, seed=5, resamples=60)
    found = compared(rows, first, second, weights).differences
    assert list(found) == list(NAIVE[kind])
    for name, naive in NAIVE[kind].items():
        scale = 100 if name in IN_POINTS else 1
        values = []
        for drawn in weights:
            places = [row for row in range(ROWS) for _ in range(int(drawn[row]))]
            values.append(scale * (naive(rows, second, np.array(places)) - naive(rows, first, np.array(places))))
        low, high = np.quantile(values[1:], [0.025, 0.975])
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((values[0], low, high))
        assert low < values[0] < high


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "tags", "target"])
def test_rows_change_from_right_to_wrong_and_back_and_mcnemar_counts_them(kind: AnswerKind) -> None:
    rows, first, second = rows_of(kind)
    assert first.right is not None and second.right is not None
    change = compared(rows, first, second, bootstrap_weights(ROWS, seed=5, resamples=9))
    pairs = list(zip(first.right.tolist(), second.right.tolist(), strict=True))
    lost = [row for row, pair in enumerate(pairs) if pair == (True, False)]
    gained = [row for row, pair in enumerate(pairs) if pair == (False, True)]
    assert sorted(change.worse.tolist()) == lost and sorted(change.better.tolist()) == gained
    assert lost and gained and len(lost) != len(gained)
    # Twice the chance that a fair coin favours one side at least so often.
    tosses, most = len(lost) + len(gained), max(len(lost), len(gained))
    tail = sum(comb(tosses, heads) for heads in range(most, tosses + 1)) / 2**tosses
    assert change.p == pytest.approx(min(1.0, 2 * tail))
    back = compared(rows, second, first, bootstrap_weights(ROWS, seed=5, resamples=9))
    assert sorted(back.worse.tolist()) == gained and back.p == change.p


def test_models_that_answer_alike_differ_by_nothing() -> None:
    for kind in NAIVE:
        rows, first, _ = rows_of(kind)
        change = compared(rows, first, first, bootstrap_weights(ROWS, seed=5, resamples=9))
        assert not len(change.worse) and not len(change.better)
        assert change.p == (None if first.right is None else 1.0)
        assert all((each.value, each.low, each.high) == (0, 0, 0) for each in change.differences.values())


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_the_surest_of_the_new_answers_come_first(kind: AnswerKind) -> None:
    rows, first, second = rows_of(kind)
    change = compared(rows, first, second, bootstrap_weights(ROWS, seed=5, resamples=9))
    for places in (change.worse, change.better):
        sure = [second.numbers["confidence"][row] for row in places]
        assert len(sure) > 2 and sure == sorted(sure, reverse=True)


def further(kind: AnswerKind, first: ModelRows, second: ModelRows, row: int) -> float:
    """By how much the second model's answer to a row is further from what it should be."""

    def away(model: ModelRows) -> float:
        each = {name: float(values[row]) for name, values in model.numbers.items()}
        if kind == "regression":
            return abs(each["value"] - each["true"])
        if kind == "tags":
            return each["words"] - each["right_words"]
        return each["kl"] / each["tokens"] if each["tokens"] else 0.0

    return away(second) - away(first)


@pytest.mark.parametrize("kind", ["regression", "tags", "text", "target"])
def test_those_that_moved_furthest_come_first(kind: AnswerKind) -> None:
    rows, first, second = rows_of(kind)
    change = compared(rows, first, second, bootstrap_weights(ROWS, seed=5, resamples=9))
    worse, better = ([further(kind, first, second, row) for row in places] for places in (change.worse, change.better))
    assert worse == sorted(worse, reverse=True) and better == sorted(better) and len(worse) > 3 < len(better)
    if first.right is None:
        assert min(worse) > 0 > max(better)
        same = [row for row in range(ROWS) if further(kind, first, second, row) == 0]
        assert len(worse) + len(better) == ROWS - len(same) and (kind != "text" or same)


def test_equal_rows_keep_their_order() -> None:
    rows, first, second = rows_of("single_label")
    assert first.right is not None
    first = ModelRows(first.said, np.ones(ROWS, dtype=np.bool_), first.numbers)
    second = ModelRows(second.said, np.zeros(ROWS, dtype=np.bool_), {"confidence": np.full(ROWS, 0.5)})
    change = compared(rows, first, second, bootstrap_weights(ROWS, seed=5, resamples=9))
    assert change.worse.tolist() == list(range(ROWS))


def test_of_teachers_no_distance_from_the_teacher_is_measured() -> None:
    rows, first, second = rows_of("text")
    weights = bootstrap_weights(ROWS, seed=5, resamples=9)
    assert list(compared(rows, first, second, weights, teachers=True).differences) == [
        "cross_entropy",
        "token_accuracy",
    ]
    assert len(MEASURES["text"]) == 3


@pytest.mark.parametrize("kind", ["text", "target"])
def test_rows_that_only_one_model_read_are_not_compared(kind: AnswerKind) -> None:
    rows, first, second = rows_of(kind)
    weights = bootstrap_weights(ROWS, seed=5, resamples=60)
    # Among them rows that were right, and became wrong, and the other way round.
    alone = {5, 7, 11, 13}
    one, two = unread(first, {5, 7}), unread(second, {11, 13})
    if first.right is not None and second.right is not None:
        one = replace(one, right=put(first.right, {5: True, 7: True, 11: True, 13: False}))
        two = replace(two, right=put(second.right, {5: False, 7: False, 11: False, 13: True}))
    change = compared(rows, one, two, weights)
    assert change.left_out == 4 and compared(rows, first, second, weights).left_out == 0
    # As if they were not there.
    places = np.array([row for row in range(ROWS) if row not in alone])
    expected = compared(rows.of(places), first.of(places), second.of(places), weights[:, places])
    assert change.p == expected.p
    for found, wanted in ((change.worse, expected.worse), (change.better, expected.better)):
        assert found.tolist() == places[wanted].tolist()
    assert list(change.differences) == list(expected.differences)
    for name, found in change.differences.items():
        wanted = expected.differences[name]
        assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert change.differences != compared(rows, first, second, weights).differences


def test_where_no_tokens_are_counted_every_row_is_compared() -> None:
    for kind in ("single_label", "multi_label", "regression", "tags"):
        rows, first, second = rows_of(kind)
        assert compared(rows, first, second, bootstrap_weights(ROWS, seed=5, resamples=9)).left_out == 0
