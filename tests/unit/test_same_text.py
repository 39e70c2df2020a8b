"""When two texts are the same, and when one nearly copies another."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.near_copies import HeldOut, Readings, same_text_key, tokens, words, words_alone

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


LOOP = "for each in found:\n    take(each)\n{}show(each)\nend()"


def test_what_is_in_a_loop_and_what_comes_after_it_are_two_texts() -> None:
    inside, after = LOOP.format("    "), LOOP.format("")
    assert same_text_key(inside) != same_text_key(after)
    assert near([inside], [after]) == {}


@pytest.mark.parametrize(
    "other",
    [
        LOOP.format("  ").replace("    ", "  "),
        LOOP.format("\t").replace("    ", "\t"),
        "\n".join("  " + line for line in LOOP.format("    ").split("\n")),
        LOOP.format("    ").replace("\n", "\n\n  \n"),
    ],
    ids=["two spaces", "tabs", "all of it", "empty lines"],
)
def test_how_far_code_is_indented_makes_no_other_text(other: str) -> None:
    text = LOOP.format("    ")
    assert same_text_key(text) == same_text_key(other)
    assert near([text], [other]) == {0: 0}


def test_a_text_of_characters_that_nobody_sees_has_no_words() -> None:
    assert words("\u200b\u2060") == tokens("\ufeff") == []
    assert near(["\u200b"], ["\u2060"]) == {}


def test_lines_that_are_not_indented_are_the_same_however_they_are_broken() -> None:
    assert same_text_key("one two\nthree") == same_text_key("one\ntwo three") == "one two three"


@pytest.mark.parametrize(
    "other",
    [
        "It\u2019s a \u201cgood\u201d film \u2014 the best of them all",
        'It\'s a "good" film - the b\u00adest of them a\u200bll',
        '\uff29\uff54\u2019s a "good" film - the best of them all',
        "It&#39;s a &quot;good&quot; film - the best of them all",
        'It\'s a "good" film - the best<br /><br />of them all',
    ],
    ids=["quotes and dashes", "soft hyphens", "full width", "entities", "breaks"],
)
def test_what_copying_changes_in_a_text_makes_a_near_copy(other: str) -> None:
    text = 'It\'s a "good" film - the best of them all'
    assert near([text], [other]) == {0: 0}
    assert same_text_key(text) != same_text_key(other)
