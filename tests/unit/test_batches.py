"""Batches: every row once an epoch, the same from any step, and padding that nobody attends to."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.batches import RowOrder, batches_by_length, micro_batches
from potstill.data.encoded import EncodedRows

FAST = settings(max_examples=25, deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=150)


@FAST
@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 9))
def test_every_row_comes_once_an_epoch(lengths: list[int], size: int, seed: int) -> None:
    steps = RowOrder(lengths, size, seed)
    drawn = [steps.at(step) for step in range(3 * steps.steps_per_epoch)]
    for epoch in range(3):
        part = drawn[epoch * steps.steps_per_epoch : (epoch + 1) * steps.steps_per_epoch]
        assert sorted(number for rows in part for number in rows) == list(range(len(lengths)))
        assert all(1 <= len(rows) <= size for rows in part)
    assert len(drawn) == 3 * math.ceil(len(lengths) / size)


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (23, 4), (24, 4), (300, 7)])
def test_going_on_from_any_step_equals_an_uninterrupted_pass(rows: int, size: int) -> None:
    lengths = [1 + number * 7 % 13 for number in range(rows)]
    order = RowOrder(lengths, size, 3)
    total = 2 * order.steps_per_epoch + 1
    whole = [order.at(step) for step in range(total)]
    for step in range(total):
        resumed = RowOrder(lengths, size, 3)
        assert [resumed.at(later) for later in range(step, total)] == whole[step:]
    # In any order of asking.
    assert [order.at(step) for step in reversed(range(total))] == whole[::-1]


def test_seeds_and_epochs_give_different_orders() -> None:
    lengths = [5] * 64
    orders = [tuple(map(tuple, RowOrder(lengths, 4, seed).epoch(epoch))) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_a_batch_holds_rows_of_similar_length() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 128, 2000).tolist()
    spans = [
        max(lengths[number] for number in rows) - min(lengths[number] for number in rows)
        for rows in RowOrder(lengths, 16, 0).epoch(0)
    ]
    assert np.mean(spans) < 10


@FAST
@given(lengths=LENGTHS, size=st.integers(1, 9))
def test_batches_by_length_hold_every_row_once_in_order_of_length(lengths: list[int], size: int) -> None:
    batches = batches_by_length(lengths, size)
    flat = [number for rows in batches for number in rows]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[number] for number in flat] == sorted(lengths)
    assert all(len(rows) == size for rows in batches[:-1])


@FAST
@given(rows=st.lists(st.integers(0, 999), min_size=1, max_size=40), size=st.integers(1, 9), world=st.integers(1, 5))
def test_micro_batches_of_all_ranks_hold_a_steps_rows_once(rows: list[int], size: int, world: int) -> None:
    pieces = [micro_batches(rows, size, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(number for rank in pieces for piece in rank for number in piece) == sorted(rows)
    assert len({len(rank) for rank in pieces}) == 1
    assert all(len(piece) <= size for rank in pieces for piece in rank)


def test_collating_pads_on_the_right_and_attends_to_content_alone() -> None:
    rows = EncodedRows(
        ids=("a", "b", "c"),
        tokens=[np.array([5, 6], np.int32), np.array([0, 7, 8], np.int32), np.array([9], np.int32)],
        labels=np.array([1, -100, 0]),
        pad_id=0,
        truncated=0,
    )
    batch = rows.collate([2, 1])
    assert batch.ids == ("c", "b")
    assert batch.inputs["input_ids"].tolist() == [[9, 0, 0], [0, 7, 8]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [0, -100]
    assert batch.mask.all()
    selected = rows.select([1, 0])
    assert selected.ids == ("b", "a") and list(selected.lengths) == [3, 2]
    assert selected.labels.tolist() == [-100, 1]
