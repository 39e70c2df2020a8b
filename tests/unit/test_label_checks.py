"""Labels are questioned: what is likely no class, or one class spelt twice, is an error until the recipe allows it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from potstill.data.columns import Columns
from potstill.data.prepare import DataSettings, prepare
from potstill.data.tag_schemes import TagTally
from potstill.errors import DataError
from potstill.tasks import TextClassification, TokenClassification
from tests.unit.test_rows import lines

FILES = DataSettings(train="train.jsonl", validation="train.jsonl", test="train.jsonl", deduplicate=False)

HIDDEN = {
    "\ufeffspam": "\\ufeffspam",
    "spam\u200b": "spam\\u200b",
    "spam\xa0": "spam\\u00a0",
    "sp\xadam": "sp\\u00adam",
}
"""What is read as spam, and how an error shows it."""


def problems(tmp_path: Path, *labels: Any, allow: tuple[str, ...] = (), several: bool = False) -> list[str]:
    """What is asked about rows with these labels."""
    rows = [{"id": str(n), "text": f"t{n}", "label": label} for n, label in enumerate(labels)]
    lines(tmp_path / "train.jsonl", *rows)
    lines(tmp_path / "held.jsonl", {"id": "held", "text": "held", "label": [] if several else labels[-1]})
    names: dict[str, Any] = {"validation": "held.jsonl", "test": "test.jsonl", "near_copies": None}
    lines(tmp_path / "test.jsonl", {"id": "test", "text": "test", "label": labels[0]})
    task = TextClassification(problem_type=f"{'multi' if several else 'single'}_label_classification")  # type: ignore[arg-type]
    try:
        prepare(FILES.model_copy(update=names | {"allow_labels": allow}), tmp_path, task.read)
    except DataError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    "name",
    [
        *(-1, "-1", -100, "None", "null", "NaN", "n/a", "unlabeled", "Unlabelled", "no_label", "?"),
        *("-", "--", "#N/A", "\\N", "NaT", "<NA>", "_"),
    ],
)
def test_what_stands_for_no_label_is_asked_for(tmp_path: Path, name: str | int) -> None:
    other = 0 if isinstance(name, int) else "x"
    [said] = problems(tmp_path, other, name, name, other)
    assert (
        f"{json.dumps(str(name))} in 2 of 6 labels, first {tmp_path / 'train.jsonl'}: line 2" in said
        and "Use null there" in said
    )
    assert f"data.allow_labels: [{json.dumps(str(name))}]" in said
    assert problems(tmp_path, other, name, name, other, allow=(str(name),)) == []


def test_names_that_show_nothing_stand_for_no_label(tmp_path: Path) -> None:
    for name, shown in {"\u200b": "\\u200b", " ": " ", "-1\ufeff": "-1\\ufeff"}.items():
        [said] = problems(tmp_path, "x", name, "x")
        assert f'"{shown}" in 1 of 5 labels' in said and "often stands for a row without a label" in said


@pytest.mark.parametrize(
    "labels", [("unknown", "other"), ("no", "yes"), (0, 1), ("+", "-", "++", "--"), (1, 10), ("1", 2)]
)
def test_plausible_classes_are_not_asked_for(tmp_path: Path, labels: tuple[Any, ...]) -> None:
    assert problems(tmp_path, *labels, *labels) == []


@pytest.mark.parametrize("other", ["Spam", "spam ", " spam", "SPAM", "sp\u200aam x", "\uff53pam", *HIDDEN])
def test_names_that_differ_in_case_or_white_space_are_asked_for(tmp_path: Path, other: str) -> None:
    name = "sp am x" if "x" in other else "spam"
    [said] = problems(tmp_path, name, "ham", other, name)
    shown = HIDDEN.get(other, other.replace("\u200a", "\\u200a"))
    assert f'"{name}" (4, first {tmp_path / "train.jsonl"}: line 1)' in said and f'"{shown}" (1, ' in said
    assert "train.jsonl: line 3" in said and "data.allow_labels" in said
    assert problems(tmp_path, name, "ham", other, name, allow=(name, other)) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("very_neg", "very-neg"),
        ("very_neg", "very neg"),
        ("very-neg", "very\u2013neg"),
        ("01", 1),
        ("1.0", 1),
        ("-02", "-2"),
        ("❤", "❤️"),
    ],
)
def test_one_name_in_two_ways_is_asked_for(tmp_path: Path, one: Any, other: Any) -> None:
    said = problems(tmp_path, one, "ham" if isinstance(other, str) else 7, other)
    assert any("classes that differ in case" in each and "leading zeros" in each for each in said)


@pytest.mark.parametrize(
    "labels",
    [("a-", "a+", "a"), ("-2", "2"), ("10", "1"), ("e-mail", "email"), ("1.10", "1.1"), (".", ","), ("0", "00x")],
)
def test_other_names_are_not_one(tmp_path: Path, labels: tuple[str, ...]) -> None:
    assert problems(tmp_path, *labels, *labels) == []


@pytest.mark.parametrize(
    ("labels", "joined"),
    [
        (("pos", "neg", "pos,neg"), ["pos,neg"]),
        (("pos", "neg", "pos | neg"), ["pos | neg"]),
        (("['pos']", "neg", "['pos', 'neg']"), ["['pos']", "['pos', 'neg']"]),
        (("['pos' 'neg']", "x", "[1, 0]"), ["['pos' 'neg']", "[1, 0]"]),
        (('["pos"]', "{'a': 1}", "[]"), ['[\\"pos\\"]', "{'a': 1}", "[]"]),
        ((["a"], ["b"], ["a;b"]), ["a;b"]),
        (("pos", "neg", "pos,other", "[UNK]", "a/b", "Smith, J."), []),
    ],
)
def test_several_names_in_one_text_are_asked_for(tmp_path: Path, labels: tuple[Any, ...], joined: list[str]) -> None:
    several = isinstance(labels[0], list)
    said = problems(tmp_path, *labels, several=several)
    assert len(said) == bool(joined)
    for each in said:
        assert "several classes, or a list of them, in one text" in each and "line" in each
        assert all(f'"{name}" (' in each for name in joined) and each.count(", first ") == len(joined)
        assert ("multi_label_classification" in each) is not several
    names = [name for label in labels for name in (label if several else [label])]
    assert problems(tmp_path, *labels, several=several, allow=tuple(names)) == []


def test_ids_as_pandas_writes_them_beside_gaps_are_classes(tmp_path: Path) -> None:
    assert problems(tmp_path, 1.0, 0.0, None, 2) == []
    [said] = problems(tmp_path, 1.0, 0.0, "spam", allow=("0",))
    assert 'some labels are numbers ("1" ' in said and problems(tmp_path, 1.0, "spam", allow=("1",)) == []
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": 10.0}, {"text": "b", "label": 7})
    assert [row.label for row in TextClassification().read(tmp_path / "rows.jsonl", Columns())] == ["10", "7"]
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": [10.0, 7]})
    task = TextClassification(problem_type="multi_label_classification")
    assert task.read(tmp_path / "rows.jsonl", Columns())[0].label == ("10", "7")


@pytest.mark.parametrize(
    ("label", "fix"),
    [
        (True, 'found bool. Write names in quotes, such as "true"'),
        (0.5, "found float. Set task.problem_type: regression for numbers"),
        (["a"], "found list. Set task.problem_type: multi_label_classification"),
        ({"id": 1, "name": "neg"}, 'found dict. Write the name alone, here "neg".'),
    ],
)
def test_what_is_no_name_says_what_to_write(tmp_path: Path, label: Any, fix: str) -> None:
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": label})
    with pytest.raises(DataError, match=f'line 1 "label": expected a class name, {re.escape(fix)}'):
        TextClassification().read(tmp_path / "rows.jsonl", Columns())


def test_names_are_compared_over_all_files(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"text": "a", "label": "x"}, {"text": "b", "label": "y"})
    lines(tmp_path / "test.jsonl", {"text": "c", "label": "X"})
    with pytest.raises(
        DataError, match=r'"X" \(1, first .*test\.jsonl: line 1\), "x" \(1, first .*train\.jsonl: line 1'
    ):
        prepare(FILES.model_copy(update={"test": "test.jsonl"}), tmp_path, TextClassification().read)


def test_ids_beside_names_are_asked_for(tmp_path: Path) -> None:
    [said] = problems(tmp_path, 0, 1, "spam", 0)
    assert 'some labels are numbers ("0" ' in said and 'some are names ("spam" ' in said
    assert problems(tmp_path, 0, 1, "spam", 0, allow=("0", "1")) == []


@pytest.mark.parametrize(
    "vectors",
    [
        ([0, 1, 0], [1, 0, 0], [0, 0, 0]),
        ([0, 1], [1, 0]),
        (["0", "1", "1"], ["1", "0", "0"]),
        ([0, 0, 1], [1, 0]),
    ],
)
def test_vectors_of_numbers_are_no_names(tmp_path: Path, vectors: tuple[list[Any], ...]) -> None:
    lines(tmp_path / "train.jsonl", *({"text": f"t{n}", "label": vector} for n, vector in enumerate(vectors)))
    task = TextClassification(problem_type="multi_label_classification")
    with pytest.raises(
        DataError, match=r"labels are lists of numbers .*train\.jsonl: line 1.*Write the names"
    ) as caught:
        prepare(FILES, tmp_path, task.read)
    assert 'data.allow_labels: ["0", "1"].' in str(caught.value)
    assert problems(tmp_path, *vectors, allow=("0", "1"), several=True) == []


@pytest.mark.parametrize(
    "lists",
    [([3, 7], [7], []), (["a", "b"], ["a"]), ([1], [2]), ([1], [0], [1]), ([0, 1], [1], [0, 2]), ([0, 1], [1], [0])],
)
def test_lists_of_ids_and_of_names_are_labels(tmp_path: Path, lists: tuple[list[Any], ...]) -> None:
    assert problems(tmp_path, *lists, several=True) == []


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ([0.0, 1.0], "expected a list of class names, found one of float"),
        ([True, False], "expected a list of class names, found one of bool"),
        ([3, "x"], "numbers and names in one list"),
        ([3.0, "x"], "numbers and names in one list"),
        ([["a"], ["b"]], "found a list in it"),
        ([[0, 8, "PER"]], r"found a list in it\. .*task\.kind: token_classification and data\.columns\.spans: label\."),
        ([{"start": 0, "end": 8, "labels": ["PER"]}], r"found an object in it\. .*data\.columns\.spans: label\."),
        (["a", None], r"found null in it\. Leave it out\."),
        (["a", None], "found null in it"),
    ],
)
def test_lists_that_are_none_of_names(tmp_path: Path, label: list[Any], said: str) -> None:
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": label})
    with pytest.raises(DataError, match=said):
        TextClassification(problem_type="multi_label_classification").read(tmp_path / "rows.jsonl", Columns())


def test_numbers_in_quotes_and_nan_say_what_to_write(tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": "3.5"})
    with pytest.raises(DataError, match=r"expected a number, found str\. Write it without quotes"):
        TextClassification(problem_type="regression").read(tmp_path / "rows.jsonl", Columns())
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": float("nan")})
    with pytest.raises(DataError, match="NaN; use null for a row without a label"):
        TextClassification().read(tmp_path / "rows.jsonl", Columns())


def tag_problems(tags: str, allow: str = "") -> list[str]:
    tally = TagTally()
    for number, tag in enumerate(tags.split("|"), start=1):
        tally.add(Path("train.jsonl"), f"line {number}", [tag, tag])
    return list(tally.problems(allow.split("|")))


@pytest.mark.parametrize(
    "tags",
    [
        "O|B-PER|I-PER|B-LOC",
        "O|B-PER|I-PER|E-PER|S-PER",
        "O|B-PER|I-PER|L-PER|U-PER",
        "B-PER|M-PER|E-PER|S-PER|O",
        "O|I-PER|I-LOC",
        "O|B|I",
        "O|PER|LOC",
        "O|E_mail|phone",
        "O|B_cell|T_cell",
        "O|B-B_cell|I-B_cell",
        "NOUN|VERB|ADJ|X|PUNCT|S|M",
        "NN|NNP|-LRB-|PRP$|.|NN_S|B",
        "O|S-PER|S-LOC",
        "O|start_date|end_date|title",
        "O|start_date|last_date|title",
        "O|b|i|title",
        "O|START-DATE|TITLE",
        "O|b|c",
        "B|M|E|S",
        "O|P|L",
        "O|OTHER|PER",
        "O|A|B|-",
        "outside|O|inside",
        "O|x|y|none of both",
    ],
)
def test_tags_of_the_known_schemes_and_plain_tags_are_not_asked_for(tags: str) -> None:
    assert tag_problems(tags) == []


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ("O|B_PER|I_PER|B_LOC", ["B_PER", "I_PER", "B_LOC"]),
        ("O|PER-B|PER-I", ["PER-B", "PER-I"]),
        ("O|b-PER|i-PER", ["b-PER", "i-PER"]),
        ("o|b-per|i-per", ["b-per", "i-per"]),
        ("O|B PER|I PER", ["B PER", "I PER"]),
        ("O|B.PER|I.PER", ["B.PER"]),
        ("O|B:PER|I:PER", ["B:PER"]),
        ("O|B/PER|I/PER", ["B/PER"]),
        ("O|PER_B|PER_I", ["PER_B"]),
        ("O|B_PER|B_LOC", ["B_PER", "B_LOC"]),
        ("O|B_PER|E_PER|S_PER", ["B_PER", "S_PER"]),
        ("O|B-PER|I_PER", ["I_PER"]),
        ("O|B_PER|I_PER|date", ["B_PER", "I_PER"]),
        ("O|B-PER|b-PER|I-PER", ["b-PER"]),
        ("O|BEGIN-PER|INSIDE-PER|BEGIN-LOC", ["BEGIN-PER", "BEGIN-LOC"]),
        ("O|Begin_PER|Inside_PER|date", ["Begin_PER", "Inside_PER"]),
        ("O|START-PER|END-PER|START-LOC", ["START-PER", "START-LOC"]),
        ("O|PER-start|PER-mid|PER-end", ["PER-mid"]),
        ("O|b|i", ["b", "i"]),
        ("O|B-PER|I-PER|b-per|i-per", ["b-per", "i-per"]),
    ],
)
def test_prefixes_that_are_written_otherwise_are_refused(tags: str, named: list[str]) -> None:
    said, *more = tag_problems(tags)
    assert (
        not more
        and "not of the form B-PER" in said
        and all(f'"{tag}" (2, first train.jsonl: line' in said for tag in named)
    )
    right = {"PER-start": "B-PER", "PER-end": "E-PER", "BEGIN-LOC": "B-LOC", "b": "B", "b-per": "B-per"}
    right |= {"b-per": "B-PER"} if "B-PER" in tags.split("|") else {}
    assert all(f'Write {right[tag]} for "{tag}"' in said for tag in [min(named)] if tag in right)
    assert "date" not in said and tag_problems(tags, allow=tags) == []


@pytest.mark.parametrize(
    ("tags", "part"),
    [
        ("O|B-|I-", "a prefix and no kind after it"),
        ("o|B-PER|I-PER", "a tag without one would be read as a kind of its own"),
        ("O|B-PER|I-PER|X", '"X"'),
        ("O|B-PER|I-PER|LOC", '"LOC"'),
        ("O|E-mail|phone", '"E-mail" (2, '),
        ("O|E-mail", "none that begins one"),
        ("O|B-PER|I-per", "kinds that differ in case"),
        ("O|B-PER|I-PER|B-Per", "kinds that differ in case"),
        ("O|PER|Per", "kinds that differ in case"),
        ("o|O|PER", "kinds that differ in case"),
        ("O|S|s|NOUN", "kinds that differ in case"),
        ("O|B-PER|-100", "often stands for a row without a label"),
        ("O|PER|None", "often stands for a row without a label"),
        ("O|PER|NaT", "often stands for a row without a label"),
        *((f"{tag}|PER|LOC", f'no O among the tags, and "{tag}" (2, ') for tag in ("o", "0", "_", "-", "OUT")),
        *((f"{tag}|PER|LOC", f'no O among the tags, and "{tag}" (2, ') for tag in ("Outside", "OTHER", "None", "o ")),
        ("O|B-PER|I-PER|U-LOC", 'tags of entities of one word ("U-LOC" (2, '),
        ("O|B-PER|M-PER|S-LOC", "no E- at the end of longer ones"),
    ],
)
def test_other_tags_that_would_be_misread(tags: str, part: str) -> None:
    [said] = tag_problems(tags)
    assert part in said and "train.jsonl: line" in said
    assert tag_problems(tags, allow=f"{tags}|PER|per|Per") == []


def test_several_tags_in_one_are_asked_for() -> None:
    tally = TagTally()
    tally.add(Path("train.jsonl"), "line 1", ["O", "B-PER|O", "I-PER|B-LOC", "B-a|b"])
    tally.add(Path("train.jsonl"), "line 2", ["I-a|b"])
    [said] = tally.problems(())
    assert 'tags that are several in one: "B-PER|O" (1, first train.jsonl: line 1), "I-PER|B-LOC" (1, ' in said
    assert "a|b" not in said and list(tally.problems(["B-PER|O", "I-PER|B-LOC"])) == []


def test_tags_are_asked_for_through_the_task_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"tokens": ["a", "b"], "tags": ["B_PER", "I_PER"]})
    with pytest.raises(DataError, match=r'"B_PER" \(1, first .*train\.jsonl: line 1\)'):
        prepare(FILES, tmp_path, TokenClassification().read)
    lines(tmp_path / "train.jsonl", {"tokens": ["a", "b"], "tags": ["O", ""]})
    with pytest.raises(DataError, match='line 1 "tags": word 1 has an empty tag; write O'):
        TokenClassification().read(tmp_path / "train.jsonl", Columns())
