"""Spans of characters as words and tags, and one clear error for each that is no whole number of words."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.columns import Columns
from potstill.data.places import Place
from potstill.data.prepare import DataSettings, prepare
from potstill.data.reading import Reading
from potstill.data.spans import Scheme, Span, tagged_words, words_of
from potstill.data.tagged import TaggedRow, read_tagged
from potstill.errors import DataError
from potstill.measure.entities import entities_of
from potstill.tasks import TokenClassification
from tests.unit.test_rows import lines

AT = Place(Path("rows.jsonl"), "line 3")
TEXT = "Ann-Lee O'Hara paid 3.50€ in São_Paulo."


def read(tmp_path: Path, *rows: Any, scheme: Scheme = "iob2", **columns: str) -> list[TaggedRow]:
    return list(read_tagged(lines(tmp_path / "rows.jsonl", *rows), Columns(**columns), scheme=scheme))


def span(start: int, end: int, label: str = "PER", **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


def test_a_text_is_split_at_white_space_and_signs() -> None:
    words = [TEXT[start:end] for start, end in words_of(TEXT)]
    assert " ".join(words) == "Ann - Lee O ' Hara paid 3 . 50 € in São _ Paulo ."
    assert [
        text[a:b] for text in ("東京 へ", "नमस्ते दुनिया", "e\u0301a b", "a\u200bb", " \n") for a, b in words_of(text)
    ] == [
        *("東", "京", "へ"),
        *("नमस्ते", "दुनिया"),
        *("e\u0301a", "b"),
        *("a", "\u200b", "b"),
    ]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("iob2", "B-PER I-PER I-PER B-PER I-PER I-PER O O O O O O B-LOC I-LOC I-LOC O"),
        ("iobes", "B-PER I-PER E-PER B-PER I-PER E-PER O O O O O O B-LOC I-LOC E-LOC O"),
        ("bilou", "B-PER I-PER L-PER B-PER I-PER L-PER O O O O O O B-LOC I-LOC L-LOC O"),
        ("io", "I-PER I-PER I-PER I-PER I-PER I-PER O O O O O O I-LOC I-LOC I-LOC O"),
    ],
)
def test_spans_become_tags_of_a_scheme(tmp_path: Path, scheme: Scheme, tags: str) -> None:
    spans = [span(8, 14), span(0, 7), span(29, 38, "LOC", text="São_Paulo")]
    [row] = read(tmp_path, {"id": "a", "text": TEXT, "spans": spans, "domain": "d"}, scheme=scheme)
    assert row == TaggedRow("a", tuple(TEXT[a:b] for a, b in words_of(TEXT)), tuple(tags.split()), "d")


@pytest.mark.parametrize(("scheme", "tag"), [("iob2", "B-x"), ("iobes", "S-x"), ("bilou", "U-x"), ("io", "I-x")])
def test_a_span_of_one_word(scheme: Scheme, tag: str) -> None:
    assert tagged_words(AT, "a b c", [Span(2, 3, "x", "")], scheme)[1] == ["O", tag, "O"]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "Ann came", "spans": [{"start": 0, "end": 3, "label": "PER"}]}, {}),
        ({"text": "Ann came", "entities": [{"start": 0, "end": 3, "tag": "PER", "score": 0.9}]}, {}),
        ({"text": "Ann came", "entities": [{"start_offset": 0, "end_offset": 3, "type": "PER", "id": 7}]}, {}),
        ({"text": "Ann came", "label": [[0, 3, "PER"]]}, {"spans": "label"}),
        ({"text": "Ann came", "spans": json.dumps([[0, 3, "PER"]])}, {}),
        ({"text": "Ann came", "spans": {"start": [0], "end": [3], "label": ["PER"], "text": ["Ann"], "id": None}}, {}),
        ({"text": "Ann came", "spans": json.dumps({"start": [0], "end": [3], "label": ["PER"]})}, {}),
        ({"body": "Ann came", "ner": [{"start": 0.0, "end": 4.0, "label": " PER "}]}, {"text": "body", "spans": "ner"}),
        ({"tokens": ["Ann", "came"], "tags": ["B-PER", "O"], "text": "Ann came", "spans": []}, {}),
    ],
)
def test_spans_are_read_in_every_form(tmp_path: Path, row: dict[str, Any], columns: dict[str, str]) -> None:
    [found] = read(tmp_path, row, **columns)
    assert (found.tokens, found.tags) == (("Ann", "came"), ("B-PER", "O"))


def test_a_text_without_spans_is_tagged_or_not(tmp_path: Path) -> None:
    none, nobody, missing = read(
        tmp_path, {"text": "a b", "spans": []}, {"text": "a b c", "spans": None}, {"text": "a b c d"}
    )
    assert none.tags == ("O", "O") and nobody.tags is missing.tags is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_tags_give_back_the_spans_that_they_were_made_of(data: st.DataObject) -> None:
    text = data.draw(st.text(st.sampled_from("ab é1_-. \n東🙂\u0301"), min_size=1, max_size=30))
    words = words_of(text)
    assert [char for char in text if not char.isspace()] == [char for a, b in words for char in text[a:b]]
    edges = sorted(data.draw(st.sets(st.integers(0, len(words)), max_size=6))) if words else []
    held = list(zip(edges[::2], edges[1::2], strict=False))
    spans = [Span(words[first][0], words[after - 1][1], "AB"[n % 2], f"{n}") for n, (first, after) in enumerate(held)]
    for scheme in get_args(Scheme):
        if scheme == "io":
            continue
        tokens, tags = tagged_words(AT, text, data.draw(st.permutations(spans)), scheme)
        assert tokens == [text[a:b] for a, b in words]
        found = entities_of(tags, ["O", *(f"{prefix}-{kind}" for prefix in "BIELSU" for kind in "AB")])
        assert [(kind, words[a][0], words[b - 1][1]) for kind, a, b in found] == [
            (s.label, s.start, s.end) for s in spans
        ]


BAD = [
    ([span(5, 14)], r'"spans\[0\]": 5 to 14 \("ee O\'Hara", PER\) cuts the word "?\'?Lee\'?"? at 4 to 7, and tags are'),
    ([span(0, 5)], r"0 to 5 \('Ann-L', PER\) cuts the word 'Lee' at 4 to 7"),
    ([span(0, 7), span(4, 14)], r"spans\[1\]\": 4 to 14 .* overlaps 0 to 7 \('Ann-Lee', PER\), and a word has one tag"),
    ([span(0, 7), span(0, 7)], r"overlaps 0 to 7"),
    (
        [span(29, 60)],
        r"29 to 60 \('São_Paulo\.', PER\) does not lie within the text, which has 39 characters\. Offsets",
    ),
    ([span(-3, 2)], r"-3 to 2 .* does not lie within the text"),
    ([span(3, 3)], r"3 to 3 \('', PER\) does not lie within"),
    ([span(7, 8)], r"7 to 8 \(' ', PER\) holds no word"),
    ([span(29, 38, text="in São")], r"is to hold 'in São'\. Offsets count characters from 0, not bytes or UTF-16"),
    ([span(0, 7, "O")], "the label 'O' is a tag of a word"),
    ([span(0, 7, "B-PER")], "the label 'B-PER' is a tag of a word. Name the kind alone"),
    ([{"start": 0, "end": 7, "label": 3}], "its label is of type int. Write labels by their names"),
    ([{"start": 0, "end": 7, "label": " "}], "empty; name what it is"),
    ([{"start": 0, "end": 7}], "no label or tag or type; found"),
    ([{"start": "0", "end": 7, "label": "x"}], "an offset of type str"),
    ([{"start": 0, "end": 7, "label": "x", "type": "y"}], "label and type differ. Keep one"),
    (["Ann"], r"expected a span, found str\. Write it as"),
    ({"a": 1}, r'"spans": expected a list of spans, found dict'),
    ({"start": [0, 1], "end": [1], "label": ["x"]}, r'"spans": expected a list of spans, found dict'),
    ({"start": [0], "end": [7], "label": ["x"], "text": ["Anna"]}, "is to hold 'Anna'"),
    ("Ann", r'"spans": a text that is no JSON'),
]


@pytest.mark.parametrize(("spans", "problem"), BAD)
def test_a_span_that_cannot_be_tags_is_an_error_that_names_it(tmp_path: Path, spans: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read(tmp_path, {"text": "a", "spans": []}, {"text": TEXT, "spans": spans})
    assert "rows.jsonl: line 2" in str(caught.value)


def test_rows_with_such_spans_can_be_skipped(tmp_path: Path) -> None:
    good = [{"text": f"Ann saw {word}", "spans": [span(0, 3)]} for word in ("one", "two", "three", "four")]
    lines(tmp_path / "train.jsonl", {"text": TEXT, "spans": [span(0, 5)]}, *good[:2])
    lines(tmp_path / "test.jsonl", good[2])
    lines(tmp_path / "validation.jsonl", good[3])
    files = {name: f"{name}.jsonl" for name in ("train", "test", "validation")}
    task = TokenClassification(scheme="bilou")
    splits = prepare(DataSettings(**files, on_error="skip", near_copies=None), tmp_path, task.read)
    notes = splits["train"].notes
    assert notes is not None and notes.bad == 1 and "cuts the word" in notes.first_bad[0]
    assert task.label_names({name: each.rows for name, each in splits.items()}) == ["O", "U-PER"]


def test_fields_beside_a_text_with_spans_are_counted(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "rows.jsonl", {"text": "a", "spans": [], "url": "x"}, {"text": "b", "spans": [], "url": "y"}
    )
    how = Reading()
    read_tagged(path, Columns(), how=how)
    assert how.files[path].unread == {"url": 2}
    lines(path, {"tokens": ["a"], "tags": ["O"], "text": "a"})
    read_tagged(path, Columns(), how=how)
    assert how.files[path].unread == {"text": 1}


def test_rows_of_words_and_of_spans_may_be_in_one_file(tmp_path: Path) -> None:
    words = {"tokens": ["Ann", "came"], "tags": ["B-PER", "O"], "url": "x", "text": "unread"}
    named = [{"text": f"Ann saw {n}", name: [span(0, 3)], "url": "x"} for n, name in enumerate(("spans", "entities"))]
    filled = {"tokens": None, "tags": None, "spans": None, **named[1], "text": "Ann"}
    both = {"text": "a b", "spans": [], "entities": [span(0, 1)]}
    for number, rows in enumerate(([words, *named, filled, both], [*named[::-1], words, both, filled])):
        path, how = lines(tmp_path / f"{number}.jsonl", *rows), Reading()
        found = {row.text: row.tags for row in read_tagged(path, Columns(), how=how)}
        assert found == {
            "Ann came": ("B-PER", "O"),
            "Ann saw 0": ("B-PER", "O", "O"),
            "Ann saw 1": ("B-PER", "O", "O"),
            "Ann": ("B-PER",),
            "a b": ("O", "O"),
        }
        assert how.files[path].unread == {"url": 4, "entities": 1, "text": 1}


def test_a_file_of_one_bad_row_is_none_of_rows_in_one(tmp_path: Path) -> None:
    for name in ("spans", "entities"):
        with pytest.raises(DataError, match=rf'"{name}\[0\]": no end or end_offset'):
            read(tmp_path, {"text": "Ann", name: [{"text": "Ann", "start": 0, "label": "PER"}]})


def test_a_run_from_before_there_were_schemes_goes_on() -> None:
    assert "scheme" not in TokenClassification().model_dump() and "spans" not in Columns().model_dump()
