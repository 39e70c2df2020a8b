"""What is promised of rows holds in every form that they are written in: the same rows, and the same errors."""

import re
from pathlib import Path
from typing import Any

import pytest

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.number_checks import number_in
from potstill.data.pairs import read_pairs
from potstill.data.prepare import DataSettings, prepare
from potstill.data.reading import Reading
from potstill.data.rows import class_in, classes_in, read_rows
from potstill.data.tagged import read_tagged
from potstill.errors import DataError
from tests.row_forms import FORMS, JSON, TABLES, Rows, place_of, write_saved

GOOD = [
    {"id": "1", "text": 'a, "quoted"; text\tof\n\ntwo lines', "label": "x"},
    {"id": "02", "text": "b \u2028 \U0001f600", "label": "y"},
    {"id": "3", "text": "007", "label": None},
    {"id": "4", "text": "no \\ quotes 'here'", "label": "1.0"},
    {"id": "5", "text": "[1, 2]", "label": "y"},
]


def row(text: Any = "t", label: Any = "x", **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, **more}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_are_read_of_every_form(tmp_path: Path, form: str) -> None:
    rows = [each | {"text": each["text"].replace("\t", " ")} if form == "tsv" else each for each in GOOD]
    path = FORMS[form](tmp_path, rows)
    found = read_rows(path, Columns())
    assert [(each.id, each.text, each.label) for each in found] == [tuple(each.values()) for each in rows]
    assert all(type(each.text) is str and type(each.id) is str for each in found)
    if form not in TABLES:
        # In tables the first text takes three lines.
        assert str(found.place(3)).endswith(place_of(form, 3, 5))


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_an_id_have_the_same_in_every_form(tmp_path: Path, form: str) -> None:
    rows = [{"text": f"text {number}", "label": "x"} for number in range(5)]
    lines = read_rows(FORMS["lines"](tmp_path, rows), Columns())
    assert [each.id for each in read_rows(FORMS[form](tmp_path, rows), Columns())] == [each.id for each in lines]


NUMBERS = [row(label=0.5), row("u", 2.0), row("v", -1e-3), row("w", None)]
LISTS = [row(label=["x", "y"]), row("u", []), row("v", None), row("w", ["y"])]
TAGGED = [{"tokens": ["Ann", "came"], "tags": ["B-PER", "O"]}, {"tokens": ["so"], "tags": None}] * 2


@pytest.mark.parametrize("form", FORMS)
def test_numbers_lists_and_tags_are_read_of_every_form(tmp_path: Path, form: str) -> None:
    for name, rows, label_in in (("n", NUMBERS, number_in), ("l", LISTS, classes_in)):
        (tmp_path / name).mkdir()
        found = read_rows(FORMS[form](tmp_path / name, rows), Columns(), label_in)
        expected = [tuple(each["label"]) if isinstance(each["label"], list) else each["label"] for each in rows]
        assert [each.label for each in found] == expected
    found = read_tagged(FORMS[form](tmp_path, TAGGED), Columns())
    assert [(list(each.tokens), each.tags and list(each.tags)) for each in found] == [
        (each["tokens"], each["tags"]) for each in TAGGED
    ]


BAD: dict[str, tuple[Rows, int, frozenset[str] | None]] = {
    "no text": ([{"body": f"t{n}", "label": "x"} for n in range(4)], 0, None),
    "null text": ([row("a"), row("b"), row(None), row("d")], 2, frozenset(FORMS) - TABLES),
    "an id of two": ([row("a", id="1"), row("b", id="2"), row("c", id="3"), row("d", id="1")], 3, None),
    "weights": ([row(f"t{n}", weight=0.5 if n == 2 else 1) for n in range(4)], 2, None),
    "a second text": ([row(f"t{n}", sentence2=f"u {n}") for n in range(4)], 0, None),
    "the label's column": ([row(f"t{n}", "xy"[n % 2] if n < 2 else None, sentiment="x" if n > 1 else None)
                            for n in range(4)], 2, None),
    "a lone surrogate": ([row("a"), row("b"), row("c \ud800"), row("d")], 2, JSON),
    "a label that is a list": ([row(f"t{n}", ["x"]) for n in range(4)], 0, frozenset(FORMS) - TABLES),
    "a number as text": ([row(n) for n in range(4)], 0, frozenset(FORMS) - TABLES),
    "nested too deeply": ([row("a"), row("b"), row("c", more="DEEP"), row("d")], 2, frozenset({"lines", "folder"})),
}  # fmt: skip
"""Rows, the first bad one, and the forms in which they can be written."""


def said(path: Path, read: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value)


def alike(message: str, path: Path) -> str:
    """Without files and places."""
    text = re.sub(rf"{re.escape(str(path.parent))}[^:\n]*:?( (line|row) \d+)?", "FILE", message)
    text = re.sub(r"([\w.-]+: )?\b(line|row) \d+( \(line \d+ on\))?", "PLACE", text)
    # Files without types have all fields as texts.
    return re.sub(r"found \[[^]]*\]", "found", text)


