"""From files to splits: duplicates and near-copies out, shares that stay, every loss of rows counted."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.near_copies import near_copies, normalised, shingles
from potstill.data.prepare import DataSettings, prepare
from potstill.data.rows import Row, read_rows
from potstill.data.splits import stable_fraction, stable_order
from potstill.errors import DataError
from potstill.tasks import CausalLM, TextClassification
from tests.unit.test_rows import lines

FAST = settings(max_examples=25, deadline=None, derandomize=True)


def brute_force(texts: list[str], held_out: list[str], share: Fraction, size: int) -> set[int]:
    found = set()
    for number, text in enumerate(texts):
        for other in held_out:
            a, b = shingles(text, size), shingles(other, size)
            if Fraction(len(a & b), len(a | b)) >= share:
                found.add(number)
    return found


WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    texts=st.lists(WORDS, max_size=8),
    held_out=st.lists(WORDS, max_size=8),
    share=st.sampled_from([(1, 2), (11, 20), (3, 5), (7, 10), (4, 5), (1, 1), (1, 10)]),
    size=st.integers(1, 3),
)
def test_near_copies_are_those_of_a_comparison_of_all_pairs(
    texts: list[str], held_out: list[str], share: tuple[int, int], size: int
) -> None:
    found = near_copies(texts, held_out, jaccard=share[0] / share[1], shingle_words=size)
    assert set(found) == brute_force(texts, held_out, Fraction(*share), size)
    for text, copied in found.items():
        a, b = shingles(texts[text], size), shingles(held_out[copied], size)
        assert len(a & b) / len(a | b) >= share[0] / share[1] - 1e-9


@pytest.mark.parametrize(("common", "union"), [(11, 20), (7, 10), (14, 25), (29, 50), (57, 100)])
def test_a_share_that_is_just_reached_counts(common: int, union: int) -> None:
    held_out = " ".join(f"w{number}" for number in range(union))
    text = " ".join(f"w{number}" for number in range(common))
    assert near_copies([text], [held_out], jaccard=common / union, shingle_words=1) == {0: 0}
    assert near_copies([text], [held_out], jaccard=(common + 1) / union, shingle_words=1) == {}


def test_normalising_keeps_words_of_every_alphabet_alone() -> None:
    assert normalised("  Héllo,\tWORLD!\n日本 42 ") == "héllo world 日本 42"


def corpus(tmp_path: Path, **files: list[dict[str, Any]]) -> None:
    for name, records in files.items():
        lines(tmp_path / f"{name}.jsonl", *records)


def row(text: str, label: str | None = "x", **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, **more}


FILES = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")


def test_held_out_rows_win_over_training_rows_and_labelled_rows_over_unlabelled(tmp_path: Path) -> None:
    corpus(
        tmp_path,
        test=[row("one"), row("ONE!")],
        validation=[row("two"), row("One.")],
        train=[row("one"), row("two"), row("three", None), row("Three"), row("four"), row("   "), row("...", "y")],
    )
    splits = prepare(FILES, tmp_path, read_rows)
    assert {name: [found.text for found in split.rows] for name, split in splits.items()} == {
        "test": ["one"],
        "validation": ["two"],
        "train": ["Three", "four", "..."],
    }
    train = splits["train"]
    assert (train.read, train.blank_dropped, train.duplicates_dropped) == (7, 1, 3)
    assert train.labelled == 3


def test_training_rows_that_nearly_copy_a_held_out_row_are_dropped_and_counted(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(60))
    corpus(
        tmp_path,
        test=[row(text)],
        validation=[row("something else entirely")],
        train=[row(text + " more"), row("unrelated words")],
    )
    splits = prepare(FILES, tmp_path, read_rows)
    assert [found.text for found in splits["train"].rows] == ["unrelated words"]
    assert splits["train"].near_copies_dropped == 1
    kept = prepare(FILES.model_copy(update={"near_copies": None}), tmp_path, read_rows)
    assert len(kept["train"].rows) == 2


def test_the_same_id_in_two_splits_is_refused(tmp_path: Path) -> None:
    corpus(
        tmp_path,
        test=[row("one", id="a")],
        validation=[row("two", id="b")],
        train=[row("three", id="a")],
    )
    with pytest.raises(DataError, match=r'Duplicate id "a": in data\.test and data\.train'):
        prepare(FILES, tmp_path, read_rows)


def test_a_held_out_row_without_label_is_refused(tmp_path: Path) -> None:
    corpus(tmp_path, test=[row("one", None, id="t1")], validation=[row("two")], train=[row("three")])
    with pytest.raises(DataError, match=r'data\.test: 1 of 1 rows have no label, first "t1"'):
        prepare(FILES, tmp_path, read_rows)


def test_training_rows_without_any_label_are_refused(tmp_path: Path) -> None:
    corpus(tmp_path, test=[row("one")], validation=[row("two")], train=[row("three", None)])
    with pytest.raises(DataError, match=r"data\.train: no row is labelled"):
        prepare(FILES, tmp_path, read_rows)


def test_a_split_left_empty_says_where_its_rows_went(tmp_path: Path) -> None:
    corpus(tmp_path, test=[row("one")], validation=[row("two")], train=[row("One"), row("two"), row(" ")])
    with pytest.raises(DataError, match=r"data\.train: 0 usable rows \(3 read: 1 blank, 2 duplicates\)"):
        prepare(FILES, tmp_path, read_rows)


def test_one_class_is_refused_and_so_is_a_class_that_is_never_taught() -> None:
    task = TextClassification()
    taught = [Row("1", "a", "x"), Row("2", "b", "y"), Row("3", "c", None)]
    held = [Row("4", "d", "x")]
    assert task.label_names({"train": taught, "validation": held, "test": held}) == ["x", "y"]
    with pytest.raises(DataError, match="1 class in the labelled training rows"):
        task.label_names({"train": held, "validation": held, "test": held})
    with pytest.raises(DataError, match=r"data\.test: class 'z' .*occurs in no training row"):
        task.label_names({"train": taught, "validation": held, "test": [Row("5", "e", "z")]})


def test_shares_of_the_training_file_are_disjoint_and_stay_when_rows_are_added(tmp_path: Path) -> None:
    records = [row(f"text number {number}", "xy"[number % 2]) for number in range(400)]
    records += [row(f"unlabelled {number}", None) for number in range(50)]
    shares = DataSettings(train="train.jsonl", validation=0.1, test=0.2, near_copies=None)
    corpus(tmp_path, train=records)
    before = {name: {r.text for r in split.rows} for name, split in prepare(shares, tmp_path, read_rows).items()}
    assert not before["test"] & before["validation"] and not before["train"] & before["test"]
    assert set.union(*before.values()) == {record["text"] for record in records}
    assert 50 <= len(before["test"]) <= 110 and 15 <= len(before["validation"]) <= 55
    assert sum(text.startswith("unlabelled") for text in before["train"]) == 50
    corpus(tmp_path, train=[row(f"new {number}") for number in range(30)] + records[::-1])
    after = {name: {r.text for r in split.rows} for name, split in prepare(shares, tmp_path, read_rows).items()}
    for name, texts in before.items():
        assert texts <= after[name]


def test_a_stable_fraction_is_the_same_on_every_machine() -> None:
    # From the digest that `printf 'test\0key' | sha256sum` prints.
    assert stable_fraction("key", salt="test") == 0x7C5716E0213C / 2**48
    fractions = [stable_fraction(str(number), salt="a") for number in range(2000)]
    assert all(0 <= fraction < 1 for fraction in fractions)
    assert np.mean(fractions) == pytest.approx(0.5, abs=0.03)
    others = [stable_fraction(str(number), salt="b") for number in range(2000)]
    assert abs(np.corrcoef(fractions, others)[0, 1]) < 0.1


@FAST
@given(items=st.lists(st.text(max_size=4), unique=True), seed=st.randoms())
def test_a_stable_order_does_not_depend_on_the_order_before(items: list[str], seed: Any) -> None:
    shuffled = list(items)
    seed.shuffle(shuffled)
    ordered = stable_order(items, str, salt="s")
    assert ordered == stable_order(shuffled, str, salt="s")
    assert sorted(ordered) == sorted(items)


def test_conversations_with_other_tools_are_no_duplicates(tmp_path: Path) -> None:
    asked = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    tools = [{"tools": [{"name": name}]} for name in ("find", "find", "send")]
    kwargs = [{"chat_template_kwargs": {"enable_thinking": on}} for on in (True, False, False)]
    for name, row in {"test": "one", "validation": "another"}.items():
        lines(tmp_path / f"{name}.jsonl", {"prompt": row, "completion": "x"})
    lines(tmp_path / "train.jsonl", *(asked | more | {"name": "x"} for more in ({}, *tools, *kwargs)))
    settings = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl", ignore=("name",))
    train = prepare(settings, tmp_path, CausalLM().read)["train"]
    assert (len(train.rows), train.duplicates_dropped) == (5, 2)
