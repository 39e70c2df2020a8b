"""Which pieces a tokenizer needs to have some of its own, from its rules alone."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from potstill.errors import ModelError
from potstill.students.pieces import kept_ids, with_pieces


def rules_of(model: Any, **changes: Any) -> dict[str, Any]:
    return json.loads(Tokenizer(model).to_str()) | changes


@pytest.mark.parametrize(("piece", "missing"), [("abc", "##c"), ("xb", "x"), ("##ca", "##c")])
def test_pieces_that_single_characters_could_not_spell_are_refused(piece: str, missing: str) -> None:
    """A word that holds one could be cut at another place, beyond which nothing fits."""
    pieces = ["a", "##a", "##b", "ab", "##bb", "[UNK]"]
    added = [{"id": 5, "content": "[UNK]"}]

    def rules(*more: str) -> dict[str, Any]:
        vocabulary = {piece: number for number, piece in enumerate([*pieces, *more])}
        return rules_of(models.WordPiece(vocabulary, unk_token="[UNK]"), added_tokens=added)

    assert kept_ids(rules(), []) == [0, 1, 2, 5]
    assert kept_ids(rules(), [3]) == [0, 1, 2, 3, 5]
    with pytest.raises(ModelError, match=f"has the piece '{piece}' and no '{missing}'"):
        kept_ids(rules(piece), [])


def test_a_piece_is_kept_with_all_that_it_is_joined_from() -> None:
    vocabulary = {piece: number for number, piece in enumerate(["a", "b", "c", "d", "bc", "abc", "ab", "abcd", "cd"])}
    merges = [("b", "c"), ("a", "bc"), ("a", "b"), ("abc", "d"), ("c", "d")]
    rules = rules_of(models.BPE(vocabulary, merges))
    kept = kept_ids(rules, [vocabulary["abcd"]])
    assert {piece for piece, number in vocabulary.items() if number in kept} == {*"abcd", "bc", "abc", "abcd"}
    model = with_pieces(rules, kept)["model"]
    assert model["merges"] == [["b", "c"], ["a", "bc"], ["abc", "d"]]
    assert model["vocab"] == {"a": 0, "b": 1, "c": 2, "d": 3, "bc": 4, "abc": 5, "abcd": 6}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            rules_of(models.WordLevel({"a": 0}, unk_token="a")),
            r"of the type WordLevel, which cannot be trimmed; known: ",
        ),
        (rules_of(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")), r"marks where words begin or end"),
    ],
)
def test_an_unknown_model_is_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        kept_ids(rules, [0])


def test_an_unknown_template_is_refused() -> None:
    rules = rules_of(models.BPE({"a": 0}, []), post_processor={"type": "Novel"})
    with pytest.raises(ModelError, match="ends with a Novel step"):
        with_pieces(rules, [0])
