"""Perturbations: the same for the same row, valid text whatever comes in, and as strong as they say."""

import random
import re
import unicodedata
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.perturbations import NAMES, PERTURBATIONS, SEVERITIES, Severity, perturbed
from potstill.perturbations.characters import (
    CONFUSIONS,
    NEIGHBOURS,
    Change,
    CharacterChanges,
    look_alikes,
    misread,
    other_case,
    other_punctuation,
    other_space,
    typos,
    with_changes,
    word_changes,
)
from potstill.perturbations.length import AFTER, BEFORE

TEXT = "This file, which you may copy, is licensed under the MIT License; see LICENSE for its 3 clauses. No warranty!"
KEYS = [f"row-{number}" for number in range(300)]


def is_sign(text: str, char: str) -> bool:
    return unicodedata.category(char).startswith("P") and text.strip() != char


CAN_CHANGE: dict[str, Callable[[str], bool]] = {
    "keyboard": lambda text: any(char.isalnum() for char in text),
    "ocr": lambda text: any(each in text for each in CONFUSIONS),
    "case": lambda text: any(word != word.lower() or word != word.upper() for word in text.split()),
    "white_space": lambda text: any(char.isspace() for char in text),
    "punctuation": lambda text: any(char.isalnum() or is_sign(text, char) for char in text),
    "look_alikes": lambda text: any("!" <= char <= "~" for char in text),
    "truncation": lambda text: len(text.lstrip()) > 1 and bool(text.strip()),
    "boilerplate_before": bool,
    "boilerplate_after": bool,
}


def test_each_perturbation_has_its_name() -> None:
    assert tuple(each.name for each in PERTURBATIONS) == NAMES
    assert set(CAN_CHANGE) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_depends_on_row_name_and_severity_alone(name: str) -> None:
    first = {(key, severity): perturbed(TEXT, name, severity, key) for key in KEYS[:9] for severity in SEVERITIES}
    random.seed(5)
    again = {pair: perturbed(TEXT, name, pair[1], pair[0]) for pair in reversed(first)}
    assert again == first
    if name != "truncation":
        assert len({first[key, 2] for key in KEYS[:9]}) > 3, "every row has the same"


# Fixed, so that a text whose draw has changed is told from one that is another on another machine.
def test_what_is_drawn_is_the_same_on_every_machine() -> None:
    assert perturbed("one two three four", "keyboard", 1, "a") == "one two tgree four"
    assert perturbed("one two three four", "truncation", 2, "a") == "one two"


@given(text=st.text(), severity=st.sampled_from(SEVERITIES), key=st.text(max_size=3))
def test_any_text_becomes_another_valid_one_where_it_can(text: str, severity: Severity, key: str) -> None:
    for name in NAMES:
        result = perturbed(text, name, severity, key.encode(errors="replace").decode())
        assert result.encode().decode() == result
        assert bool(result.strip()) or not text.strip(), f"{name} leaves nothing"
        assert bool(result) == bool(text)
        assert (result != text) == CAN_CHANGE[name](text), (name, text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "I",
        "🦊",
        "\x00",
        "\x1b[31m",
        "  ",
        "a ",
        "!",
        "! ",
        "ß",
        "ŉ",
        "ﬁ",
        "e\u0301",
        "\u202egnp",
        "_",
        "a_",
        "漢字",
        "_ _",
    ],
)
def test_small_and_strange_texts(text: str) -> None:
    for name in NAMES:
        for severity in SEVERITIES:
            for key in KEYS[:20]:
                result = perturbed(text, name, severity, key)
                assert (result != text) == CAN_CHANGE[name](text), (name, text, result)
                assert result.strip() or not text.strip()


@pytest.mark.parametrize(("severity", "changed"), [(1, 4), (2, 10), (3, 20)])
def test_so_many_characters_change(severity: Severity, changed: int) -> None:
    text = "abcde fghi" * 20
    for key in KEYS[:9]:
        result = perturbed(text, "look_alikes", severity, key)
        assert sum(a != b for a, b in zip(text, result, strict=True)) == changed


