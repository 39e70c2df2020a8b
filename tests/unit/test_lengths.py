"""Queries of a set length, against what the rows say one after the other."""

from collections.abc import Callable, Sequence
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from potstill.errors import DataError
from potstill.evaluation.speed_points import queries_of_length
from tests.conftest import FILLERS
from tests.gguf_models import byte_tokenizer
from tests.pair_models import pair_tokenizer

TEXTS = ["w1 apple", "the iron  door, tin", "w2", "pear w3 wolf w4 zinc w5 bear w6 lynx w7 plum w8", "[SEP] w9 </s>"]
LONG = 40


def in_turn(rows: Sequence[Any], start: int) -> list[Any]:
    """The rows from one on, over and over."""
    return list(islice(cycle(rows), start, start + LONG))


@pytest.fixture(params=["words", "pieces", "bytes", "t5"])
def tokenizer(
    request: pytest.FixtureRequest, teacher_folder: Path, spelling_teacher_folder: Path
) -> PreTrainedTokenizerBase:
    made: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
        "words": lambda: AutoTokenizer.from_pretrained(teacher_folder),
        "pieces": lambda: AutoTokenizer.from_pretrained(spelling_teacher_folder),
        "bytes": lambda: byte_tokenizer(begins=True),
        "t5": lambda: pair_tokenizer("t5"),
    }
    return made[request.param]()


@pytest.mark.parametrize("length", [4, 7, 24, 61])
def test_texts_are_cut_or_joined_with_those_after_them(tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    found = queries_of_length("texts", TEXTS, tokenizer, length)
    assert len(found) == len(TEXTS)
    for start, text in enumerate(found):
        endless = " ".join(in_turn(TEXTS, start))
        assert endless.startswith(text)
        assert len(tokenizer(text, split_special_tokens=True)["input_ids"]) == length
        # One character more may be part of its last token, and one word more is none.
        assert len(tokenizer(f"{text} w1", split_special_tokens=True)["input_ids"]) > length
    assert len({tuple(tokenizer(text)["input_ids"]) for text in found}) > 1


def test_a_text_that_is_as_long_is_left_as_it_is(teacher_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    assert queries_of_length("texts", ["w1 w2", "w3 w4 w5"], tokenizer, 4) == ["w1 w2", "w3 w4 "]
    # None goes on with itself while there is another.
    assert queries_of_length("texts", ["w1 w2", "w3 w4 w5"], tokenizer, 7) == ["w1 w2 w3 w4 w5", "w3 w4 w5 w1 w2"]
    assert queries_of_length("texts", ["w1 w2"], tokenizer, 7) == ["w1 w2 w1 w2 w1 "]


@pytest.mark.parametrize("length", [6, 13, 40])
def test_of_pairs_the_first_text_has_half_of_the_tokens(teacher_folder: Path, length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    pairs = [[one, other] for one, other in zip(TEXTS, reversed(TEXTS), strict=True)]
    for start, (first, second) in enumerate(queries_of_length("texts", pairs, tokenizer, length)):
        assert " ".join(in_turn(TEXTS, start)).startswith(first)
        assert " ".join(in_turn(TEXTS[::-1], start)).startswith(second)
        assert len(tokenizer(first, split_special_tokens=True)["input_ids"]) == length // 2
        assert len(tokenizer(first, second, split_special_tokens=True)["input_ids"]) == length


@pytest.mark.parametrize("length", [4, 9, 30])
@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_documents_are_cut_or_joined_word_by_word(
    teacher_folder: Path, spelling_teacher_folder: Path, kind: str, length: int
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder if kind == "words" else spelling_teacher_folder)
    documents = [["unheardof", "w1"], ["w2"], [*FILLERS[5:20], "neverseen"]]
    cut = 0
    for start, words in enumerate(queries_of_length("documents", documents, tokenizer, length)):
        endless = list(chain.from_iterable(in_turn(documents, start)))
        assert words[:-1] == endless[: len(words) - 1] and endless[len(words) - 1].startswith(words[-1])
        assert all(words)
        cut += words[-1] != endless[len(words) - 1]
        assert len(tokenizer(words, is_split_into_words=True)["input_ids"]) == length
    # A word of one token is whole or not there.
    assert cut > 0 or kind == "words"


@pytest.mark.parametrize("length", [1, 3, 4, 11])
def test_prompts_are_the_first_ids_of_those_in_turn(length: int) -> None:
    prompts = [(1, 2, 3), (4,), (5, 6, 7, 8, 9)]
    found = queries_of_length("prompts", prompts, byte_tokenizer(), length)
    assert found == [list(chain.from_iterable(in_turn(prompts, start)))[:length] for start in range(len(prompts))]


def test_rows_without_tokens_make_no_query(teacher_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    for form, rows in (("texts", ["", " "]), ("documents", [[], []]), ("prompts", [(), ()])):
        with pytest.raises(DataError, match="no query of 9 tokens can be made of rows that have none"):
            queries_of_length(form, rows, tokenizer, 9)
    # One of them is enough, even for many tokens, of which it has as few as can be.
    assert queries_of_length("texts", ["", "w1"], tokenizer, 9) == [" w1" + "  w1" * 6, "w1" + "  w1" * 6]


def test_where_a_character_is_several_tokens_a_query_may_lack_some() -> None:
    tokenizer = byte_tokenizer()
    for length in range(1, 12):
        (found,) = queries_of_length("texts", ["w1 🦊 naïve 🦊🦊 w2"], tokenizer, length)
        tokens = len(tokenizer(found)["input_ids"])
        assert length - 3 <= tokens <= length
        following = "w1 🦊 naïve 🦊🦊 w2 "[len(found) : len(found) + 1]
        assert tokens == length or len(following.encode()) > 1
