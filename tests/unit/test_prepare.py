"""From files to splits: duplicates and near-copies out, shares that stay, every loss of rows counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.dialogue_rows import read_dialogues
from potstill.data.prepare import DataSettings, NearCopies, prepare
from potstill.data.rows import Row, read_rows
from potstill.data.splits import stable_fraction, stable_order
from potstill.errors import DataError
from potstill.tasks import CausalLM, TextClassification
from tests.unit.test_rows import lines

FAST = settings(max_examples=25, deadline=None, derandomize=True)


def corpus(tmp_path: Path, **files: list[dict[str, Any]]) -> None:
    for name, records in files.items():
        lines(tmp_path / f"{name}.jsonl", *records)


def row(text: str, label: str | None = "x", **more: Any) -> dict[str, Any]:
    return {"text": text, "label": label, **more}


FILES = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")


def test_held_out_rows_win_over_training_rows_and_labelled_rows_over_unlabelled(tmp_path: Path) -> None:
    corpus(
        tmp_path,
        test=[row("one"), row(" one\n")],
        validation=[row("two"), row("one")],
        train=[row("one"), row("two"), row("three", None), row("three"), row("four"), row("   "), row("...", "y")],
    )
    splits = prepare(FILES, tmp_path, read_rows)
    assert {name: [found.text for found in split.rows] for name, split in splits.items()} == {
        "test": ["one"],
        "validation": ["two"],
        "train": ["three", "four", "..."],
    }
    train = splits["train"]
    assert (train.read, train.blank_dropped, train.duplicates_dropped) == (7, 1, 3)
    assert (train.labelled, train.other_label_dropped) == (3, 0)


def test_a_copy_with_another_label_is_dropped_and_counted_apart(tmp_path: Path) -> None:
    corpus(
        tmp_path,
        test=[row("one", "x", id="t")],
        validation=[row("two")],
        train=[
            row("one", "y", id="a"),
            row("one", "x", id="b"),
            row("three", None, id="c"),
            row("three", "x", id="d"),
            row("three", "y", id="e"),
            row("Three", "y", id="f"),
            row("two", None, id="g"),
        ],
    )
    train = prepare(FILES, tmp_path, read_rows)["train"]
    assert [found.id for found in train.rows] == ["d", "f"]
    assert (train.duplicates_dropped, train.other_label_dropped) == (5, 2)
    assert [(copy.id, copy.of, copy.text) for copy in train.copies if copy.other_label] == [
        ("a", "t", "one"),
        ("e", "d", "three"),
    ]
    assert [(copy.id, copy.other_label) for copy in train.copies[2:]] == [("b", False), ("c", False), ("g", False)]


def test_validation_rows_that_nearly_copy_test_rows_are_dropped_and_hold_back_no_training_row(tmp_path: Path) -> None:
    text = [f"word{number}" for number in range(60)]
    steps = [" ".join(text + [f"more{number}" for number in range(count)]) for count in (0, 10, 20)]
    corpus(
        tmp_path,
        test=[row(steps[0], id="t")],
        validation=[row(steps[1], "y", id="v"), row("something else entirely")],
        train=[row(steps[2], id="a"), row("unrelated words"), row(steps[0] + " again", id="b")],
    )
    splits = prepare(FILES, tmp_path, read_rows)
    # `a` copies `v` alone, which is left out itself.
    assert [found.id for found in splits["train"].rows if found.id in "ab"] == ["a"]
    validation = splits["validation"]
    assert [found.text for found in validation.rows] == ["something else entirely"]
    assert (validation.near_copies_dropped, validation.other_label_dropped) == (1, 1)
    assert [(copy.id, copy.of) for copy in (*validation.copies, *splits["train"].copies)] == [("v", "t"), ("b", "t")]
    assert len(validation.copies[0].text) < 70


def test_conversations_that_share_a_system_turn_are_no_copies(tmp_path: Path) -> None:
    system = " ".join(f"rule{number}" for number in range(300))

    def chat(question: str, told: str = system) -> dict[str, Any]:
        turns = {"system": told, "user": question, "assistant": f"the answer to {question}"}
        return {"messages": [{"role": role, "content": content} for role, content in turns.items()]}

    questions = [f"how do I mend the {thing} that {who} broke" for thing in ("door", "lamp", "roof") for who in "abc"]
    corpus(
        tmp_path,
        # Too few to tell what held-out texts share.
        test=[chat(questions[0])],
        validation=[chat(questions[1])],
        train=[chat(question) for question in questions[2:]]
        + [chat(questions[0], f"{system} today"), chat(questions[0], "an article that is to be read")],
    )
    train = prepare(FILES, tmp_path, read_dialogues)["train"]
    # What is asked of another article is another question.
    assert (len(train.rows), train.near_copies_dropped) == (8, 1)
    assert train.rows[-1].messages[0].content == "an article that is to be read"


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
    with pytest.raises(DataError, match=r'id "a": in data\.test .*test\.jsonl: line 1\) and data\.train .*train'):
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
    corpus(tmp_path, test=[row("one")], validation=[row("two")], train=[row("one"), row("two"), row(" ")])
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


def test_conversations_of_which_other_turns_are_learnt_are_no_duplicates(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"messages": [*turns, turns[0], {**turns[1], "content": "Hello again"}]},
        *(
            {"messages": [turns[0], {**turns[1], "weight": w}, turns[0], {**turns[1], "content": "Hello again"}]}
            for w in (1, 0, 0)
        ),
        {"messages": [*turns, turns[0], {**turns[1], "content": "Hello again", "weight": 0}]},
    ]
    for name, row in {"test": "one", "validation": "another"}.items():
        lines(tmp_path / f"{name}.jsonl", {"prompt": row, "completion": "x"})
    lines(tmp_path / "train.jsonl", *rows)
    settings = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")
    train = prepare(settings, tmp_path, CausalLM().read)["train"]
    assert (len(train.rows), train.duplicates_dropped) == (3, 2)
    # Of what is held out no turn is learnt, whichever is judged.
    lines(tmp_path / "test.jsonl", rows[2])
    lines(tmp_path / "train.jsonl", *rows, {"messages": turns})
    train = prepare(settings.model_copy(update={"near_copies": None}), tmp_path, CausalLM().read)["train"]
    assert (len(train.rows), train.duplicates_dropped) == (1, 5)


def test_a_file_for_two_splits_is_read_once(tmp_path: Path) -> None:
    held = {"id": "t", "text": "four five six", "label": "x"}
    lines(tmp_path / "test.jsonl", held)
    lines(tmp_path / "validation.jsonl", held | {"id": "v", "text": "seven eight nine"})
    both = [{"text": "one two three", "label": "x"}, {"text": "ten eleven twelve", "label": "-1"}, {"body": "y"}]
    lines(tmp_path / "both.jsonl", *both)
    names = {"train": "both.jsonl", "validation": "validation.jsonl", "test": "test.jsonl", "adapt": "./both.jsonl"}
    with pytest.raises(DataError) as caught:
        prepare(DataSettings.model_validate(names), tmp_path, read_rows)
    bad, same, asked = str(caught.value).splitlines()
    assert "both.jsonl: line 3 has no" in bad and '"-1" in 1 of 4 labels' in asked
    assert same.startswith("data.adapt: ") and "both.jsonl is the file of data.train too" in same
    assert same.endswith("Name another one, or leave it out: the teacher is then adapted on train.")
    with pytest.raises(DataError, match=r"data\.validation: .* is the file of data\.test too.*or a share of train"):
        prepare(DataSettings.model_validate(names | {"validation": "test.jsonl"}), tmp_path, read_rows)


def test_a_share_that_takes_no_row_says_so(tmp_path: Path) -> None:
    corpus(tmp_path, train=[row("a b c"), row("d e f")], test=[row("g h i")])
    shares = DataSettings(train="train.jsonl", test="test.jsonl", validation=0.0001)
    with pytest.raises(DataError, match=r"validation: a share of 0\.0001 takes none of the 2 labelled rows of train"):
        prepare(shares, tmp_path, read_rows)


def test_a_split_of_near_copies_alone_names_what_keeps_them(tmp_path: Path) -> None:
    texts = [f"the {each} of this very long sentence is one and the same in all of them" for each in ("start", "begin")]
    corpus(
        tmp_path,
        test=[row(texts[0])],
        validation=[row("x y z")],
        train=[row(texts[0] + " now"), row(texts[0] + " then")],
    )
    with pytest.raises(
        DataError, match=r"0 usable rows \(2 read: 2 near-copies .* kept with data\.near_copies: null\.$"
    ):
        prepare(FILES.model_copy(update={"near_copies": NearCopies(jaccard=0.5)}), tmp_path, read_rows)
