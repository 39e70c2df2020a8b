"""Entities by their definition, and their F1 against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.measure import entities
from potstill.measure.entities import compare, entities_of, kinds_of

IOB = ["O", "B-x", "I-x", "B-y", "I-y"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-x", "I-x", "O", "B-x"], [("x", 0, 2), ("x", 3, 4)]),
        (["B-x", "B-x", "I-x"], [("x", 0, 1), ("x", 1, 3)]),
        (["I-x", "I-x", "I-y"], [("x", 0, 2), ("y", 2, 3)]),
        (["O", "I-x"], [("x", 1, 2)]),
        (["B-x", "I-x", "E-x", "S-x", "S-x"], [("x", 0, 3), ("x", 3, 4), ("x", 4, 5)]),
        (["B-x", "L-x", "U-y"], [("x", 0, 2), ("y", 2, 3)]),
        (["E-x", "I-x"], [("x", 0, 1), ("x", 1, 2)]),
        (["per", "per", "O", "place"], [("per", 0, 2), ("place", 3, 4)]),
        (["B-multi-part", "I-multi-part"], [("multi-part", 0, 2)]),
        (["B", "I", "I", "O", "B", "B"], [("span", 0, 3), ("span", 4, 5), ("span", 5, 6)]),
        (["B-x", "M-x", "E-x", "S-x"], [("x", 0, 3), ("x", 3, 4)]),
    ],
)
def test_schemes(tags: list[str], expected: list[tuple[str, int, int]]) -> None:
    assert entities_of(tags) == expected


@pytest.mark.parametrize(
    ("among", "tags", "expected"),
    [
        ("O P L", "P P O L", [("P", 0, 2), ("L", 3, 4)]),
        ("M N S", "M M N S S", [("M", 0, 2), ("N", 2, 3), ("S", 3, 5)]),
        ("B I X O", "B I O", [("B", 0, 1), ("I", 1, 2)]),
        ("E S O", "E S", [("E", 0, 1), ("S", 1, 2)]),
        ("O I", "I I O I", [("span", 0, 2), ("span", 3, 4)]),
        ("B M E S", "B M E S", [("span", 0, 3), ("span", 3, 4)]),
        ("B I L U O", "U B L O", [("span", 0, 1), ("span", 1, 3)]),
        # What a document lacks, others have.
        ("B I O P", "I I", [("I", 0, 2)]),
        ("O P B-x", "P B-x", [("P", 0, 1), ("x", 1, 2)]),
    ],
)
def test_letters_are_prefixes_where_all_tags_are(among: str, tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities_of(tags.split(), among.split()) == expected
    assert {kind for kind, _, _ in expected} <= set(kinds_of(among.split()))
    assert ("span" in kinds_of(among.split())) == (expected[0][0] == "span")


@given(st.lists(st.sampled_from(IOB), max_size=12))
def test_begin_and_inside_by_the_definition(tags: list[str]) -> None:
    starts = [
        place
        for place, tag in enumerate(tags)
        if tag[0] == "B" or (tag[0] == "I" and (place == 0 or tags[place - 1][2:] != tag[2:]))
    ]
    expected = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end] == "I-" + tags[start][2:]:
            end += 1
        expected.append((tags[start][2:], start, end))
    assert entities_of(tags) == expected


documents = st.lists(st.tuples(*(st.lists(st.sampled_from(IOB), min_size=6, max_size=6) for _ in range(2))), min_size=1)


@given(documents)
def test_scores_are_those_of_counting(pairs: list[tuple[list[str], list[str]]]) -> None:
    truth, said = ([entities_of(pair[side]) for pair in pairs] for side in (0, 1))
    weights = np.array([[1.0] * len(pairs), [2.0] + [0.0] * (len(pairs) - 1)])
    found = compare(truth, said)
    for resample, drawn in enumerate((range(len(pairs)), [0, 0])):
        there = [(n, e) for n, d in enumerate(drawn) for e in truth[d]]
        claimed = [(n, e) for n, d in enumerate(drawn) for e in said[d]]
        right = len([each for each in claimed if each in there])
        for of, total in ((entities.precision, len(claimed)), (entities.recall, len(there))):
            assert of(found, weights)[resample] == pytest.approx(right / total if total else 1.0)
        total = len(there) + len(claimed)
        assert entities.f1(found, weights)[resample] == pytest.approx(2 * right / total if total else 1.0)


def test_one_kind_alone() -> None:
    truth, said = [[("x", 0, 1), ("y", 1, 2)]], [[("x", 0, 1), ("y", 1, 3)]]
    assert compare(truth, said, "x").right.tolist() == [1] and compare(truth, said, "y").right.tolist() == [0]
    assert kinds_of(["O", "B-y", "I-x", "per"]) == ["per", "x", "y"]