@pytest.mark.parametrize(("severity", "changed"), [(1, 4), (2, 10), (3, 20)])
def test_so_many_spaces_and_word_ends_change(severity: Severity, changed: int) -> None:
    text = " ".join(f"w{number:02}w" for number in range(41))
    for key in KEYS[:9]:
        spaced = perturbed(text, "white_space", severity, key)
        between = re.findall(r"w\d\dw(\s*)", spaced)[:-1]
        assert sum(space != " " for space in between) == changed
        assert "".join(spaced.split()) == "".join(text.split())
    text = " ".join(["word"] * 40)
    signed = perturbed(text, "punctuation", severity, "a")
    assert sum(word != "word" for word in signed.split()) == changed
    assert re.sub(r"[,.;:!?-]", "", signed) == text


@pytest.mark.parametrize(("severity", "changed"), [(1, 10), (2, 20), (3, 40)])
def test_so_many_words_change_their_case(severity: Severity, changed: int) -> None:
    text = " ".join(["Word"] * 40)
    result = perturbed(text, "case", severity, "a")
    assert sum(word != "Word" for word in result.split()) == changed
    assert result.lower() == text.lower()
    if severity == 3:
        assert {"word", "WORD"} < set(result.split())


@pytest.mark.parametrize(("severity", "left", "letters"), [(1, 30, 6), (2, 20, 4), (3, 10, 2)])
def test_the_end_is_cut_away(severity: Severity, left: int, letters: int) -> None:
    words = [f"w{number}" for number in range(40)]
    assert perturbed("  ".join(words), "truncation", severity, "a") == "  ".join(words[:left])
    assert perturbed(" abcdefgh ", "truncation", severity, "a") == " " + "abcdefgh"[:letters]
    assert perturbed("one two", "truncation", severity, "a") == "one"


@pytest.mark.parametrize(("severity", "count"), [(1, 1), (2, 3), (3, 6)])
def test_boilerplate_stands_before_or_after_the_whole_text(severity: Severity, count: int) -> None:
    *before, last = perturbed("the text", "boilerplate_before", severity, "a").split("\n")
    first, *after = perturbed("the text", "boilerplate_after", severity, "a").split("\n")
    assert first == last == "the text"
    for sentences, known in ((before, BEFORE), (after, AFTER)):
        assert len(sentences) == len(set(sentences)) == count and set(sentences) <= set(known)


def test_keys_beside_each_other() -> None:
    assert set(NEIGHBOURS["g"]) == set("tyfhvb") and set(NEIGHBOURS["a"]) == set("qwsz")
    assert set(NEIGHBOURS["P"]) == set("OL0") and set(NEIGHBOURS["1"]) == set("2q")
    for key, near in NEIGHBOURS.items():
        assert key not in near
        assert all(key.lower() in NEIGHBOURS[other.lower()] for other in near)


def instead(changes: list[Change]) -> set[tuple[int, int, str]]:
    return {tuple(change) for change in changes}  # type: ignore[misc]


def test_all_slips_of_one_character() -> None:
    assert instead(typos("abc", 1, 2)) == {
        (1, 2, "bb"),
        (1, 2, ""),
        (1, 3, "cb"),
        *((1, 2, key) for key in "vghn"),
    }
    # The last has no next, equal ones cannot be swapped, and a single character is never left out.
    assert (2, 4, "bc") not in instead(typos("abc", 2, 3)) and len(typos("abc", 2, 3)) == 2 + len(NEIGHBOURS["c"])
    assert (0, 2, "aa") not in instead(typos("aa", 0, 1))
    assert (1, 2, "") not in instead(typos(" a ", 1, 2)) and (0, 1, "") in instead(typos("ab", 0, 1))
    assert instead(typos("ж!", 0, 1)) == {(0, 1, "жж"), (0, 1, "")}


