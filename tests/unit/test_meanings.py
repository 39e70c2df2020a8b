"""What fields mean that a reader does not read, in the forms in which data sets have them."""

from pathlib import Path
from typing import Any

import pytest

from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.meanings import stands_in
from potstill.data.pairs import read_pairs
from potstill.data.prepare import Read
from potstill.data.reading import Reading
from potstill.data.rows import read_rows
from potstill.data.tagged import read_tagged
from tests.unit.test_fields import refusal
from tests.unit.test_rows import lines

TEXT = {"text": "a knife", "label": "x"}
TAGGED = {"tokens": ["a", "knife"], "tags": ["O", "O"]}
PAIR = {"source": "a knife", "target": "ein Messer"}
PROMPT = {"prompt": "a knife", "completion": "is sharp"}
CHAT = {"messages": [{"role": "user", "content": "a knife"}, {"role": "assistant", "content": "is sharp"}]}
DEPENDS: list[tuple[Read, dict[str, Any], str, Any, dict[str, str]]] = [
    (read_rows, TEXT, "sentence2", ["no fork", "b"], {}),
    (read_rows, TEXT, "context", {"title": "t", "body": "no fork"}, {}),
    (read_rows, TEXT, "options", ["fork", "spoon"], {}),
    (read_rows, TEXT, "target", "Obama", {}),
    (read_rows, TEXT, "history", ["hi", "yes"], {}),
    (read_rows, TEXT, "aspect_term", "knife", {}),
    (read_rows, TEXT, "entity", "knife", {}),
    (read_rows, TEXT, "head", {"word": "knife", "start": 2}, {}),
    (read_rows, TEXT, "tail", [4, 9], {}),
    (read_pairs, PAIR, "question", "which?", {}),
    (read_pairs, {"document": "a knife", "target": "b"}, "query", "which?", {"source": "document"}),
    (read_pairs, PAIR, "document", "all about knives", {}),
    (read_pairs, PAIR, "choices", ["Messer", "Gabel"], {}),
    (read_pairs, PAIR, "task", "translate", {}),
    (read_pairs, PAIR, "tgt_lang", "de", {}),
    (read_pairs, PAIR, "target_language", "de", {}),
    (read_dialogues, PROMPT, "context", ["doc 1", "doc 2"], {}),
    (read_dialogues, PROMPT, "choices", ["blunt", "sharp"], {}),
    (read_dialogues, PROMPT, "options", {"A": "blunt", "B": "sharp"}, {}),
    (read_dialogues, PROMPT, "suffix", "return x", {}),
    (read_dialogues, PROMPT, "instruction", "Be brief.", {}),
    (read_dialogues, {"context": "a knife", "answer": "b"}, "question", "why?", {"prompt": "context"}),
    (read_dialogues, CHAT, "context", "all about knives", {}),
]


@pytest.mark.parametrize(("read", "row", "name", "value", "columns"), DEPENDS)
def test_what_an_answer_depends_on_is_refused_in_every_form(
    tmp_path: Path, read: Read, row: dict[str, Any], name: str, value: Any, columns: dict[str, str]
) -> None:
    full = row | {name: value}
    said = refusal(tmp_path, read, full, **columns)
    assert f'1 of 1 rows have "{name}", first line 1, which is not read' in said and "write" in said.casefold()
    # Empty it says nothing, and neither does it where it is the same in all rows.
    for nothing in ("", None, [], [""], {"a": None}):
        assert len(read(lines(tmp_path / "empty.jsonl", row | {name: nothing}), Columns(**columns), how=Reading())) == 1
    assert len(read(lines(tmp_path / "same.jsonl", full, full), Columns(**columns), how=Reading())) == 2


