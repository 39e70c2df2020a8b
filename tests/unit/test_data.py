"""Reading, deduplicating, splitting and batching rows."""

import json
import math
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.batches import StepIterator, batches_by_length, micro_batches
from potstill.data.encoded import EncodedRows
from potstill.data.near_copies import near_copies, normalised, shingles
from potstill.data.prepare import DataSettings, prepare
from potstill.data.rows import Columns, Row, read_rows, rows_fingerprint, texts_fingerprint
from potstill.data.splits import stable_fraction, stable_order
from potstill.errors import DataError
from potstill.tasks import TextClassification

FAST = settings(max_examples=25, deadline=None, derandomize=True)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def read(tmp_path: Path, content: bytes, **columns: str) -> list[Row]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return read_rows(path, Columns(**columns))


def test_rows_come_in_order_with_id_text_and_label(tmp_path: Path) -> None:
    rows = read(tmp_path, b'{"id": 7, "text": "a", "label": 1}\n\n{"text": "b", "label": null}\r\n{"text": "b"}')
    assert [(row.text, row.label) for row in rows] == [("a", "1"), ("b", None), ("b", None)]
    assert rows[0].id == "7"
    assert rows[1].id == rows[2].id and len(rows[1].id) == 16


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    rows = read(tmp_path, b'{"key": "k", "body": "t", "class": "c"}', id="key", text="body", label="class")
    assert rows == [Row("k", "t", "c")]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\u202e", "\U0001f600"])
def test_unicode_line_ends_inside_a_text_do_not_cut_the_row(tmp_path: Path, inside: str) -> None:
    text = f"before{inside}after"
    escaped = inside < "\x20"
    content = json.dumps({"text": text}, ensure_ascii=escaped) + "\n" + json.dumps({"text": "next"}) + "\n"
    assert [row.text for row in read(tmp_path, content.encode())] == [text, "next"]


@FAST
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines(folder / "rows.jsonl", {"text": text, "id": "x"})
    assert read_rows(folder / "rows.jsonl", Columns()) == [Row("x", text, None)]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"id": "a", "text": "t"}') == [Row("a", "t", None)]


GOOD = b'{"text": "ok"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0 rows\. Nothing written"),
        (b"\n \n", r"0 rows\. Nothing written"),
        (GOOD * 2 + b'{"text": "cut', r"line 3: unterminated string .*\(file truncated\?\)"),
        (GOOD + b'{"text": "a"', r"line 2: .*\(file truncated\?\)"),
        (GOOD + b"{text: 1}\n" + GOOD, r"line 2: .* at column 2"),
        (GOOD + b'{"text": "a"} {"text": "b"}', "line 2: extra data"),
        (GOOD + b'{"body": "b"}', r'line 2 has no "text"; found \[\'body\'\]\. Set data\.columns\.text'),
        (GOOD + b'["text"]', "line 2: expected an object with \"?'?text.*found list"),
        (b"null", "line 1: expected an object .*found NoneType"),
        (GOOD + b'{"text": null}', 'line 2 "text": expected text, found NoneType'),
        (GOOD + b'{"text": 3}', 'line 2 "text": expected text, found int'),
        (GOOD + b'{"text": "\\ud800"}', r'line 2 "text": U\+D800 is not valid Unicode'),
        (GOOD + b'{"text": "a", "id": "\\udfff"}', r'line 2 "id": U\+DFFF is not valid Unicode'),
        (GOOD + b'{"text": "a", "label": "\\udc00"}', r'line 2 "label": U\+DC00'),
        (GOOD + b'{"text": "a", "label": 0.5}', 'line 2 "label": expected a class name, found float'),
        (GOOD + b'{"text": "a", "label": true}', 'line 2 "label": expected a class name, found bool'),
        (GOOD + b'{"text": "a", "label": ["x"]}', 'line 2 "label": expected a class name, found list'),
        (GOOD + b'{"text": "a", "label": ""}', 'line 2 "label": empty; use null'),
        (GOOD + b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 2: a number has too many digits"),
        (GOOD + b'{"text": ' + b"[" * 100_000, "line 2: nested too deeply"),
        ('{"text": "a"}'.encode("utf-16"), r"not UTF-8 \(byte 0.*iconv"),
        ('{"text": "ä"}'.encode("latin-1"), r"not UTF-8 \(byte 10"),
        (b'{"text": "' + b"a" * 10_000_001 + b'"}', "line 1: 10,000,013 characters; at most 10,000,000"),
    ],
)
def test_a_bad_row_gives_one_error_that_names_file_line_and_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "rows.jsonl"))
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="ignore")))
def test_arbitrary_bytes_are_rows_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-rows"
    folder.mkdir(exist_ok=True)
    try:
        assert read(folder, content)
    except DataError as error:
        assert "rows.jsonl" in str(error)


