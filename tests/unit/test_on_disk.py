"""Rows, tokens and names that live in files and arrays behave as the lists that they stand for."""

import errno
import io
import json
import os
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.dialogues import Completion, Conversation, PlainText
from potstill.data.ids import Index, Keys
from potstill.data.on_disk import Ragged, rows_on_disk
from potstill.data.rows import Row
from potstill.data.tokens import TokenFile, Tokenised
from potstill.data.turns import Message

FAST = settings(max_examples=50, deadline=None, derandomize=True)
ROWS: list[Any] = [
    Row("a", "tä\u2028xt", None),
    Row("b", "", "klass"),
    Conversation("c", (Message("user", "?"), Message("assistant", "!", "because"))),
    Completion("d", "1 + 1 =", None),
    Completion("e", "1 + 1 =", " 2"),
    PlainText("f", "\x00 and 🍶"),
]


@FAST
@given(texts=st.lists(st.text("ab\x00", max_size=3), max_size=40), wanted=st.text("ab\x00", max_size=3))
def test_an_index_finds_the_first_of_equal_texts(texts: list[str], wanted: str) -> None:
    index = Index(Keys(texts))
    assert index.first_with().tolist() == [texts.index(text) for text in texts]
    assert index.find(wanted) == (texts.index(wanted) if wanted in texts else None)
    repeated = [number for number, text in enumerate(texts) if text in texts[:number]]
    assert index.first_repeated() == (repeated[0] if repeated else None)


@FAST
@given(texts=st.lists(st.text("ab", max_size=3), max_size=20), seed=st.integers(0, 99))
def test_chosen_and_joined_keys_are_those_of_their_texts(texts: list[str], seed: int) -> None:
    chosen = np.random.default_rng(seed).permutation(len(texts))[: len(texts) // 2]
    keys = Keys(texts).where(chosen) + Keys(["one more"])
    expected = Keys([*(texts[number] for number in chosen), "one more"])
    for found, wanted in zip(keys.halves(), expected.halves(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_two_texts_whose_hashes_agree_in_the_first_half_are_told_apart() -> None:
    keys = Keys()
    for second in (1, 2, 1):
        keys._halves.extend([7, second])
    assert Index(keys).first_with().tolist() == [0, 1, 0]


def test_rows_come_back_as_they_were() -> None:
    kept = rows_on_disk(iter(ROWS))
    assert list(kept) == ROWS and [kept[number] for number in range(len(ROWS))] == ROWS
    assert kept[-1] == ROWS[-1] and list(kept[1:5:2]) == ROWS[1:5:2]
    # Built anew, so what is done to one is not seen in the next.
    assert kept[0] is not kept[0]
    with pytest.raises(IndexError):
        kept[len(ROWS)]


@FAST
@given(first=st.lists(st.booleans(), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_chosen_rows_can_be_chosen_from_again(first: list[bool], seed: int) -> None:
    kept = rows_on_disk(ROWS).where(np.array(first))
    second = np.random.default_rng(seed).random(sum(first)) < 0.5
    expected = [row for row, taken in zip(ROWS, first, strict=True) if taken]
    assert list(kept) == expected
    assert list(kept.where(second)) == [row for row, taken in zip(expected, second, strict=True) if taken]


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        """As a file behind a buffer: the disk is heard of when the buffer is written, and once more on closing."""

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __exit__(self, *_: Any) -> None:
            self.flush()

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match=r"TMPDIR") as raised:
        rows_on_disk(ROWS)
    assert raised.value.errno == errno.ENOSPC


def test_no_rows_are_no_rows() -> None:
    kept = rows_on_disk([])
    assert len(kept) == 0 and list(kept) == [] and list(kept.where(np.zeros(0, dtype=np.bool_))) == []


@FAST
@given(lists=st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6))
def test_ragged_lists_are_their_lists_and_sum_what_they_name(lists: list[list[int]]) -> None:
    ragged, values = Ragged(lists), np.arange(10, dtype=np.int32) ** 2
    assert list(ragged) == [tuple(each) for each in lists]
    assert [list(each) for each in ragged[1:3]] == lists[1:3]
    assert list(ragged.sums_of(values)) == [sum(int(values[number]) for number in each) for each in lists]


def test_tokens_come_back_with_their_names_and_counts() -> None:
    drawn = np.random.default_rng(0)
    given = []
    for number, name in enumerate(["a", "ümlaut#1", "", "\x00b"]):
        trained = drawn.random(3 + number) < 0.5
        trained[0] = False
        given.append(Tokenised(name, drawn.integers(0, 2**31 - 1, 3 + number).astype(np.int32), trained))
    kept = TokenFile(iter(given))
    assert kept.lengths.tolist() == [3, 4, 5, 6]
    assert kept.trained_counts.tolist() == [int(each.trained.sum()) for each in given]
    assert list(kept.names) == [each.id for each in given] and kept.names[1:3] == ["ümlaut#1", ""]
    for found, wanted in zip([*kept[:3], kept[-1]], given, strict=True):
        assert found.id == wanted.id
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.trained, wanted.trained)
    assert kept.first_repeated() is None
    assert TokenFile([*given, given[1]]).first_repeated() == 4
    assert len(TokenFile([])) == 0


def test_what_is_kept_of_a_row_is_what_its_fingerprint_is_made_of() -> None:
    for row in ROWS:
        assert type(row).of(json.loads(json.dumps(row.content))) == row