def test_what_a_scan_takes_for_each_other() -> None:
    assert {other for *_, other in misread("l", 0, 1)} == {"1", "I", "|"}
    assert {other for *_, other in misread("barn", 2, 4)} == {"m"}
    assert {other for *_, other in misread("m", 0, 1)} == {"rn", "nn"}
    assert all(one in CONFUSIONS[other] for one, others in CONFUSIONS.items() for other in others)


def test_other_cases_spaces_signs_and_forms() -> None:
    assert {other for *_, other in other_case("see It", 4, 6)} == {"it", "IT", "iT"}
    assert {other for *_, other in other_case("it", 0, 2)} == {"IT", "iT"}
    assert other_case("12", 0, 2) == []
    assert {other for *_, other in other_space("a b", 1, 2)} == {"  ", "\t", "\n", ""}
    assert {other for *_, other in other_space("\t", 0, 1)} == {"\t\t", "\n"}
    assert instead(other_punctuation("a!", 1, 2)) == {(1, 2, "")}
    assert other_punctuation(" ! ", 1, 2) == [] and other_punctuation("a+", 1, 2) == []
    assert {other for *_, other in other_punctuation("ab", 1, 2)} == {f"b{sign}" for sign in ",.;:!?-"}
    assert {other for *_, other in look_alikes("o1", 0, 1)} == {"\u043e", "\u03bf", "\uff4f"}
    assert {other for *_, other in look_alikes("o1", 1, 2)} == {"\uff11"}


def test_look_alikes_are_letters_of_other_scripts_of_the_same_case() -> None:
    for char in map(chr, range(ord("!"), ord("~") + 1)):
        *alike, wide = (change.instead for change in look_alikes(char, 0, 1))
        assert unicodedata.normalize("NFKC", wide) == char
        for other in alike:
            assert len(other) == 1 and not other.isascii() and other.isupper() == char.isupper()
            assert unicodedata.name(other).split()[0] in {"CYRILLIC", "GREEK", "ARMENIAN"}


def test_changes_that_undo_each_other_or_leave_nothing_are_not_made_together() -> None:
    for key in KEYS:
        assert perturbed("a" * 20, "keyboard", 3, key) != "a" * 20
        assert perturbed("a" + " " * 30 + "b", "keyboard", 3, key).strip()


def test_changes_do_not_overlap() -> None:
    def swaps(text: str, start: int, end: int) -> list[Change]:
        return [Change(start, end + 1, text[end] + text[start])] if end < len(text) else []

    swapping = CharacterChanges("swaps", re.compile("[a-z]"), swaps, (1.0, 1.0, 1.0))
    for key in KEYS[:50]:
        result = swapping.apply("abcdefghijkl", 1, Random(key))
        assert sorted(result) == list("abcdefghijkl")
        # Where one place is taken another one is, as long as there are any.
        moved = sum(a != b for a, b in zip("abcdefghijkl", result, strict=True))
        assert moved >= 8


def test_places_without_a_change_do_not_count() -> None:
    """Of many words two have a case; a share of all words takes both."""
    for key in KEYS[:30]:
        assert perturbed("12 " * 20 + "ab cd", "case", 3, key).endswith(("AB CD", "AB cD", "aB CD", "aB cD"))
        assert perturbed("12 " * 20 + "ab", "case", 1, key) != "12 " * 20 + "ab"


def test_changes_stand_in_their_places() -> None:
    assert with_changes("abcdef", [Change(4, 5, "E!"), Change(0, 2, "")]) == "cdE!f"
    assert with_changes("abc", []) == "abc"


def test_changes_of_a_word_are_each_another_word() -> None:
    found = list(word_changes("ab"))
    assert len(found) == len(set(found)) and "ab" not in found and "" not in found
    assert {"ba", "a", "b", "aab", "abb", "qb", "av", "\u0430b", "a\uff42"} <= set(found)
    assert list(word_changes("漢")) == ["漢漢"]