@pytest.mark.parametrize(
    ("read", "row", "name", "value"),
    [
        (read_rows, TEXT, "image", "a.png"),
        (read_rows, TEXT, "audio", {"bytes": None, "path": "a.wav"}),
        (read_rows, TEXT, "pixel_values", [[0.5]]),
        (read_rows, TEXT, "soft_label", [0.3, 0.7]),
        (read_rows, TEXT, "probs", {"x": 0.3, "y": 0.7}),
        (read_rows, TEXT, "logits", [-1, 2]),
        (read_rows, TEXT, "scores", [0.3, 0.7]),
        (read_tagged, TAGGED, "loss_mask", [1, 0]),
        (read_tagged, TAGGED, "bboxes", [[0, 0, 1, 1], [1, 0, 2, 1]]),
        (read_tagged, TAGGED, "image", "a.png"),
        (read_tagged, TAGGED, "weight", [1, 0.5]),
        (read_pairs, PAIR, "prefix", "translate:"),
        (read_pairs, PAIR, "images", ["a.png"]),
        (read_dialogues, CHAT, "documents", [{"title": "t", "text": "doc"}]),
        (read_dialogues, PROMPT, "documents", ["doc"]),
        (read_dialogues, CHAT, "enable_thinking", False),
        (read_dialogues, CHAT, "tool_definitions", [{"name": "f"}]),
        (read_dialogues, CHAT, "rejected_response", "blunt"),
    ],
)
def test_what_a_model_is_shown_or_learns_is_refused_also_where_it_is_the_same_in_all_rows(
    tmp_path: Path, read: Read, row: dict[str, Any], name: str, value: Any
) -> None:
    full = row | {name: value}
    assert f'2 of 2 rows have "{name}"' in refusal(tmp_path, read, full, full)
    assert len(read(tmp_path / "rows.jsonl", Columns(), how=Reading(frozenset({name})))) == 2


@pytest.mark.parametrize(
    ("read", "row", "name", "value"),
    [
        (read_rows, TEXT, "image", 7),
        (read_rows, TEXT, "entity", 7),
        (read_rows, TEXT, "scores", {"helpful": 3, "honest": 4}),
        (read_rows, TEXT, "scores", 0.7),
        (read_rows, TEXT, "choices", 4),
        (read_tagged, TAGGED, "loss_mask", [1, 1]),
        (read_tagged, TAGGED, "entities", [{"start": 0, "end": 1, "label": "x"}]),
        (read_pairs, PAIR, "task", 7),
        (read_pairs, PAIR, "document", "https://example.org/1"),
        (read_pairs, PAIR, "lang", "en"),
        (read_dialogues, PROMPT, "context", 7),
        (read_dialogues, CHAT, "documents", [{"title": None}]),
    ],
)
def test_numbers_addresses_and_values_that_change_nothing_are_counted(
    tmp_path: Path, read: Read, row: dict[str, Any], name: str, value: Any
) -> None:
    how = Reading()
    path = lines(tmp_path / "rows.jsonl", row | {name: value}, row)
    assert len(read(path, Columns(), how=how)) == 2
    assert how.files[path].unread == {name: 1} and how.files[path].doubtful == []


@pytest.mark.parametrize(
    ("read", "row", "name", "value"),
    [
        (read_dialogues, {"prompt": "Be  brief. Why\nso?", "completion": "b"}, "instruction", "Be brief."),
        (read_dialogues, {"prompt": "Why so?", "completion": "b"}, "question", "Why so?"),
        (read_dialogues, {"prompt": "Blunt or sharp?", "completion": "b"}, "choices", ["Blunt", "sharp"]),
        (read_dialogues, CHAT, "documents", ["a knife"]),
        (read_dialogues, {"text": "f(x) = 1"}, "suffix", "= 1"),
        (read_pairs, {"source": "question: why? context: so", "target": "b"}, "question", "why?"),
        (read_pairs, {"source": "summarize:It is so.", "target": "b"}, "prefix", "summarize:"),
        (read_pairs, {"source": "translate to German: a", "target": "b"}, "tgt_lang", "German"),
    ],
)
def test_what_stands_in_the_text_that_is_read_is_read(
    tmp_path: Path, read: Read, row: dict[str, Any], name: str, value: Any
) -> None:
    other = {"instruction": "x"}.get(name, ["x y", "z w"] if isinstance(value, list) else "x y")
    path = lines(tmp_path / "rows.jsonl", row | {name: value}, row)
    assert len(read(path, Columns(), how=Reading())) == 2
    assert f'2 of 3 rows have "{name}"' in refusal(tmp_path, read, row | {name: value}, row | {name: other}, row)


def test_words_are_found_whole() -> None:
    assert stands_in(["a", "b"], "a or (b)") and not stands_in(["a", "b"], "a bee")
    assert stands_in("to", "into to") and not stands_in("to", "into")
    assert stands_in({"x": None, "y": [3]}, ""), "there is no text in it that could be missing"