@pytest.mark.parametrize(
    ("kind", "form"),
    [(kind, form) for kind, (_, _, forms) in BAD.items() for form in FORMS if form in (forms or FORMS)],
)
def test_the_same_rows_give_the_same_error_in_every_form(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, form: str, kind: str
) -> None:
    rows, bad, _ = BAD[kind]
    folder = tmp_path_factory.mktemp("lines")
    lines = FORMS["lines"](folder, rows)
    path = FORMS[form](tmp_path, rows)
    for file in (lines, *tmp_path.rglob("*.jsonl")):
        file.write_text(file.read_text().replace('"DEEP"', "[" * 100_000))
    expected, found = said(lines, read), said(path, read)
    assert alike(found, tmp_path / "x") == alike(expected, folder / "x")
    name = place_of(form, bad, len(rows)).split("/")[-1]
    assert name in found, "the file and the place there"


def read(path: Path) -> Any:
    return read_rows(path, Columns(), class_in)


@pytest.mark.parametrize("form", FORMS)
def test_bad_rows_are_skipped_and_counted_and_fields_are_counted_in_every_form(tmp_path: Path, form: str) -> None:
    # Nothing in a table is an empty text, so that there a number is missing.
    bad, label_in = (row("b", "many"), number_in) if form in TABLES else (row(None, "1"), class_in)
    rows = [row("a", "1", source="s"), bad | {"source": "s"}, row("c", "1", source=None), row("d", "1", source="s")]
    how = Reading(on_error="skip")
    path = FORMS[form](tmp_path, rows)
    assert [each.text for each in read_rows(path, Columns(), label_in, how=how)] == ["a", "c", "d"]
    notes = how.files[path]
    assert (notes.bad, notes.unread) == (1, {"source": 2})
    assert place_of(form, 1, 4) in notes.first_bad[0]
    ignored = Reading(on_error="skip", ignore=frozenset({"source"}))
    read_rows(path, Columns(), label_in, how=ignored)
    assert ignored.files[path].ignored == {"source": 3}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_questioned_and_copies_dropped_in_every_form(tmp_path: Path, form: str) -> None:
    asked = FORMS[form](tmp_path, [row(f"text {n}", "-1" if n == 2 else "x") for n in range(4)])
    held_out = [row(f"held out {n}") for n in range(4)]
    for name in ("test", "validation"):
        (tmp_path / name).mkdir()
        FORMS[form](tmp_path / name, [each | {"text": f"{name} {each['text']}"} for each in held_out])
    relative = str(asked.relative_to(tmp_path))
    data = {"train": relative, "test": f"test/{relative}", "validation": f"validation/{relative}"}
    settings = DataSettings(**data, near_copies=None)
    with pytest.raises(DataError, match=rf'"-1" in 1 of 12 labels, first .*{place_of(form, 2, 4)}, often stands for'):
        prepare(settings, tmp_path, read_rows)
    (tmp_path / "again").mkdir()
    again = FORMS[form](tmp_path / "again", [row("same"), row("same"), row("other"), row("test held out 1")])
    splits = prepare(settings.model_copy(update={"train": str(again)}), tmp_path, read_rows)
    assert (len(splits["train"].rows), splits["train"].duplicates_dropped) == (2, 2)


@pytest.mark.parametrize("form", FORMS)
def test_pairs_are_read_of_every_form(tmp_path: Path, form: str) -> None:
    rows = [{"source": f"s{n}", "target": None if n == 1 else f"t{n}"} for n in range(4)]
    found = read_pairs(FORMS[form](tmp_path, rows), Columns())
    assert [(each.source, each.target) for each in found] == [tuple(each.values()) for each in rows]


def written(folder: Path, form: str, rows: Rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return FORMS[form](folder, rows)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "lines"])
def test_blank_rows_are_read_and_dropped_of_every_form(tmp_path: Path, form: str) -> None:
    spans = [{"start": 0, "end": 1, "label": "PER"}]
    for name, read_as, rows in (
        ("classes", read_rows, [row(text) for text in ("a", "", "c", "d")]),
        ("pairs", read_pairs, [{"source": text, "target": "x"} for text in ("a", "", "c", "d")]),
        ("texts", read_dialogues, [{"text": text, "url": "x"} for text in ("a", "", "c", "d")]),
        ("spans", read_tagged, [{"text": text, "spans": spans if text else []} for text in ("a", "", "c", "d")]),
    ):
        lines, found = (
            list(read_as(written(tmp_path / name / each, each, rows), Columns())) for each in ("lines", form)
        )
        assert found == lines and [each.text for each in found] == ["a", "", "c", "d"]


@pytest.mark.parametrize("form", ["lines", "csv", "tsv"])
def test_a_pair_of_a_table_cannot_have_an_empty_text(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path, [row("a", text_pair="b"), row("c", text_pair=None)])
    how = Reading()
    read_rows(path, Columns(), how=how)
    (problem,) = how.pairs.problems(())
    assert ("with the rows as .jsonl, for a table has no empty text beside null" in problem) == (form != "lines")


def test_rows_of_chats_with_an_empty_text_in_a_table_are_chats(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}]
    path = FORMS["csv"](tmp_path, [{"messages": chat, "text": None}, {"messages": None, "text": "b"}])
    assert [type(each).__name__ for each in read_dialogues(path, Columns())] == ["Conversation", "PlainText"]


def test_what_a_saved_folder_is(tmp_path: Path) -> None:
    how = Reading()
    path = write_saved(tmp_path / "saved", GOOD)
    read_rows(path, Columns(), how=how)
    assert how.files[path].source == "2 files, fingerprint ab12"