def test_a_file_that_is_missing_or_of_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_rows(tmp_path / "none.jsonl", Columns())
    (tmp_path / "rows.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"unknown format '\.xml'; expected \.jsonl or \.parquet"):
        read_rows(tmp_path / "rows.xml", Columns())


def test_parquet_gives_the_same_rows_as_json_lines(tmp_path: Path) -> None:
    records = [{"id": "1", "text": "a\u2028b", "label": "x"}, {"id": "2", "text": "c", "label": None}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    lines(tmp_path / "rows.jsonl", *records)
    from_parquet = read_rows(tmp_path / "rows.parquet", Columns())
    assert from_parquet == read_rows(tmp_path / "rows.jsonl", Columns())
    assert len(from_parquet) == 2


def test_a_broken_parquet_file_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read_rows(tmp_path / "rows.parquet", Columns())


def test_an_id_of_two_texts_is_named_with_both_lines(tmp_path: Path) -> None:
    content = b'{"id": "a", "text": "1"}\n{"id": "q17", "text": "2"}\n\n{"id": "q17", "text": "3"}\n'
    with pytest.raises(DataError, match=r'rows\.jsonl: Duplicate id "q17": line 2, line 4\. Give each row'):
        read(tmp_path, content)
    assert len(read(tmp_path, content.replace(b"3", b"2"))) == 3, "the same text again is a duplicate row"


def test_fingerprints_depend_on_what_they_are_of() -> None:
    rows = [Row("1", "a", "x"), Row("2", "b", None)]
    relabelled = [Row("1", "a", "y"), Row("2", "b", None)]
    assert rows_fingerprint(rows) != rows_fingerprint(relabelled)
    assert texts_fingerprint(rows) == texts_fingerprint(relabelled)
    for changed in (rows[::-1], rows[:1], [Row("1", "a2", "x"), rows[1]], [Row("3", "a", "x"), rows[1]]):
        assert rows_fingerprint(changed) != rows_fingerprint(rows)
        assert texts_fingerprint(changed) != texts_fingerprint(rows)


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
    splits = prepare(FILES, tmp_path)
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
    splits = prepare(FILES, tmp_path)
    assert [found.text for found in splits["train"].rows] == ["unrelated words"]
    assert splits["train"].near_copies_dropped == 1
    kept = prepare(FILES.model_copy(update={"near_copies": None}), tmp_path)
    assert len(kept["train"].rows) == 2


def test_the_same_id_in_two_splits_is_refused(tmp_path: Path) -> None:
    corpus(
        tmp_path,
        test=[row("one", id="a")],
        validation=[row("two", id="b")],
        train=[row("three", id="a")],
    )
    with pytest.raises(DataError, match=r'Duplicate id "a": in data\.test and data\.train'):
        prepare(FILES, tmp_path)


def test_a_held_out_row_without_label_is_refused(tmp_path: Path) -> None:
    corpus(tmp_path, test=[row("one", None, id="t1")], validation=[row("two")], train=[row("three")])
    with pytest.raises(DataError, match=r'data\.test: 1 of 1 rows have no label, first "t1"'):
        prepare(FILES, tmp_path)


def test_training_rows_without_any_label_are_refused(tmp_path: Path) -> None:
    corpus(tmp_path, test=[row("one")], validation=[row("two")], train=[row("three", None)])
    with pytest.raises(DataError, match=r"data\.train: no row is labelled"):
        prepare(FILES, tmp_path)


def test_a_split_left_empty_says_where_its_rows_went(tmp_path: Path) -> None:
    corpus(tmp_path, test=[row("one")], validation=[row("two")], train=[row("One"), row("two"), row(" ")])
    with pytest.raises(DataError, match=r"data\.train: 0 usable rows \(3 read: 1 blank, 2 duplicates\)"):
        prepare(FILES, tmp_path)


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
    before = {name: {r.text for r in split.rows} for name, split in prepare(shares, tmp_path).items()}
    assert not before["test"] & before["validation"] and not before["train"] & before["test"]
    assert set.union(*before.values()) == {record["text"] for record in records}
    assert 50 <= len(before["test"]) <= 110 and 15 <= len(before["validation"]) <= 55
    assert sum(text.startswith("unlabelled") for text in before["train"]) == 50
    corpus(tmp_path, train=[row(f"new {number}") for number in range(30)] + records[::-1])
    after = {name: {r.text for r in split.rows} for name, split in prepare(shares, tmp_path).items()}
    for name, texts in before.items():
        assert texts <= after[name]


def test_a_stable_fraction_is_the_same_on_every_machine() -> None:
    assert stable_fraction("key", salt="test") == pytest.approx(stable_fraction("key", salt="test"))
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


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=150)


@FAST
@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 9))
def test_every_row_comes_once_an_epoch(lengths: list[int], size: int, seed: int) -> None:
    steps = StepIterator(lengths, size, seed)
    drawn = list(islice(steps, 3 * steps.steps_per_epoch))
    for epoch in range(3):
        part = drawn[epoch * steps.steps_per_epoch : (epoch + 1) * steps.steps_per_epoch]
        assert sorted(number for rows in part for number in rows) == list(range(len(lengths)))
        assert all(1 <= len(rows) <= size for rows in part)
    assert len(drawn) == 3 * math.ceil(len(lengths) / size)


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (23, 4), (24, 4), (300, 7)])
def test_going_on_from_any_step_equals_an_uninterrupted_pass(rows: int, size: int) -> None:
    lengths = [1 + number * 7 % 13 for number in range(rows)]
    total = 2 * StepIterator(lengths, size, 3).steps_per_epoch + 1
    whole = list(islice(StepIterator(lengths, size, 3), total))
    for step in range(total):
        resumed = StepIterator(lengths, size, 3, step=step)
        assert list(islice(resumed, total - step)) == whole[step:]
        assert resumed.step == total


def test_seeds_and_epochs_give_different_orders() -> None:
    lengths = [5] * 64
    orders = [tuple(map(tuple, StepIterator(lengths, 4, seed).epoch(epoch))) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_a_batch_holds_rows_of_similar_length() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 128, 2000).tolist()
    spans = [
        max(lengths[number] for number in rows) - min(lengths[number] for number in rows)
        for rows in StepIterator(lengths, 16, 0).epoch(0)
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