def test_a_topic_is_the_target_of_stances_and_else_may_be_metadata(tmp_path: Path) -> None:
    rows = [{"text": f"a {topic}", "label": "{}", "topic": topic} for topic in ("tax", "war", "tax x", "b")]

    def labelled(*names: str) -> list[dict[str, Any]]:
        return [row | {"label": names[number % 2]} for number, row in enumerate(rows)]

    news = [row | {"topic": f"t{number}"} for number, row in enumerate(labelled("FAVOR", "AGAINST"))]
    assert '4 of 4 rows have "topic"' in refusal(tmp_path, read_rows, *news)
    how = Reading()
    path = lines(tmp_path / "news.jsonl", *[row | {"label": "xy"[number % 2]} for number, row in enumerate(news)])
    assert len(read_rows(path, Columns(), how=how)) == 4 and how.files[path].doubtful == ["topic"]


@pytest.mark.parametrize(
    ("columns", "name"), [({}, "title"), ({"text": "body"}, "subject"), ({"text": "title"}, "description")]
)
def test_a_title_may_belong_to_the_text(tmp_path: Path, columns: dict[str, str], name: str) -> None:
    text = columns.get("text", "text")

    def doubtful(*values: Any) -> list[str]:
        how = Reading()
        path = lines(
            tmp_path / "rows.jsonl",
            *({text: f"row {number}", "label": "x", name: value} for number, value in enumerate(values)),
        )
        assert len(read_rows(path, Columns(**columns), how=how)) == len(values)
        return how.files[path].doubtful

    assert doubtful("of one", "of two") == [name]
    assert doubtful("same", "same") == doubtful("", None) == doubtful("row 0", "row") == doubtful(1, 2) == []


ROWS = [("pos", "1"), ("neg", "0")] * 4


@pytest.mark.parametrize("value", [{"pos": "pos", "neg": "neg"}, {"pos": 1, "neg": 0}, {"pos": ["p"], "neg": ["n"]}])
def test_a_column_that_agrees_with_the_label_is_that_of_rows_without_one(tmp_path: Path, value: dict[str, Any]) -> None:
    rows = [{"text": f"{n}", "label": name, "gold": value[name]} for n, (name, _) in enumerate(ROWS)]
    open_rows = [row | {"text": f"open {n}", "label": None} for n, row in enumerate(rows)]
    said = refusal(tmp_path, read_rows, *rows, *open_rows)
    assert '8 of 16 rows have no "label", and all rows have "gold"' in said
    assert "Set data.columns.label: gold. data.ignore: [gold]" in said

    def is_read(*records: dict[str, Any]) -> bool:
        return len(read_rows(lines(tmp_path / "read.jsonl", *records), Columns(), how=Reading())) == len(records)

    assert is_read(*rows), "nothing is lost where all rows have a label"
    assert is_read(*rows, *open_rows, {"text": "none", "label": None}), "some rows have neither"
    assert is_read(*rows, *open_rows, rows[0] | {"text": "other", "gold": value["neg"]}), "it says otherwise once"
    assert is_read(*rows, *open_rows, rows[0] | {"text": "other", "gold": "third"}), "it is finer than the label"
    few = [row | {"gold": f"annotator {n % 2}"} for n, row in enumerate(rows[:2])]
    assert is_read(*few, few[0] | {"text": "open", "label": None}), "of two rows that can be chance"


def test_targets_that_are_the_label_under_another_name_are_no_question(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": number, "target": name} for n, (name, number) in enumerate(ROWS)]
    assert len(read_rows(lines(tmp_path / "rows.jsonl", *rows), Columns(), how=Reading())) == 8


def test_one_column_a_class_is_named_where_no_row_is_labelled(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "toxic": n % 2, "threat": False, "idx": n} for n in range(4)]
    said = refusal(tmp_path, read_rows, *rows)
    assert 'no row has "label", and "threat", "toxic" are 0 or 1 in all rows' in said
    assert '"label": ["threat"], and [] where none is, with task.problem_type: multi_label_classification' in said
    labelled = lines(tmp_path / "labelled.jsonl", *rows[:3], rows[3] | {"label": "x"})
    assert len(read_rows(labelled, Columns(), how=Reading())) == 4


def test_spans_are_no_tags(tmp_path: Path) -> None:
    row = {"tokens": ["a", "b"], "entities": [{"start": 0, "end": 1, "label": "x"}]}
    assert 'holds spans. Write a tag for each word instead, such as "tags": ["B-PER"' in refusal(
        tmp_path, read_tagged, row
    )
    assert "data.columns.tags" in refusal(tmp_path, read_tagged, {"tokens": ["a"], "entities": ["O"]})
