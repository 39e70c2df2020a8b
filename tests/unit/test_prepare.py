"""From files to splits: duplicates and near-copies out, shares that stay, every loss of rows counted."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.dialogues import read_dialogues
from potstill.data.near_copies import HeldOut, Readings, same_text_key, tokens, words, words_alone
from potstill.data.prepare import DataSettings, prepare
from potstill.data.rows import Row, read_rows
from potstill.data.splits import stable_fraction, stable_order
from potstill.errors import DataError
from potstill.tasks import CausalLM, TextClassification
from tests.unit.test_rows import lines

FAST = settings(max_examples=25, deadline=None, derandomize=True)


def runs(items: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(items[start : start + size]) for start in range(max(1, len(items) - size + 1))}


def brute_force(texts: list[str], held_out: list[str], share: Fraction, size: int) -> dict[int, int]:
    """All pairs, by the definition: words here are letters, commas are punctuation, and a plus is not."""

    def letters_of(text: str) -> list[str]:
        return [item for item in text.split() if item not in "+,"]

    def near(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> bool:
        return one == other or Fraction(len(one & other), len(one | other)) >= share

    def is_long(text: str) -> bool:
        return (len(letters_of(text)) - size + 1) * (1 - share) >= size * (1 + share)

    def by_words(text: str) -> set[tuple[str, ...]]:
        return (runs(letters_of(text), size) if letters_of(text) else set()) - shared

    def by_tokens(text: str) -> set[tuple[str, ...]]:
        return (runs(text.split(), size) if letters_of(text) and not is_long(text) else set()) - shared

    def alike(text: str, other: str) -> bool:
        if text == other:
            return True
        if not by_words(text) or not near(by_words(text), by_words(other)):
            return False
        if is_long(text) or is_long(other) or near(by_tokens(text), by_tokens(other)):
            return True
        few, many = sorted(("".join(item for item in each.split() if item in "+,") for each in (text, other)), key=len)
        # All ways to leave out commas.
        left = {"".join(signs) for signs in combinations(many, len(few))}
        return few in left and few.count("+") == many.count("+")

    shared: set[tuple[str, ...]] = set()
    counts = Counter(shingle for text in held_out for shingle in by_words(text) | by_tokens(text))
    shared = {each for each, count in counts.items() if count >= 3 and count > len(held_out) / 2}
    found = ((number, [alike(text, other) for other in held_out]) for number, text in enumerate(texts))
    return {number: pairs.index(True) for number, pairs in found if any(pairs)}


def near(
    texts: Sequence[Readings], held_out: Sequence[Readings], jaccard: float = 0.8, size: int = 5
) -> dict[int, int]:
    return HeldOut(held_out, jaccard=jaccard, shingle_words=size).copies(texts)


WORDS = st.lists(st.sampled_from("abcd+,"), min_size=1, max_size=14).map(" ".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    texts=st.lists(WORDS, max_size=8),
    held_out=st.lists(WORDS, max_size=8),
    share=st.sampled_from([(1, 2), (11, 20), (3, 5), (7, 10), (4, 5), (1, 1), (1, 10)]),
    size=st.integers(1, 3),
)
def test_near_copies_are_those_of_a_comparison_of_all_pairs(
    texts: list[str], held_out: list[str], share: tuple[int, int], size: int
) -> None:
    found = near(texts, held_out, share[0] / share[1], size)
    assert found == brute_force(texts, held_out, Fraction(*share), size)


@pytest.mark.parametrize(("common", "union"), [(11, 20), (7, 10), (14, 25), (29, 50), (57, 100)])
def test_a_share_that_is_just_reached_counts(common: int, union: int) -> None:
    held_out = " ".join(f"w{number}" for number in range(union))
    text = " ".join(f"w{number}" for number in range(common))
    assert near([text], [held_out], common / union, 1) == {0: 0}
    assert near([text], [held_out], (common + 1) / union, 1) == {}


def test_what_splits_a_file_reads_words_of_every_alphabet_alone() -> None:
    # A row must not change sides, so neither may this.
    assert words_alone("  Héllo,\tWORLD!\n日本 42 ") == "héllo world 日本 42"
    assert words_alone("की a+b 👍") == "क a b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("return a + b", "return a - b"),
        ("C++", "C#"),
        ("meal price 👍", "meal price 👎"),
        ("a * b", "a ** b"),
        ("कि", "का"),
        ("who are you?", "who are you!"),
        ("x²", "x2"),
        ("US", "us"),
        ("👩\u200d💻", "👨\u200d💻"),
        ("क्ष", "क्\u200dष"),
        ("x < y", "x <= y"),
        ("meal price", "meal price 👍"),
        ("a + b - c", "a - b + c"),
        ("f(x)", "f[x]"),
    ],
)
def test_a_text_is_another_where_any_character_is(one: str, other: str) -> None:
    assert same_text_key(one) != same_text_key(other)
    # Case alone makes no other test question.
    assert bool(near([one], [other])) == (one.lower() == other.lower())


def test_a_text_is_the_same_however_it_is_spaced_and_its_accents_are_encoded() -> None:
    assert same_text_key(" caf\u00e9\n au\u00a0lait ") == same_text_key("cafe\u0301 au lait")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return a**b // c != d_1", ["return", "a", "**", "b", "//", "c", "!=", "d_1"]),
        ("ok 👩\u200d💻 ❤\ufe0f!! 👍", ["ok", "👩\u200d", "💻", "❤\ufe0f", "!!", "👍"]),
        ("किताब की", ["किताब", "की"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("สวัสดี ab", ["ส", "วั", "ส", "ดี", "ab"]),
        ("你好,世界 42 𠀀", ["你", "好", ",", "世", "界", "42", "𠀀"]),
        ("---- Déjà vu ----", ["----", "déjà", "vu", "----"]),
        ("Z\u0335\u0321 z", ["z\u0335\u0321", "z"]),
    ],
)
def test_tokens_are_words_with_their_marks_and_all_other_signs(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected
    assert words(text) == [each for each in expected if each[0].isalnum() or each[0] == "_"]


def test_a_sentence_without_spaces_is_compared_by_its_characters() -> None:
    chinese = "这份软件是自由软件您可以按照自由软件基金会发布的通用公共许可证条款重新分发或修改它"
    assert near([chinese.replace("份", "个"), "完全不同的句子讲的是今天的天气很好我们去公园散步吧"], [chinese]) == {
        0: 0
    }


def test_a_long_text_that_is_quoted_or_a_comment_is_a_copy_and_one_with_other_operators_is_not() -> None:
    words_of_it = [f"word{number}" for number in range(80)]
    lines_of_it = [" ".join(words_of_it[start : start + 8]) for start in range(0, 80, 8)]
    comment = "".join(f" * {line};\n" for line in lines_of_it)
    assert near([comment], ["\n".join(lines_of_it)]) == {0: 0}
    sums = [f"def combine_{name}(price, total):\n    return price {sign} total" for name in "ab" for sign in "+-*/%"]
    assert near(sums[1:], sums[:1]) == {}


@pytest.mark.parametrize("other", ["# why is it, so slow", "Why is it so slow?", "(why is it so - slow!)"])
def test_a_short_text_with_more_punctuation_is_a_copy(other: str) -> None:
    assert near([other], ["why is it so slow"]) == near(["why is it so slow"], [other]) == {0: 0}


def test_texts_without_a_word_are_no_copies_of_each_other() -> None:
    held_out = ["???", "👍", "....", "-> !"]
    assert near(["!!!", "👎", "👍👍", "-> ?", "👍"], held_out) == {4: 1}


def test_what_most_held_out_texts_share_makes_no_copies() -> None:
    rules = " ".join(f"rule{number} says what to do" for number in range(200))
    rows = [
        f"{rules} question{number} about thing{number} number{number} of{number} all{number}" for number in range(12)
    ]
    assert near(rows[4:], rows[:4]) == {}
    # A copy of what is their own is one all the same, and so is the whole text.
    assert near([rows[2] + " please", rows[1]], rows[:4]) == {0: 2, 1: 1}
    # Of two nobody knows whether they share a rule or are copies.
    assert near(rows[4:6], rows[:2]) == {0: 0, 1: 0}


def test_one_held_out_text_that_leaked_into_most_rows_is_found_in_all_of_them() -> None:
    own = [" ".join(f"text{number}word{place}" for place in range(60)) for number in range(5)]
    leaked = [f"{own[3]} and{number} more{number}" for number in range(50)]
    assert near(leaked, own) == dict.fromkeys(range(50), 3)


def test_a_copy_is_one_in_each_reading_that_says_anything() -> None:
    article = " ".join(f"word{number}" for number in range(60))
    other = " ".join(f"other{number}" for number in range(60))
    held_out = [("summarise this", f"{article} summarise this"), ("", article)]
    texts = [
        ("summarise this", f"{other} summarise this"),
        ("who wrote this", f"{article} who wrote this"),
        ("summarise this", f"{article} more summarise this"),
        ("", f"{article} more"),
    ]
    assert near(texts, held_out) == {2: 0, 3: 1}


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
    said = str(caught.value).splitlines()
    assert len(said) == 2 and "both.jsonl: line 3 has no" in said[0] and '"-1" in 1 of 4 labels' in said[1]
    lines(tmp_path / "both.jsonl", both[0], {**both[1], "label": "y"})
    with pytest.raises(DataError, match=r"data\.adapt: 0 usable rows \(2 read: 2 duplicates\)"):
        prepare(DataSettings.model_validate(names), tmp_path, read_rows)
